import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.conditions import NetworkClass
from hybrid_detect.selection.network import (
    DEADLINE_S,
    DWELL_S,
    ENTER_SHARE,
    GOOD_BYTES,
    LEAVE_SHARE,
    MODERATE_BYTES,
    OFFLINE_AFTER_S,
    SERVER_S,
    NetworkClassifier,
)

UNKNOWN, OFFLINE, SLOW, MODERATE, GOOD = NetworkClass
RANK = {OFFLINE: 0, SLOW: 1, MODERATE: 2, GOOD: 3}

rtts = st.one_of(st.none(), st.floats(min_value=0.0, max_value=3.0))
rates = st.one_of(st.none(), st.floats(min_value=0.0, max_value=1e9))
readings = st.fixed_dictionaries(
    {
        "rtt_s": rtts,
        "bits_per_s": rates,
        "silent_s": st.sampled_from([0.0, 1.0, OFFLINE_AFTER_S, 10.0]),
    }
)


def reading(rtt_ms: float, mbit: float, **more: object) -> dict[str, object]:
    return {"rtt_s": rtt_ms / 1000, "bits_per_s": mbit * 1e6, **more}


IN = {
    UNKNOWN: {},
    OFFLINE: {"silent_s": OFFLINE_AFTER_S},
    SLOW: reading(500, 0.1),
    MODERATE: reading(60, 3.2),
    GOOD: reading(10, 100),
}


def classifier(state: NetworkClass = UNKNOWN) -> NetworkClassifier:
    """In `state` since time 0."""
    made = NetworkClassifier()
    assert made.classify(now_s=0.0, **IN[state]) is state
    return made


def later(state: NetworkClass, given_reading: dict[str, object]) -> NetworkClass:
    """What `given_reading` makes of `state` once it may change."""
    return classifier(state).classify(now_s=DWELL_S, **given_reading)


@pytest.mark.parametrize(
    ("given_reading", "expected"),
    [
        (reading(5, 1000), GOOD),
        (reading(30, 12), GOOD),
        (reading(60, 12), MODERATE),
        (reading(60, 13), GOOD),
        (reading(60, 2.9), MODERATE),
        (reading(60, 2.6), SLOW),
        (reading(120, 1000), SLOW),
        (reading(600, 0.04), SLOW),
        (reading(10, 0), SLOW),
        (reading(math.inf, 10), SLOW),
        ({"rtt_s": 0.01}, MODERATE),
        ({"rtt_s": 0.3}, SLOW),
        ({"bits_per_s": 100e6}, GOOD),
        ({"bits_per_s": 1e6}, SLOW),
        ({}, UNKNOWN),
        ({"rtt_s": math.nan, "bits_per_s": math.nan}, UNKNOWN),
        ({"silent_s": OFFLINE_AFTER_S}, OFFLINE),
        (reading(5, 1000, silent_s=OFFLINE_AFTER_S), OFFLINE),
        (reading(5, 1000, silent_s=OFFLINE_AFTER_S - 0.1), GOOD),
    ],
)
def test_the_first_reading(given_reading: dict[str, object], expected: NetworkClass) -> None:
    assert NetworkClassifier().classify(now_s=0.0, **given_reading) is expected


@pytest.mark.parametrize("mbit", [8.0, 12.0])
def test_a_class_is_kept_where_it_could_not_be_entered(mbit: float) -> None:
    assert later(GOOD, reading(60, mbit)) is GOOD
    assert later(MODERATE, reading(60, mbit)) is MODERATE


def test_it_can_fall_and_rise_by_more_than_one_class() -> None:
    assert later(GOOD, IN[SLOW]) is SLOW
    assert later(SLOW, IN[GOOD]) is GOOD


def test_no_news_is_no_change() -> None:
    for state in (UNKNOWN, SLOW, MODERATE, GOOD):
        assert later(state, {}) is state


def test_back_from_offline_nothing_is_known_before_it_is_measured() -> None:
    assert later(OFFLINE, {}) is UNKNOWN
    assert later(OFFLINE, IN[GOOD]) is GOOD


@pytest.mark.parametrize("state", [OFFLINE, SLOW, MODERATE, GOOD])
@pytest.mark.parametrize("wanted", [OFFLINE, SLOW, MODERATE, GOOD])
def test_a_class_holds_for_a_while(state: NetworkClass, wanted: NetworkClass) -> None:
    made = classifier(state)
    assert made.classify(now_s=DWELL_S - 0.01, **IN[wanted]) is state
    assert made.classify(now_s=DWELL_S, **IN[wanted]) is wanted


