"""What a server tells of its model: it survives the way, and nothing a peer sends does harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_detect.errors import ProtocolError
from hybrid_detect.exchange.model_info import MAX_BYTES, ModelInfo

from ..fuzzing import examples

INFO = ModelInfo(
    name="centerface",
    quality="high",
    qualities=("fast", "high", "max"),
    side_px=640,
    picture_bytes=40_960,
    rungs=((80, 640, 1.0), (50, 480, 0.96)),
    recall=((0.0, 0.59), (0.0156, 0.93), (0.0547, 1.0)),
)


def with_(**changes: Any) -> str:
    return json.dumps({**INFO.to_values(), **changes})


def test_it_survives_a_header_and_a_body() -> None:
    header = INFO.to_header()
    assert header.isascii()
    assert "\n" not in header
    assert ModelInfo.from_header(header) == INFO
    assert ModelInfo.from_values(json.loads(json.dumps(INFO.to_values()))) == INFO


def test_a_server_that_measured_no_pictures_is_understood() -> None:
    values = INFO.to_values()
    del values["rungs"]
    assert ModelInfo.from_values(values).rungs == ()


def test_unknown_fields_are_ignored() -> None:
    assert ModelInfo.from_header(with_(from_the_future={"a": 1})) == INFO


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{}",
        "\udce4",
        " " * (MAX_BYTES + 1),
        with_(name=1),
        with_(quality=None),
        with_(qualities="high"),
        with_(qualities=[1]),
        with_(qualities=["x"] * 17),
        with_(side_px=0),
        with_(side_px=640.5),
        with_(picture_bytes=2**31),
        with_(recall=[[0.0, 0.5, 1.0]]),
        with_(recall=[[0.0, 1.5]]),
        with_(recall=[[-0.1, 0.5]]),
        with_(recall=[[0.2, 0.5], [0.1, 0.6]]),
        with_(recall=[[0.1, 0.5], [0.1, 0.6]]),
        with_(recall=[[0.1, 0.5]] * 65),
        with_(rungs={}),
        with_(rungs=[[80, 640]]),
        with_(rungs=[[80, 640, 1.5]]),
        with_(rungs=[[0, 640, 1.0]]),
        with_(rungs=[[80, 0, 1.0]]),
        with_(rungs=[[80, 640.0, 1.0]]),
        with_(rungs=[[80, 640, 1.0]] * 9),
    ],
    ids=range(26),
)
def test_a_bad_one_is_refused(header: str) -> None:
    with pytest.raises(ProtocolError):
        ModelInfo.from_header(header)


@settings(max_examples=examples(300))
@given(
    st.sampled_from(list(INFO.to_values())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    ),
)
def test_any_json_value_in_any_field_is_read_or_refused(name: str, value: object) -> None:
    try:
        found = ModelInfo.from_header(with_(**{name: value}))
    except ProtocolError:
        return
    assert ModelInfo.from_header(found.to_header()) == found
