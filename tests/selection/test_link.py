"""What the link estimator believes, held against links that are known to the test alone."""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.selection.conditions import LinkConditions
from hybrid_detect.selection.link import (
    LOST_S,
    MAX_PROBE_PAUSE_S,
    MAX_VARIANCE,
    PRIOR_BITS_PER_S,
    PROBE_PAUSE_S,
    LinkEstimator,
)

INTERVAL_S = 0.1
SERVER_S = 0.04
BEHIND_THE_PROXY_BITS_PER_S = 1e9


class Link:
    """A first-in-first-out uplink with a constant round trip, and an estimator that watches it.

    Args:
        bits_per_s: What it carries; a function of time for a link that changes.
        rtt_s: Round trip of a message that weighs nothing.
        tells: Whether the server tells how long it received each frame.
        buffers: Whether a proxy takes each frame whole before the server sees it.
        frees_at_s: When the uplink is free, for one that hangs in the meantime.
    """

    def __init__(
        self,
        bits_per_s: float | Callable[[float], float],
        rtt_s: float,
        *,
        tells: bool = False,
        buffers: bool = False,
        server_s: float = SERVER_S,
    ) -> None:
        self.buffers = buffers
        self.rate = bits_per_s if callable(bits_per_s) else lambda _now_s: bits_per_s
        self.rtt_s = rtt_s
        self.tells = tells
        self.server_s = server_s
        self.estimator = LinkEstimator()
        self.free_s = 0.0
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[float], object]]] = []
        self._numbers = itertools.count()

    def send(self, size_bytes: int, **how: Any) -> int:
        """Hand a frame to the network; its answer arrives in its own time."""
        number = next(self._numbers)
        self.estimator.sent(number, size_bytes, now_s=self.now_s, **how)
        began_s = max(self.now_s, self.free_s)
        self.free_s = began_s + 8 * size_bytes / self.rate(began_s)
        receive_s = self.free_s - began_s if self.tells else None
        if self.buffers:
            receive_s = 8 * size_bytes / BEHIND_THE_PROXY_BITS_PER_S
        self.at(
            self.free_s + self.rtt_s + self.server_s,
            lambda now_s: self.estimator.answered(
                number, now_s=now_s, server_s=self.server_s, receive_s=receive_s
            ),
        )
        return number

    def ping(self) -> None:
        """Send a ping behind whatever was sent before it."""
        sent_s = self.now_s
        self.estimator.pinged(now_s=sent_s)
        self.at(
            max(sent_s, self.free_s) + self.rtt_s,
            lambda now_s: self.estimator.ponged(sent_s, now_s=now_s),
        )

    def at(self, when_s: float, event: Callable[[float], object]) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), event))

    def run_to(self, when_s: float) -> LinkConditions:
        """Let everything happen that is due by `when_s`."""
        while self._events and self._events[0][0] <= when_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event(self.now_s)
        self.now_s = when_s
        return self.estimator.conditions(now_s=when_s)

    def stream(self, frames: int, size_bytes: int, *, pings: bool = True) -> LinkConditions:
        """A frame each `INTERVAL_S`, a ping with every second one."""
        for number in range(frames):
            self.run_to(self.now_s + INTERVAL_S)
            if pings and number % 2:
                self.ping()
            self.send(size_bytes)
        return self.run_to(self.now_s + INTERVAL_S)


# -- a constant link is learned -----------------------------------------------------------------


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "tells receive_s"])
@pytest.mark.parametrize("rtt_s", [0.005, 0.05, 0.15])
@pytest.mark.parametrize("bits_per_s", [2e6, 8e6, 50e6])
def test_a_constant_link_is_learned(bits_per_s: float, rtt_s: float, tells: bool) -> None:
    link = Link(bits_per_s, rtt_s, tells=tells)
    known = link.stream(50, 18_000)
    assert known.rtt_s == pytest.approx(rtt_s, abs=0.005)
    assert known.server_s == pytest.approx(SERVER_S, abs=0.001)
    # Without the server's word, what is sent for 3 ms cannot be told from the round trip.
    tolerance = 0.05 if tells else 0.35
    assert known.bits_per_s == pytest.approx(bits_per_s, rel=tolerance)
    assert known.rtt_deviation_s < 0.01


