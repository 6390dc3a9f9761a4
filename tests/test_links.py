"""Every link of the documentation leads somewhere, on the site and in the repository.

Checked without building the site, whose `--strict` says the same of the pages below docs/.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(
        page
        for folder in ("docs", "examples", "findings", "benchmarks", "changes")
        for page in (ROOT / folder).rglob("*.md")
    ),
]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)[^)]*\)")
FENCED = re.compile(r"^(```+).*?^\1$", re.DOTALL | re.MULTILINE)


@cache
def text(page: Path) -> str:
    """What a reader sees as text: no code."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """The headings' anchors, where mkdocs and GitHub make the same of them."""
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+?) *$", prose, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        word = re.sub(r"[^\w\s-]", "", plain).strip()
        if (on_site := re.sub(r"[-\s]+", "-", word)) == word.replace(" ", "-"):
            found.add(on_site)
    return found


def links(page: Path) -> list[str]:
    found = [m[1] for m in LINK.finditer(text(page))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        # Fragments become a part of the changelog, which lies beside the README.
        base = ROOT if page.parent.name == "changes" else page.parent
        there = (base / target).resolve() if target else page
        assert there.exists(), f"{page.name} links to {link}"
        if SITE in page.parents:
            assert SITE in there.parents, f"{link} of {page.name} is not on the site"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {link}"


def test_a_link_in_code_is_none_and_one_with_a_title_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '`[a](b.md)` and [c](d.md "title")\n```text\n[e](f.md)\n# no heading\n```\n# A B\n'
    )
    assert links(page) == ["d.md"]
    assert anchors(page) == {"a-b"}


def test_the_site_shows_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    shown = re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)
    assert sorted(shown) == sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.md"))


@pytest.mark.parametrize("front", [ROOT / "README.md", SITE / "index.md"], ids=["README", "index"])
def test_the_front_page_links_to_every_page(front: Path) -> None:
    """To all but those of the API, which link to each other and are in the site's menu."""
    linked = {(front.parent / link.partition("#")[0]).resolve() for link in links(front)}
    pages = {page for page in SITE.rglob("*.md") if "api" not in page.parts} - {SITE / "index.md"}
    assert not sorted(str(page.relative_to(SITE)) for page in pages - linked)
