"""Reading recorded networks, and making some up."""

from pathlib import Path

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.simulation.environment import Environment
from hybrid_detect.simulation.synthetic_traces import synthetic_traces
from hybrid_detect.simulation.traces import Trace, read_traces

TRACES = Path(__file__).parents[3] / "shared" / "traces"

GOOD = """\
# source=somewhere licence=MIT kind=5g note=none
t_s,down_kbps,rtt_ms
0,10000,
1,20000,40
3.5,900000,60
"""


def written(folder: Path, text: str, name: str = "one.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_trace_is_read(tmp_path: Path) -> None:
    (trace,) = read_traces(written(tmp_path, GOOD))
    assert (trace.name, trace.kind, trace.has_uplink) == ("one", "5g", False)
    assert trace.t_s.tolist() == [0, 1, 3.5]
    assert np.array_equal(trace.rtt_ms, [np.nan, 40, 60], equal_nan=True)
    # A 5G uplink is taken for 15 % of the downlink, and for 60 Mbit/s at most.
    assert trace.uplink_kbps().tolist() == [1500, 3000, 60000]


def test_a_measured_uplink_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "# kind=4g\nt_s,down_kbps,up_kbps\n0,1,0\n9,1,7\n"
    (trace,) = read_traces(written(tmp_path, text))
    assert trace.has_uplink
    assert trace.uplink_kbps().tolist() == [0, 7]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "README.md"):
        written(tmp_path, GOOD, name)
    assert [trace.name for trace in read_traces(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a line of comment, a header and rows"),
        (GOOD.replace("kind=5g", ""), "expected 'kind=...' in the first line"),
        (GOOD.replace("kind=5g", "kind=6g"), "expected a kind of network"),
        (GOOD.replace("t_s", "time"), "a column t_s"),
        (GOOD.replace("down_kbps", "sideways_kbps"), "expected a column down_kbps or up_kbps"),
        (GOOD.replace("20000", "fast"), "expected 3 numbers or empty fields in each row"),
        (GOOD.replace("1,20000,40", "1,20000"), "expected 3 numbers or empty fields in each row"),
        (GOOD.replace("1,20000,40", "1,,40"), "expected a throughput of 0 or more in every row"),
        (GOOD.replace("20000", "-1"), "expected a throughput of 0 or more in every row"),
        (GOOD.replace("3.5", "0.5"), "expected rows of rising time over 2 s and more"),
        ("\n".join(GOOD.splitlines()[:2]), "expected rows of rising time"),
        ("\n".join(GOOD.splitlines()[:3]), "expected rows of rising time"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_traces(written(tmp_path, text))
    assert told in str(caught.value)
    assert "one" in str(caught.value)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_traces(tmp_path / "none.csv")
    with pytest.raises(ConfigurationError, match="found none"):
        read_traces(tmp_path)
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="expected a line of comment"):
        read_traces(path)


def test_made_up_networks_are_the_same_every_time() -> None:
    first, second = synthetic_traces(3, seconds=10), synthetic_traces(3, seconds=10)
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert np.array_equal(one.uplink_kbps(), other.uplink_kbps())
    others = synthetic_traces(4, seconds=10)
    assert not np.array_equal(first[0].uplink_kbps(), others[0].uplink_kbps())
    assert len({trace.name for trace in first + others}) == 8
    assert set(first[-1].uplink_kbps()) == {0, 8000}, "an outage"


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ({"device": "toaster"}, "expected a device"),
        ({"uplink": 0}, "expected uplink > 0"),
        ({"fps": -1}, "fps > 0"),
        ({"max_s": 1}, "max_s > 1"),
    ],
)
def test_an_impossible_environment_is_refused(device: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Environment(synthetic_traces(seconds=5)[0], **device)


def test_measured_round_trips_are_kept() -> None:
    t_s = np.arange(20.0)
    level = np.full(20, 80.0)
    trace = Trace(name="measured", kind="5g", t_s=t_s, up_kbps=level, rtt_ms=level)
    rtt_s = Environment(trace).rtt_s
    assert np.median(rtt_s) == pytest.approx(0.08, rel=0.1)
    assert rtt_s.min() > 0.04
    assert rtt_s.max() < 0.16


def test_every_recording_can_be_read() -> None:
    if not TRACES.is_dir():
        pytest.skip("the recordings are not here")
    traces = read_traces(TRACES)
    assert len(traces) == 36
    assert sum(trace.has_uplink for trace in traces) == 8