@pytest.mark.parametrize("rtt_s", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("bits_per_s", [0.3e6, 1e6, 2e6])
def test_receive_times_of_a_proxy_that_buffers_are_not_believed(
    bits_per_s: float, rtt_s: float
) -> None:
    """A link of 1 Mbit/s would pass for one of more than 30, and no picture would be smaller."""
    link = Link(bits_per_s, rtt_s, buffers=True)
    frame_bytes = int(bits_per_s * 0.09 / 8)  # what the link carries between two frames, almost
    known = link.stream(50, frame_bytes)
    assert bits_per_s / 3 < known.bits_per_s < bits_per_s * 3


def test_one_ping_is_enough_to_doubt_a_proxy_that_buffers() -> None:
    """Of a request over HTTP nothing but its connection's own round trip is known."""
    link = Link(1e6, 0.05, buffers=True)
    link.ping()
    link.run_to(1.0)
    known = link.stream(50, 10_000, pings=False)
    assert known.bits_per_s == pytest.approx(1e6, rel=0.5)


@pytest.mark.parametrize("rtt_s", [0.02, 0.4])
def test_a_server_at_the_link_s_end_is_believed_through_jitter(rtt_s: float) -> None:
    link = Link(8e6, rtt_s, tells=True)
    for number in range(50):
        link.rtt_s = rtt_s * (1.5 if number % 3 else 1.0)
        known = link.stream(1, 40_000)
    assert known.bits_per_s == pytest.approx(8e6, rel=0.25)


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "tells receive_s"])
def test_uploads_that_queue_behind_each_other_are_told_apart(tells: bool) -> None:
    link = Link(4e6, 0.06, tells=tells)
    for _ in range(12):  # bursts of three: 0.3 s of the uplink every half second
        for _ in range(3):
            link.send(50_000)
        known = link.run_to(link.now_s + 0.5)
        link.ping()
    assert known.bits_per_s == pytest.approx(4e6, rel=0.15)
    assert known.rtt_s == pytest.approx(0.06, abs=0.015)
    assert known.in_flight == 0
    assert known.backlog_s == 0.0


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "tells receive_s"])
@pytest.mark.parametrize(("before", "after"), [(20e6, 1e6), (1e6, 20e6)])
def test_a_change_of_the_link_is_believed_within_a_second(
    before: float, after: float, tells: bool
) -> None:
    link = Link(lambda now_s: before if now_s < 5.0 else after, 0.05, tells=tells)
    link.stream(49, 8_000)
    known = link.stream(12, 8_000)
    assert known.bits_per_s == pytest.approx(after, rel=0.5)


def test_the_backlog_is_what_has_not_left_yet() -> None:
    link = Link(4e6, 0.06, tells=True)
    link.stream(30, 20_000)
    link.run_to(link.now_s + 1.0)
    for _ in range(3):
        link.send(50_000)
    known = link.run_to(link.now_s)
    assert known.backlog_s == pytest.approx(0.3, rel=0.1)
    assert known.in_flight == 3
    later = link.run_to(link.now_s + 0.2)
    assert later.backlog_s == pytest.approx(0.1, abs=0.04)
    assert link.run_to(link.now_s + 0.5).in_flight == 0


def test_nothing_of_a_queued_upload_s_true_start_is_taken_in() -> None:
    """Two links that a client cannot tell apart until an answer comes are believed alike."""
    fast, slow = Link(20e6, 0.05), Link(lambda now_s: 20e6 if now_s < 2.0 else 1e6, 0.05)
    for link in (fast, slow):
        link.stream(19, 10_000)
        link.run_to(2.0)
        link.send(60_000)
        link.send(60_000)
    # The fast link answers after 24 + 90 ms; until then nothing has come back over either.
    assert fast.run_to(2.1) == slow.run_to(2.1)
    assert fast.run_to(3.0) != slow.run_to(3.0)


# -- what does not come back ---------------------------------------------------------------------


