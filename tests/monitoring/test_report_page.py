"""The report's page: its figures and charts, its HTML, a browser's layout, what is not in it."""

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tinyhtml5
from tinyhtml5.parser import HTMLParser

from hybrid_detect.monitoring.report import make_report
from hybrid_detect.monitoring.report_json import report_json
from hybrid_detect.monitoring.report_page import _amount, _percent, _seconds, _size, report_page
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.usage import UsageKey, UsageRow

from .simulated_week import MONDAY, WEEK_S, keep, simulate

NOW_S = MONDAY.timestamp() + WEEK_S
HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("week") / "costs.db"
    keep(simulate(frames_an_hour=40), path)
    return path


@pytest.fixture(scope="module")
def told(path: Path) -> dict[str, Any]:
    with CostStore(path, clock=lambda: NOW_S) as store:
        return report_json(make_report(store.rows(), store.usage(), now_s=NOW_S))


@pytest.fixture(scope="module")
def page(told: dict[str, Any]) -> str:
    return report_page(told, title="The <door> & more")


def one_frame() -> dict[str, Any]:
    key = UsageKey(490_000, "", "", "", "outcome", "device", "answered")
    rows = [
        UsageRow(key, 1),
        UsageRow(key._replace(measure="latency", label="-20"), 1),
        UsageRow(key._replace(measure="confidence", label="none"), 1),
        UsageRow(key._replace(measure="reason", label="first choice"), 1),
    ]
    return report_json(make_report([], rows, now_s=NOW_S))


def figures(page: str) -> list[tuple[str, str, str]]:
    """Path, value and text of each figure."""
    found = re.findall(r'<data data-figure="([^"]+)" value="([^"]*)">([^<]*)</data>', page)
    assert len(found) == page.count("<data ")
    return [(path, value, html.unescape(text)) for path, value, text in found]


def at(told: Any, path: str) -> Any:
    for part in path.split("."):
        told = told[int(part) if isinstance(told, list) else part]
    return told


def test_every_figure_is_that_of_the_json(page: str, told: dict[str, Any]) -> None:
    """Which `test_report` counts again from the events."""
    found = figures(page)
    assert len(found) > 250
    for path, value, text in found:
        expected = at(told, path)
        assert value == ("" if expected is None else str(expected)), path
        if isinstance(expected, int) and path.endswith(("frames", "answered", "count", "judged")):
            assert text == f"{expected:,}", path
    texts = {path: text for path, _, text in found}
    assert texts["success_rate"] == _percent(told["success_rate"])
    assert texts["latency.p90_s"] == _seconds(told["latency"]["p90_s"])
    assert texts["spending.bytes_sent"] == _size(told["spending"]["bytes_sent"])
    for each in ("frames", "failed", "switches.count", "feedback.judged", "compared.frames"):
        assert each in texts
    for place in range(len(told["steps"])):
        assert f"steps.{place}.latency.p99_s" in texts


def test_no_number_stands_outside_of_a_figure_but_labels_and_sums(page: str) -> None:
    body = page[page.index("<body>") :]
    body = re.sub(r"<svg.*?</svg>|<data.*?</data>|<th.*?</th>|<footer.*", "", body, flags=re.DOTALL)
    body = re.sub(r"<tfoot>.*?</tfoot>|<header>.*?</header>", "", body, flags=re.DOTALL)
    left = set(re.findall(r"\d+(?:[.,]\d+)*", html.unescape(re.sub(r"<[^>]*>", " ", body))))
    # The hour that is busiest, "1,000 frames", "90 %", "p50", "within 200 ms".
    assert left <= {"50", "90", "99", "200", "1,000", *(f"{hour:02}" for hour in range(25))}, left


def test_the_charts_show_the_figures(page: str, told: dict[str, Any]) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = [re.search(r'aria-label="([^"]*)"', chart)[1] for chart in charts]  # type: ignore[index]
    assert len(titles) == len(set(titles)) == 7
    by_title = dict(zip(titles, charts, strict=True))

    def values(title: str) -> list[str]:
        return [
            html.unescape(text)
            for text in re.findall(r'<desc class="value">([^<]*)</desc>', by_title[title])
        ]

    steps = told["steps"]
    assert values("Success rate over time") == [_percent(step["success_rate"]) for step in steps]
    assert values("Bytes sent over time") == [
        _size(step["spending"]["bytes_sent"]) for step in steps
    ]
    assert values("Frames over time") == [
        f"{step[name]:,}" for name in ("answered", "failed", "left_out") for step in steps
    ]
    assert values("Answers by backend over time") == [
        f"{step['answers'].get(name, 0):,}"
        for name in ("cloud", "streaming", "device")
        for step in steps
    ]
    assert values("Time to an answer over time") == [
        _seconds(step["latency"][name]) for name in ("p50_s", "p90_s", "p99_s") for step in steps
    ]


