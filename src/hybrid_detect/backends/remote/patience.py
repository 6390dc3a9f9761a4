"""How long to wait for a link or a check: as long as this network has been seen to need."""

from __future__ import annotations

__all__ = ["Patience"]

GROWTH = 2.0
"""Factor after an attempt that ran out of time, as of a retransmission timer: RFC 6298, 5.5."""

MARGIN = 2.0
"""The next attempt may take so many times what the last one that succeeded took."""


class Patience:
    """A limit of time that follows the network.

    A fixed limit rules slow but living networks out: over a satellite with a round trip of 1.6 s,
    TCP, TLS and one request take more than 6 s.

    Args:
        usual_s: Seconds that are enough on most networks; never less.
        longest_s: Seconds after which an attempt is given up in any case.
    """

    def __init__(self, *, usual_s: float, longest_s: float) -> None:
        self._usual_s = usual_s
        self._longest_s = longest_s
        self.limit_s = usual_s
        """Seconds that the next attempt may take."""

    def ran_out(self) -> None:
        """An attempt took longer than the limit."""
        self.limit_s = min(self.limit_s * GROWTH, self._longest_s)

    def took(self, elapsed_s: float) -> None:
        """An attempt succeeded after `elapsed_s`."""
        self.limit_s = min(max(MARGIN * elapsed_s, self._usual_s), self._longest_s)