def test_an_upload_that_hangs_lowers_the_belief_more_with_each_moment() -> None:
    link = Link(20e6, 0.05, tells=True)
    link.stream(30, 20_000)
    link.run_to(link.now_s + 1.0)
    link.estimator.sent("hangs", 20_000, now_s=link.now_s)
    seen = [
        link.estimator.conditions(now_s=link.now_s + 0.1 * step).bits_per_s for step in range(25)
    ]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 15e6
    # 160,000 bits have not left within two seconds and a half.
    assert seen[-1] < 0.2e6


def test_asking_more_often_does_not_doubt_more() -> None:
    often, seldom = LinkEstimator(), LinkEstimator()
    for estimator in (often, seldom):
        estimator.sent("hangs", 80_000, now_s=0.0)
    for step in range(1, 1001):
        often.conditions(now_s=step / 1000)
    for step in range(1, 11):
        seldom.conditions(now_s=step / 10)
    asked_often, asked_seldom = often.conditions(now_s=1.0), seldom.conditions(now_s=1.0)
    # One doubt apart: it is asked at other moments.
    assert asked_often.bits_per_s == pytest.approx(asked_seldom.bits_per_s, rel=0.2)
    assert asked_often.spread > 0.8 * asked_seldom.spread


def test_an_upload_that_may_still_be_under_way_is_no_news() -> None:
    estimator = LinkEstimator()
    estimator.sent(1, 80_000, now_s=0.0)
    # It takes 0.21 s at the prior's rate, 0.06 s of round trip and 0.04 s at the server.
    assert estimator.conditions(now_s=0.25).bits_per_s == pytest.approx(PRIOR_BITS_PER_S)


def test_a_lost_frame_lowers_the_belief_and_leaves() -> None:
    estimator = LinkEstimator()
    estimator.sent(1, 20_000, now_s=0.0)
    estimator.lost(1, now_s=1.0)
    known = estimator.conditions(now_s=1.0)
    assert known.bits_per_s < 0.5e6
    assert (known.in_flight, known.backlog_s) == (0, 0.0)


def test_a_frame_lost_at_once_says_nothing_of_the_rate() -> None:
    estimator = LinkEstimator()
    estimator.sent(1, 20_000, now_s=0.0)
    estimator.lost(1, now_s=0.001)
    assert estimator.conditions(now_s=0.001).bits_per_s == pytest.approx(PRIOR_BITS_PER_S)


def test_a_frame_without_an_answer_is_given_up_in_the_end() -> None:
    estimator = LinkEstimator()
    estimator.sent(1, 20_000, now_s=0.0)
    assert estimator.conditions(now_s=LOST_S).in_flight == 1
    assert estimator.conditions(now_s=LOST_S + 0.1).in_flight == 0


@pytest.mark.parametrize("leave", ["withdrawn", "broken"])
def test_what_says_nothing_about_the_link_changes_no_belief(leave: str) -> None:
    estimator = LinkEstimator()
    for number in range(2):
        estimator.sent(number, 80_000, now_s=0.0)
    if leave == "broken":
        estimator.broken()
    else:
        estimator.withdrawn(0)
        estimator.withdrawn(1)
    known = estimator.conditions(now_s=2.0)
    assert known.bits_per_s == pytest.approx(PRIOR_BITS_PER_S)
    assert (known.in_flight, known.backlog_s) == (0, 0.0)


def test_reports_on_unknown_frames_are_ignored() -> None:
    estimator = LinkEstimator()
    before = estimator.conditions(now_s=0.0)
    estimator.answered("?", now_s=0.0, server_s=0.1)
    estimator.lost("?", now_s=0.0)
    estimator.withdrawn("?")
    estimator.ponged(0.0, now_s=0.0)
    assert estimator.conditions(now_s=0.0) == before


