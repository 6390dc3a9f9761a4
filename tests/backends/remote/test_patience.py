"""A limit that follows what the network needs."""

from __future__ import annotations

from hybrid_detect.backends.remote.patience import Patience


def test_the_limit_doubles_while_it_is_not_enough_and_has_an_end() -> None:
    patience = Patience(usual_s=3.0, longest_s=15.0)
    limits = []
    for _ in range(4):
        limits.append(patience.limit_s)
        patience.ran_out()
    assert limits == [3.0, 6.0, 12.0, 15.0]


def test_it_follows_what_succeeded_and_comes_back_to_the_usual() -> None:
    patience = Patience(usual_s=3.0, longest_s=15.0)
    patience.took(5.0)
    assert patience.limit_s == 10.0
    patience.took(40.0)
    assert patience.limit_s == 15.0
    patience.took(0.01)
    assert patience.limit_s == 3.0
