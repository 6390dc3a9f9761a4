import logging

import pytest

from hybrid_detect.server.peer_log import EVERY_S, LINES_AT_ONCE, MAX_PEERS, PeerLog

from ..clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> PeerLog:
    caplog.set_level(logging.WARNING)
    return PeerLog(logging.getLogger("test.peers"), clock=clock)


def test_a_peer_has_one_line_a_minute_with_a_count(
    log: PeerLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        log.note("a wrong credential", "192.0.2.7")
        clock.advance(0.01)
    assert caplog.messages == ["a wrong credential came from 192.0.2.7"]
    clock.advance(EVERY_S)
    log.note("a wrong credential", "192.0.2.7")
    assert caplog.messages[1:] == [
        "a wrong credential came from 192.0.2.7: 999 more times in a minute",
        "a wrong credential came from 192.0.2.7",
    ]


def test_another_peer_or_event_has_lines_of_its_own(
    log: PeerLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.note("a wrong credential", "192.0.2.7")
    log.note("a wrong credential", "192.0.2.8")
    log.note("no HTTP", "192.0.2.7")
    assert len(caplog.messages) == 3


def test_many_peers_together_are_at_most_a_line_a_second(
    log: PeerLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5000):
        log.note("a wrong credential", f"peer {number}")
        clock.advance(0.1)
    assert len(caplog.messages) <= 500 + LINES_AT_ONCE
    log.flush()
    assert "more events of other peers are not listed" in caplog.messages[-1]


def test_what_is_counted_is_told_at_the_end(log: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        log.note("a wrong credential", "192.0.2.7")
    log.flush()
    log.flush()
    assert caplog.messages[1:] == [
        "a wrong credential came from 192.0.2.7: 2 more times in a minute"
    ]


def test_what_is_remembered_is_bounded(log: PeerLog) -> None:
    for number in range(MAX_PEERS + 100):
        log.note("a wrong credential", f"peer {number}")
    assert len(log._told) == MAX_PEERS