def test_certainty_goes_with_time_and_no_further() -> None:
    link = Link(8e6, 0.05, tells=True)
    link.stream(30, 20_000)
    fresh = link.run_to(link.now_s + 0.1)
    assert fresh.spread < 0.6
    assert fresh.in_flight == 0
    second = link.estimator.conditions(now_s=link.now_s + 1.0)
    hour = link.estimator.conditions(now_s=link.now_s + 3600.0)
    assert fresh.spread < second.spread < hour.spread
    assert hour.spread == pytest.approx(math.sqrt(MAX_VARIANCE))
    assert hour.bits_per_s == pytest.approx(fresh.bits_per_s)


# -- pings ---------------------------------------------------------------------------------------


def test_a_ping_behind_the_own_queue_is_not_a_slow_link() -> None:
    link = Link(4e6, 0.05, tells=True)
    link.stream(30, 20_000)
    for _ in range(10):
        link.send(80_000)  # 0.16 s of the uplink
        link.ping()
        known = link.run_to(link.now_s + 0.3)
        assert known.rtt_s == pytest.approx(0.05, abs=0.03)


def test_a_longer_round_trip_is_believed_at_once_a_shorter_one_after_three() -> None:
    link = Link(20e6, 0.05)
    link.stream(20, 8_000)
    link.rtt_s = 0.4
    link.ping()
    slow = link.run_to(link.now_s + 0.5)
    assert slow.rtt_s == pytest.approx(0.4, abs=0.01)
    assert slow.rtt_deviation_s > 0.1
    link.rtt_s = 0.05
    for _ in range(3):
        link.ping()
        known = link.run_to(link.now_s + 0.2)
    assert known.rtt_s < 0.07


def test_a_ping_without_an_answer_is_a_round_trip_so_far() -> None:
    estimator = LinkEstimator()
    estimator.pinged(now_s=0.0)
    assert estimator.conditions(now_s=0.14).rtt_s == pytest.approx(0.06)
    assert estimator.conditions(now_s=0.5).rtt_s == pytest.approx(0.5)
    estimator.ponged(0.0, now_s=0.6)
    # It was a slow one, but the next ones decide how fast it is forgotten.
    assert 0.4 < estimator.conditions(now_s=0.6).rtt_s <= 0.6


def test_after_a_break_the_old_pings_are_no_news() -> None:
    estimator = LinkEstimator()
    estimator.pinged(now_s=0.0)
    estimator.broken()
    assert estimator.conditions(now_s=1.0).rtt_s == pytest.approx(0.06)
    estimator.ponged(0.0, now_s=1.0)
    assert estimator.conditions(now_s=1.0).rtt_s == pytest.approx(0.06)


# -- probes --------------------------------------------------------------------------------------


def late_probe(estimator: LinkEstimator, now_s: float) -> float:
    """A probe whose answer takes 0.4 s; the seconds until the next one is due."""
    estimator.sent("probe", 18_000, now_s=now_s, probe=True)
    estimator.answered("probe", now_s=now_s + 0.4, server_s=0.04)
    waited_s = 0.4
    while not estimator.conditions(now_s=now_s + waited_s).probe_due:
        waited_s += 0.01
    return waited_s


def test_the_pause_between_probes_doubles_while_they_are_late() -> None:
    estimator = LinkEstimator()
    now_s, pauses = 10.0, []
    for _ in range(6):
        pauses.append(late_probe(estimator, now_s))
        now_s += pauses[-1]
    doubled = [min(PROBE_PAUSE_S * 2**n, MAX_PROBE_PAUSE_S) for n in range(1, 7)]
    assert pauses == pytest.approx([max(pause, 0.4) for pause in doubled], abs=0.02)


def test_an_answer_in_time_makes_the_pause_short_again() -> None:
    estimator = LinkEstimator()
    now_s = 10.0
    for _ in range(4):
        now_s += late_probe(estimator, now_s)
    estimator.sent("probe", 18_000, now_s=now_s, probe=True)
    estimator.answered("probe", now_s=now_s + 0.1, server_s=0.04)
    assert not estimator.conditions(now_s=now_s + PROBE_PAUSE_S - 0.01).probe_due
    assert estimator.conditions(now_s=now_s + PROBE_PAUSE_S + 0.01).probe_due