@given(st.sampled_from([SLOW, MODERATE, GOOD]), readings, readings)
def test_a_better_reading_never_gives_a_worse_class(
    state: NetworkClass, one: dict, other: dict
) -> None:
    worse, better = {}, {}
    for name, best in (("rtt_s", min), ("bits_per_s", max), ("silent_s", min)):
        pair = one[name], other[name]
        # Not measured is between the two: neither better nor worse.
        better[name] = one[name] if None in pair else best(pair)
        worse[name] = one[name] if None in pair else (max if best is min else min)(pair)
    assert RANK[later(state, better)] >= RANK[later(state, worse)]


@given(st.lists(st.tuples(readings, st.floats(min_value=0.0, max_value=1.0)), max_size=40))
def test_there_is_at_most_one_change_per_dwell_time(steps: list) -> None:
    made, now_s, changes = NetworkClassifier(), 0.0, []
    for given_reading, gap_s in steps:
        now_s += gap_s
        before = made.network
        if made.classify(now_s=now_s, **given_reading) is not before:
            changes.append(now_s)
    assert all(after - before >= DWELL_S for before, after in pairwise(changes))


@given(st.lists(readings, min_size=1, max_size=10))
def test_offline_takes_evidence_and_a_class_takes_a_measurement(of_readings: list) -> None:
    made = NetworkClassifier()
    for number, given_reading in enumerate(of_readings):
        before = made.network
        after = made.classify(now_s=number * DWELL_S, **given_reading)
        is_off = given_reading["silent_s"] >= OFFLINE_AFTER_S
        assert (after is OFFLINE) is is_off
        if after in (SLOW, MODERATE, GOOD) and after is not before:
            assert (given_reading["rtt_s"], given_reading["bits_per_s"]) != (None, None)
        if after is GOOD and before is not GOOD:
            assert given_reading["bits_per_s"] is not None


@given(st.floats(), st.floats(), st.floats())
def test_no_number_makes_it_raise(rtt_s: float, rate: float, silent_s: float) -> None:
    NetworkClassifier().classify(now_s=0.0, rtt_s=rtt_s, bits_per_s=rate, silent_s=silent_s)


def needed_bits_per_s(size_bytes: int, share: float, rtt_s: float) -> float:
    """The rate at which a frame crosses in just the time that it may take."""
    return 8 * size_bytes / (share * (DEADLINE_S - SERVER_S) - rtt_s)


@pytest.mark.parametrize(
    ("state", "size_bytes", "share", "kept", "lost"),
    [
        (MODERATE, GOOD_BYTES, ENTER_SHARE, GOOD, MODERATE),
        (GOOD, GOOD_BYTES, LEAVE_SHARE, GOOD, MODERATE),
        (SLOW, MODERATE_BYTES, ENTER_SHARE, MODERATE, SLOW),
        (MODERATE, MODERATE_BYTES, LEAVE_SHARE, MODERATE, SLOW),
    ],
)
def test_the_edge_of_a_class_is_where_a_frame_just_crosses_in_its_time(
    state: NetworkClass, size_bytes: int, share: float, kept: NetworkClass, lost: NetworkClass
) -> None:
    rate = needed_bits_per_s(size_bytes, share, rtt_s=0.03)
    for factor, expected in ((1 + 1e-6, kept), (1 - 1e-6, lost)):
        given_reading = {"rtt_s": 0.03, "bits_per_s": rate * factor}
        assert later(state, given_reading) is expected


def test_a_round_trip_that_takes_all_the_time_is_still_in_time() -> None:
    """At the very edge, without rounding: an uplink without limit adds nothing."""
    longest_s = ENTER_SHARE * (DEADLINE_S - SERVER_S)
    assert later(UNKNOWN, {"rtt_s": longest_s, "bits_per_s": math.inf}) is GOOD
    beyond_s = math.nextafter(longest_s, 1)
    assert later(UNKNOWN, {"rtt_s": beyond_s, "bits_per_s": math.inf}) is SLOW


def test_a_reading_alone_says_nothing_of_silence() -> None:
    assert NetworkClassifier().classify(now_s=0.0, rtt_s=0.01, bits_per_s=1e9) is GOOD
    assert NetworkClassifier().classify(now_s=0.0) is UNKNOWN


def test_offline_begins_and_a_class_may_change_at_the_very_instant() -> None:
    just_before = math.nextafter(OFFLINE_AFTER_S, 0)
    assert later(GOOD, IN[GOOD] | {"silent_s": just_before}) is GOOD
    assert later(GOOD, IN[GOOD] | {"silent_s": OFFLINE_AFTER_S}) is OFFLINE
    assert classifier(GOOD).classify(now_s=math.nextafter(DWELL_S, 0), **IN[SLOW]) is GOOD
    assert classifier(GOOD).classify(now_s=DWELL_S, **IN[SLOW]) is SLOW
