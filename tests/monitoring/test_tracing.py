"""How a span is named on another machine, and what tracing does where there is no tracer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.monitoring.tracing import (
    MAX_MEMBERS,
    MAX_STATE_CHARS,
    NO_SPAN,
    NO_TRACER,
    traceparent_of,
    tracestate_of,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "03", "ff"])
def test_a_traceparent_of_the_specification_is_taken_as_it_is(flags: str) -> None:
    assert traceparent_of(f"00-{TRACE}-{SPAN}-{flags}") == f"00-{TRACE}-{SPAN}-{flags}"


def test_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    assert traceparent_of(f"cc-{TRACE}-{SPAN}-01-what-comes") == f"00-{TRACE}-{SPAN}-01"
    assert traceparent_of(f"cc-{TRACE}-{SPAN}-01") == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        7,
        ["00"],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_none_counts_as_none(value: object) -> None:
    assert traceparent_of(value) == ""


@given(st.text() | st.binary() | st.integers() | st.none())
def test_nothing_that_a_peer_sends_raises(value: object) -> None:
    assert traceparent_of(value) in {"", value}


def test_without_a_tracer_parts_are_nothing() -> None:
    span = NO_TRACER.start_span("frame")
    assert span is NO_SPAN
    with span.child("compress") as part:
        part.set({"a": 1})
        part.rename("b")
    assert (part.trace_id, part.span_id, part.traceparent) == ("", "", "")
    assert not part.is_recording


def test_an_error_passes_through_a_part() -> None:
    with pytest.raises(ValueError, match="mine"), NO_SPAN.child("compress"):
        raise ValueError("mine")


@pytest.mark.parametrize(
    "state",
    ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a/b*c-d_e=x", "1t@sys=~!#", "a=b c", ""],
)
def test_a_tracestate_of_the_specification_is_taken_as_it_is(state: str) -> None:
    assert tracestate_of(state) == state


def test_blanks_around_members_and_empty_members_are_left_out() -> None:
    assert tracestate_of(" a=1 ,\t, b=2,") == "a=1,b=2"


@pytest.mark.parametrize(
    "value",
    [
        *("a", "=1", "a=", "A=1", "a=1=2", "a =1", "a=\x7f", "a=\u00e9", "a@=1", "a@b@c=1", "1a=1"),
        *("a=1,a=2", "a" * 257 + "=1", "a=" + "b" * 257, "a=1\r\nb=2"),
        ",".join(f"k{number}=1" for number in range(MAX_MEMBERS + 1)),
        *(None, 7, ["a=1"]),
    ],
)
def test_what_is_no_tracestate_is_left_out_as_a_whole(value: object) -> None:
    assert tracestate_of(value) == ""


def test_of_a_long_tracestate_long_members_go_first_and_then_the_last_ones() -> None:
    long = "long=" + "x" * 200
    short = [f"k{number}=" + "y" * 60 for number in range(9)]
    state = tracestate_of(",".join([short[0], long, *short[1:]]))
    assert state == ",".join(short[:8])
    assert len(state) <= MAX_STATE_CHARS
    assert tracestate_of(f"{long},{short[0]}") == f"{long},{short[0]}", "it has room for both"


@given(st.text("ab1@=, \t~_", max_size=60))
def test_a_tracestate_is_read_as_opentelemetry_reads_it(value: str) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    assert tracestate_of(value) == trace.TraceState.from_header([value]).to_header()
