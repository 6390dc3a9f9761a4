"""When the device is not to be believed, and what the cascade plans."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.conditions import BackendConditions, Conditions
from hybrid_detect.selection.escalation import (
    SMALL_SHARE,
    SURE_SCORE,
    CascadePolicy,
    why_unsure,
)
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
)

CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE


def answer(*faces: Face, width: int = 1280, height: int = 720) -> DetectionResult:
    return DetectionResult(
        status=DetectionStatus.OK, width=width, height=height, faces=faces, backend=DEVICE
    )


def face(size: float = 300, score: float | None = 0.95) -> Face:
    return Face(BoundingBox(10, 10, 10 + size, 10 + size), score)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (answer(), "no face"),
        (answer(face()), ""),
        (answer(face(score=SURE_SCORE)), ""),
        (answer(face(score=SURE_SCORE - 0.01)), "84%"),
        (answer(face(), face(score=0.3)), "30%"),
        (answer(face(score=None)), ""),
        (answer(face(size=SMALL_SHARE * 1280)), ""),
        (answer(face(size=SMALL_SHARE * 1280 - 1)), "127 px"),
        (answer(face(), face(size=40)), "40 px"),
        (answer(face(size=40), width=64, height=48), ""),
        (answer(face(size=100), width=720, height=1280), "100 px"),
    ],
)
def test_who_is_unsure(result: DetectionResult, why: str) -> None:
    assert why in why_unsure(result)
    assert bool(why_unsure(result)) == bool(why)


def test_a_narrow_face_counts_by_its_longer_side() -> None:
    narrow = Face(BoundingBox(0, 0, 30, 300), 0.95)
    assert why_unsure(answer(narrow)) == ""


@given(st.floats(1, 700), st.floats(0, 1), st.floats(0, 1))
def test_one_more_face_never_makes_it_surer(size: float, score: float, more: float) -> None:
    one, two = face(size, score), face(size, more)
    if why_unsure(answer(one)):
        assert why_unsure(answer(one, two))


def conditions(**usable: bool) -> Conditions:
    return Conditions(
        now_s=0.0,
        deadline_s=1.0,
        backends=tuple(
            BackendConditions(
                kind=BackendKind(name),
                usable=is_usable,
                unavailable_reason="" if is_usable else "x",
            )
            for name, is_usable in usable.items()
        ),
    )


@pytest.mark.parametrize(
    ("backends", "backend", "escalation"),
    [
        ({"device": True, "streaming": True, "cloud": True}, DEVICE, STREAMING),
        ({"device": True, "streaming": False, "cloud": True}, DEVICE, CLOUD),
        ({"device": True, "streaming": False, "cloud": False}, DEVICE, None),
        ({"device": False, "streaming": True, "cloud": True}, STREAMING, None),
        ({"device": True}, DEVICE, None),
        ({}, None, None),
    ],
)
def test_the_device_looks_first_and_the_server_where_it_can(
    backends: dict[str, bool], backend: BackendKind | None, escalation: BackendKind | None
) -> None:
    plan = CascadePolicy().decide(conditions(**backends))
    assert (plan.backend, plan.escalation) == (backend, escalation)
    assert plan.reason


def test_no_way_that_is_out_is_ever_planned() -> None:
    for device, streaming, cloud in itertools.product([True, False], repeat=3):
        usable = {"device": device, "streaming": streaming, "cloud": cloud}
        plan = CascadePolicy().decide(conditions(**usable))
        planned = {plan.backend, plan.escalation, *plan.fallbacks} - {None}
        assert planned <= {BackendKind(name) for name, is_usable in usable.items() if is_usable}


@pytest.mark.parametrize("limits", [{"target_bytes": 9_000, "quality": 40, "max_side_px": 640}])
def test_what_is_sent_keeps_the_limits(limits: dict[str, Any]) -> None:
    plan = CascadePolicy(**limits).decide(conditions(device=True, streaming=True))
    assert (plan.target_bytes, plan.quality, plan.max_side_px) == (9_000, 40, 640)
