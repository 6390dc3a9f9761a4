"""Switches between backends, of any number of sessions."""

from hybrid_detect.monitoring.switches import MAX_SESSIONS, Switches


def test_each_session_has_a_backend_before() -> None:
    switches = Switches()
    assert switches.before("cloud", "ann") == "cloud"
    assert switches.before("device", "bob") == "device"
    assert switches.before("device", "ann") == "cloud"
    assert switches.before("device", "ann") == "device"
    assert switches.before("cloud") == "cloud"
    assert switches.before("device", "") == "cloud"


def test_the_session_unseen_for_longest_is_forgotten() -> None:
    switches = Switches()
    switches.before("cloud", "seen again")
    switches.before("cloud", "unseen")
    for number in range(MAX_SESSIONS - 2):
        switches.before("cloud", str(number))
    switches.before("cloud", "seen again")
    switches.before("cloud", "one too many")
    assert switches.before("device", "seen again") == "cloud"
    assert switches.before("device", "unseen") == "device"
    assert len(switches._latest) == MAX_SESSIONS