def test_no_probe_beside_a_frame_that_is_under_way() -> None:
    estimator = LinkEstimator()
    assert estimator.conditions(now_s=0.0).probe_due
    estimator.sent(1, 20_000, now_s=0.0)
    assert not estimator.conditions(now_s=1.0).probe_due
    estimator.answered(1, now_s=1.1, server_s=0.04)
    assert estimator.conditions(now_s=1.1).probe_due


def test_a_late_frame_does_not_lengthen_the_pause_between_probes() -> None:
    estimator = LinkEstimator()
    for number in range(5):
        estimator.sent(number, 20_000, now_s=float(number))
        estimator.answered(number, now_s=number + 0.5, server_s=0.04)
    assert estimator.conditions(now_s=4.0 + 0.5).probe_due


def test_traffic_is_counted() -> None:
    estimator = LinkEstimator()
    estimator.sent(1, 100, now_s=0.0)
    estimator.sent(2, 40, now_s=0.0, probe=True)
    estimator.pinged(now_s=0.0)
    assert (estimator.bytes_sent, estimator.bytes_probing, estimator.pings) == (140, 40, 1)


# -- whatever happens ----------------------------------------------------------------------------

SECONDS = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-12, 1e300])
WHAT = (
    *("sent", "probe", "answered", "lost"),
    *("withdrawn", "broken", "pinged", "ponged", "look"),
)
EVENTS = st.lists(
    st.tuples(
        st.floats(0, 5) | st.sampled_from([0.0, 1e-9, 0.1, 1e5]),
        st.sampled_from(WHAT),
        st.integers(0, 5),
        st.integers(0, 10**9),
        st.none() | SECONDS,
        st.none() | SECONDS,
    ),
    max_size=60,
)


@given(EVENTS)
def test_beliefs_stay_numbers_whatever_happens(events: list[Any]) -> None:
    estimator = LinkEstimator()
    now_s, pings = 1000.0, [1000.0]
    for after_s, what, number, size, server_s, receive_s in events:
        now_s += after_s
        if what in {"sent", "probe"}:
            estimator.sent(number, size, now_s=now_s, probe=what == "probe")
        elif what == "answered":
            estimator.answered(number, now_s=now_s, server_s=server_s, receive_s=receive_s)
        elif what == "lost":
            estimator.lost(number, now_s=now_s)
        elif what == "withdrawn":
            estimator.withdrawn(number)
        elif what == "broken":
            estimator.broken()
        elif what == "pinged":
            estimator.pinged(now_s=now_s)
            pings.append(now_s)
        elif what == "ponged":
            estimator.ponged(pings[number % len(pings)], now_s=now_s)
        check(estimator.conditions(now_s=now_s))
    check(estimator.conditions(now_s=now_s + 1e9))


def check(known: LinkConditions) -> None:
    assert 0 < known.bits_per_s < math.inf
    assert 0 <= known.spread <= math.sqrt(MAX_VARIANCE) + 1e-9
    for seconds in (known.rtt_s, known.rtt_deviation_s, known.server_s, known.backlog_s):
        assert 0 <= seconds < math.inf
    assert known.idle_s >= 0
    assert known.in_flight >= 0


def test_memory_is_bounded_over_100_000_events() -> None:
    estimator = LinkEstimator()
    now_s = 0.0
    most_uploads = most_pings = 0
    for number in range(20_000):  # five events each, 100 of them in a second
        now_s += 0.05
        estimator.sent(number, 20_000, now_s=now_s, probe=number % 7 == 0)
        estimator.pinged(now_s=now_s)
        if number % 3 == 1:
            estimator.answered(number, now_s=now_s + 0.04, server_s=0.02)
        if number % 5 == 0:
            estimator.ponged(now_s, now_s=now_s + 0.04)
        estimator.conditions(now_s=now_s + 0.05)
        most_uploads = max(most_uploads, len(estimator._uploads))
        most_pings = max(most_pings, len(estimator._pings))
    # What is neither answered nor lost is given up after three seconds: 20 frames in each.
    assert most_uploads <= 20 * (LOST_S + 1)
    assert most_pings <= 20 * (LOST_S + 1)