def test_the_axis_of_a_single_frame_has_whole_numbers_alone() -> None:
    page = report_page(one_frame())
    (chart,) = re.findall(r'<svg[^>]*aria-label="Frames over time".*?</svg>', page, re.DOTALL)
    axis = re.search(r'<g class="axis y.*?</g></g>', chart, re.DOTALL)
    assert axis is not None
    assert sorted(filter(None, re.findall(r"<text[^>]*>([^<]*)<", axis[0]))) == ["0", "1"]
    assert "Bytes sent over time" not in page


@pytest.mark.parametrize("kind", ["week", "one frame", "nothing", "hours", "months"])
def test_the_html_is_valid(kind: str, page: str, path: Path, told: dict[str, Any]) -> None:
    if kind == "one frame":
        page = report_page(one_frame())
    elif kind == "nothing":
        page = report_page(report_json(make_report([], [], now_s=NOW_S)))
        assert "Nothing happened" in page
    elif kind in {"hours", "months"}:
        with CostStore(path, clock=lambda: NOW_S) as store:
            first = MONDAY.date() if kind == "hours" else MONDAY.date().replace(month=1)
            last = first if kind == "hours" else MONDAY.date().replace(month=12)
            report = make_report(store.rows(), store.usage(), now_s=NOW_S, since=first, until=last)
        page = report_page(report_json(report))
    parser = HTMLParser()
    tree = parser.parse(page)
    assert parser.errors == []
    ids = [each.get("id") for each in tree.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert tree.get("lang") == "en"
    assert [each.text for each in tree.iter(f"{HTML}h1")]
    for table in tree.iter(f"{HTML}table"):
        assert table.find(f"{HTML}caption") is not None
        widths = {
            sum(int(cell.get("colspan", 1)) for cell in row) for row in table.iter(f"{HTML}tr")
        }
        assert len(widths) == 1, "all rows have the same number of cells"


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\u202e\x00 & \"'"])
def test_what_an_app_names_is_text(text: str) -> None:
    key = UsageKey(490_000, "", "", text[:32], "outcome", "device", "answered")
    strange = key._replace(measure="reason", backend=text, label=text)
    rows = [UsageRow(key, 1), UsageRow(strange._replace(measure="latency", label="0"), 1)]
    rows += [UsageRow(strange, 1), UsageRow(strange._replace(measure="error"), 1)]
    page = report_page(report_json(make_report([], rows, now_s=NOW_S)), title=text)
    tree = tinyhtml5.parse(page)
    assert not list(tree.iter(f"{HTML}script"))


def test_the_page_fetches_and_runs_nothing(page: str) -> None:
    assert not re.search(r"<(script|link|img|iframe|object|embed|base)\b", page)
    assert not re.search(r"@import|url\(|\bon[a-z]+=|javascript:", page)
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "prefers-color-scheme: dark" in page
    assert "The &lt;door&gt; &amp; more" in page


def test_no_canary_is_in_the_page_or_the_file(page: str, path: Path, told: dict[str, Any]) -> None:
    files = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    for text in (page, repr(told), files.decode("latin-1")):
        assert "canary" not in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100"),
        (0.99999, ">99.9"),
        (0.0, "0"),
        (0.00001, "<0.1"),
        (0.95, "95"),
        (0.123, "12.3"),
    ],
)
def test_a_share_never_reads_as_all_or_nothing_if_it_is_not(share: float, text: str) -> None:
    assert _percent(share) == f"{text}\u202f%"


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.0015", "0.0015"), ("12.5", "12.50"), (1234567.891, "1,234,567.89"), ("0", "0.00")],
)
def test_small_amounts_keep_their_digits(value: Any, text: str) -> None:
    assert _amount(value) == text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """<!DOCTYPE html><title>?</title><body>
<iframe style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const small = [...page.querySelectorAll("svg text")].map(
    text => text.getBoundingClientRect()).filter(box => box.width && box.height < 9).length;
  const cut = [...page.querySelectorAll("svg text")].filter(text => {{
    const box = text.getBoundingClientRect(),
      svg = text.closest("svg").getBoundingClientRect();
    return box.left < svg.left - 1 || box.right > svg.right + 1;
  }}).length;
  const charts = [...page.querySelectorAll("svg")].filter(
    svg => svg.getBoundingClientRect().height > 100).length;
  document.title = [root.scrollWidth, small, cut, charts].join(" ");
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_lays_it_out_without_overflow_at_phone_and_desktop_width(
    page: str, tmp_path: Path
) -> None:
    for width in (390, 1280):
        (tmp_path / "probe.html").write_text(PROBE.format(width=width, page=html.escape(page)))
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
                "--window-size=1400,1000", "--dump-dom", (tmp_path / "probe.html").as_uri(),
            ],
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
        title = re.search(r"<title>([^<]*)</title>", done.stdout)
        assert title is not None, done.stderr
        assert title[1] == f"{width} 0 0 7"
