"""How a span is named on another machine, and what tracing does where there is no tracer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.monitoring.tracing import NO_SPAN, NO_TRACER, traceparent_of

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
