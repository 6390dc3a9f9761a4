"""The device's share of the faces: bounded, monotone, and wary of what the device cannot see."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection import scene as scene_module
from hybrid_detect.selection.conditions import SceneConditions
from hybrid_detect.selection.scene import (
    EMPTY_SHARE,
    PRIOR_SHARE,
    Recall,
    SceneEstimator,
    recall_at,
)

DEVICE = ((70 / 1280, 0.19), (120 / 1280, 0.85))
SERVER = ((0.0, 0.59), (20 / 1280, 0.93), (70 / 1280, 1.0))
SELFIE, CROWD = [0.3], [0.02 + 0.0005 * number for number in range(30)]

HEIGHTS = st.lists(st.floats(0.0, 1.0) | st.sampled_from([math.nan, -1.0, math.inf, 5.0]))
LOOKS = st.lists(
    st.tuples(st.booleans(), HEIGHTS, st.integers(0, 40), st.floats(0, 100)), max_size=20
)


def scene() -> SceneEstimator:
    return SceneEstimator(DEVICE, SERVER)


def believed(estimator: SceneEstimator, now_s: float) -> SceneConditions:
    conditions = estimator.conditions(now_s=now_s)
    assert conditions is not None
    return conditions


def share(estimator: SceneEstimator, now_s: float) -> float:
    return believed(estimator, now_s).device_share


def watch(
    estimator: SceneEstimator, heights: list[float], frames: range, *, by_server: bool = False
) -> None:
    """Looks at ten frames a second."""
    for frame in frames:
        if by_server:
            estimator.server_looked(heights, frame=frame, at_s=0.1 * frame)
        estimator.device_looked(
            [height for height in heights if height >= 0.1], frame=frame, at_s=0.1 * frame
        )


# -- whatever is seen ----------------------------------------------------------------------------


@given(LOOKS, st.floats(0, 200))
def test_the_share_is_one(looks: list[tuple[bool, list[float], int, float]], now_s: float) -> None:
    """Answers in any order, late, early and with heights that are none."""
    estimator = scene()
    for by_server, heights, frame, at_s in looks:
        look = estimator.server_looked if by_server else estimator.device_looked
        look(heights, frame=frame, at_s=at_s)
        assert 0.0 <= share(estimator, now_s) <= 1.0


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40), st.data())
def test_larger_faces_never_lower_the_share(heights: list[float], data: st.DataObject) -> None:
    larger = [data.draw(st.floats(height, 1.0)) for height in heights]
    small, large = SceneEstimator(DEVICE), SceneEstimator(DEVICE)
    small.server_looked(heights, frame=0, at_s=0.0)
    large.server_looked(larger, frame=0, at_s=0.0)
    assert share(small, 0.1) <= share(large, 0.1) + 1e-9


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40))
def test_a_device_that_finds_each_face_never_lowers_the_share(heights: list[float]) -> None:
    estimator = scene()
    estimator.server_looked(heights, frame=0, at_s=0.0)
    before = share(estimator, 0.0)
    estimator.device_looked(heights, frame=0, at_s=0.0)
    assert share(estimator, 0.0) >= before - 1e-9


@given(st.floats(0.0, 2.0))
def test_recall_is_the_step_at_or_below_a_height(height: float) -> None:
    expected = max((recall for least, recall in DEVICE if least <= height), default=0.0)
    assert recall_at(DEVICE, height) == expected


# -- what is believed ----------------------------------------------------------------------------


def test_nothing_is_said_of_a_model_that_is_not_known() -> None:
    estimator = SceneEstimator()
    estimator.server_looked(SELFIE, frame=0, at_s=0.0)
    estimator.device_looked(SELFIE, frame=0, at_s=0.0)
    assert estimator.conditions(now_s=0.1) is None


def test_before_any_look_it_is_the_prior() -> None:
    assert believed(scene(), 0.0) == SceneConditions(device_share=PRIOR_SHARE, server_look_due=True)
    assert share(replace(scene(), prior=0.6), 0.0) == 0.6


def test_heights_alone_tell_a_selfie_from_a_crowd() -> None:
    for heights, low, high in ((SELFIE, 0.8, 0.9), (CROWD, 0.0, 0.05), ([], 1.0, 1.0)):
        estimator = scene()
        estimator.server_looked(heights, frame=0, at_s=0.0)
        assert low <= share(estimator, 0.1) <= high


def test_a_face_that_is_found_once_is_found_again_and_one_that_is_missed_is_missed() -> None:
    found, missed = scene(), scene()
    for estimator in (found, missed):
        estimator.server_looked(SELFIE, frame=0, at_s=0.0)
    found.device_looked(SELFIE, frame=0, at_s=0.0)
    missed.device_looked([], frame=0, at_s=0.0)
    assert share(missed, 0.1) < 0.2
    assert share(found, 0.1) > 0.95


def test_many_looks_outweigh_one() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(50), by_server=True)
    estimator.server_looked(SELFIE, frame=50, at_s=5.0)
    estimator.device_looked([], frame=50, at_s=5.0)
    assert share(estimator, 5.1) > 0.9


def test_the_server_s_recall_is_taken_off() -> None:
    """Of the faces the server finds, the device finds more than the table says of all faces."""
    estimator = SceneEstimator(((0.0, 0.4),), ((0.0, 0.5),))
    estimator.server_looked([0.05] * 10, frame=0, at_s=0.0)
    assert share(estimator, 0.0) == pytest.approx(0.8)


def test_an_answer_that_came_late_is_compared_with_the_looks_since() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(4))
    estimator.server_looked(SELFIE, frame=1, at_s=0.1)
    assert share(estimator, 0.4) > 0.95


def test_an_older_answer_than_the_last_is_left_out() -> None:
    estimator = scene()
    estimator.server_looked(CROWD, frame=9, at_s=0.9)
    estimator.server_looked(SELFIE, frame=8, at_s=0.8)
    assert share(estimator, 1.0) < 0.1


# -- what the device cannot see ------------------------------------------------------------------


def test_an_empty_answer_of_the_device_is_no_evidence_of_an_empty_scene() -> None:
    estimator = scene()
    for frame in range(100):
        estimator.device_looked([], frame=frame, at_s=0.1 * frame)
    assert share(estimator, 10.0) == EMPTY_SHARE
    assert believed(estimator, 10.0).server_look_due
    estimator.server_looked(CROWD, frame=99, at_s=9.9)
    for frame in range(100, 110):
        estimator.device_looked([], frame=frame, at_s=0.1 * frame)
    assert share(estimator, 11.0) < 0.1


def test_a_crowd_that_the_server_has_not_seen_for_long_may_have_left() -> None:
    estimator = scene()
    estimator.server_looked(CROWD, frame=0, at_s=0.0)
    shares = [share(estimator, now_s) for now_s in (0.0, 1.0, 5.0, 60.0)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.7


@pytest.mark.parametrize(("heights", "least_s", "most_s"), [(SELFIE, 5.0, 30.0), ([], 0.5, 3.0)])
def test_the_server_is_asked_to_look_the_sooner_the_less_the_device_would_notice(
    heights: list[float], least_s: float, most_s: float
) -> None:
    estimator = scene()
    watch(estimator, heights, range(50), by_server=True)
    due_s = None
    for frame in range(50, 500):
        watch(estimator, heights, range(frame, frame + 1))
        if believed(estimator, 0.1 * frame).server_look_due:
            due_s = 0.1 * frame - 4.9
            break
    assert due_s is not None
    assert least_s < due_s < most_s


def test_a_cut_that_the_device_sees_asks_for_a_look_at_once_and_a_switch_after_two() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(50), by_server=True)
    estimator.device_looked([], frame=50, at_s=5.0)
    first = believed(estimator, 5.1)
    assert first.server_look_due
    assert not first.is_doubtful
    assert first.device_share > 0.9
    estimator.device_looked([], frame=51, at_s=5.1)
    second = believed(estimator, 5.2)
    assert second.is_doubtful
    assert second.device_share < 0.8


def test_what_was_learnt_of_one_scene_is_not_said_of_the_next() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(50), by_server=True)
    for frame in (50, 51):
        estimator.server_looked([0.15], frame=frame, at_s=0.1 * frame)
    assert share(estimator, 5.2) == pytest.approx(0.85)


def test_one_answer_in_which_the_server_misses_a_face_does_not_undo_what_was_learnt() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(50), by_server=True)
    estimator.server_looked([], frame=50, at_s=5.0)
    estimator.server_looked(SELFIE, frame=51, at_s=5.1)
    assert share(estimator, 5.2) > 0.95


def test_a_cut_that_the_device_has_seen_undoes_it_at_once() -> None:
    estimator = scene()
    watch(estimator, SELFIE, range(50), by_server=True)
    for frame in (50, 51):
        estimator.device_looked([], frame=frame, at_s=0.1 * frame)
    estimator.server_looked([0.15], frame=51, at_s=5.1)
    assert share(estimator, 5.2) < 0.5


def test_the_device_is_asked_to_look_where_it_may_see_all_and_not_where_it_cannot() -> None:
    for heights, is_due in (
        (SELFIE, True),
        (CROWD, False),
        ([], False),
        ([*SELFIE, *CROWD], False),
    ):
        estimator = scene()
        estimator.server_looked(heights, frame=0, at_s=0.0)
        assert believed(estimator, 0.1).device_look_due is is_due


def test_a_device_that_has_looked_is_not_asked_again_until_that_is_long_ago() -> None:
    for seen, frames in (([], 1), (SELFIE, 30)):
        estimator = scene()
        for frame in range(frames):
            estimator.server_looked(SELFIE, frame=frame, at_s=0.1 * frame)
            estimator.device_looked(seen, frame=frame, at_s=0.1 * frame)
        due_s = None
        for frame in range(frames, 600):
            estimator.server_looked(SELFIE, frame=frame, at_s=0.1 * frame)
            if believed(estimator, 0.1 * frame).device_look_due:
                due_s = 0.1 * (frame - frames)
                break
        assert due_s is not None
        assert 3.0 < due_s < 30.0


def test_another_person_as_far_away_is_seen_anew() -> None:
    """The device has never found the first face. Two looks that find the second outweigh that."""
    estimator = scene()
    for frame in range(50):
        estimator.server_looked(SELFIE, frame=frame, at_s=0.1 * frame)
        estimator.device_looked([], frame=frame, at_s=0.1 * frame)
    assert share(estimator, 5.0) < 0.2
    for frame in range(50, 56):
        estimator.server_looked(SELFIE, frame=frame, at_s=0.1 * frame)
        estimator.device_looked(SELFIE, frame=frame, at_s=0.1 * frame)
    assert share(estimator, 5.6) > 0.9


def test_the_first_looks_come_quickly_and_the_later_ones_do_not() -> None:
    estimator = scene()
    pauses, last_s = [], 0.0
    for frame in range(100):
        at_s = 0.05 * frame
        estimator.server_looked([0.2, 0.07], frame=frame, at_s=at_s)
        if believed(estimator, at_s).device_look_due:
            pauses.append(at_s - last_s)
            last_s = at_s
            # It sees one of the two, now and then both.
            seen = [0.2, 0.07] if len(pauses) % 4 else [0.2]
            estimator.device_looked(seen, frame=frame, at_s=at_s)
    assert pauses[1] <= 0.15 + 1e-6
    assert len(pauses) < 40
    assert max(pauses[4:]) > 2 * pauses[1]


@given(st.lists(st.floats(0.01, 1.0), min_size=100, max_size=300))
def test_what_is_kept_of_a_crowd_is_bounded(heights: list[float]) -> None:
    estimator = scene()
    for frame in range(3):
        estimator.server_looked(heights, frame=frame, at_s=0.1 * frame)
        estimator.device_looked(heights, frame=frame, at_s=0.1 * frame)
    assert believed(estimator, 0.3).faces == 64


def test_a_crowd_is_looked_up_once_and_not_for_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a decision would take twice its time on the scenes with the most to gain."""
    asked: list[float] = []

    def counted(recall: Recall, height: float) -> float:
        asked.append(height)
        return recall_at(recall, height)

    monkeypatch.setattr(scene_module, "recall_at", counted)
    estimator = SceneEstimator(device=((0.0, 0.1), (0.1, 0.7)), server=((0.0, 0.5), (0.05, 1.0)))
    crowd = [0.02 + 0.002 * face for face in range(60)]
    estimator.server_looked(crowd, frame=0, at_s=0.0)
    first = estimator.conditions(now_s=0.0)
    assert first is not None
    shares = [0.1 / 0.5 if h < 0.05 else 0.1 if h < 0.1 else 0.7 for h in crowd]
    assert first.device_share == pytest.approx(sum(shares) / 60)
    del asked[:]
    for frame in range(1, 5):
        estimator.device_looked([0.1], frame=frame, at_s=frame / 10)
        estimator.conditions(now_s=frame / 10)
    assert not asked
    estimator.server = ((0.0, 1.0),)
    assert estimator.conditions(now_s=0.5) is not None
    assert asked, "another table is looked up"
