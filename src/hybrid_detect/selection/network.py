"""The network's class: what a frame needs, compared with what the link carries.

The classes are meant for people, logs and simple rules; a policy that computes takes the numbers.
Pure: time comes in from outside.
"""

from __future__ import annotations

import math

from hybrid_detect.selection.conditions import NetworkClass
from hybrid_detect.types import DEFAULT_TARGET_BYTES

__all__ = ["NetworkClassifier"]

DEADLINE_S = 0.2
"""A frame that is answered within this feels immediate: the project's own goal."""

SERVER_S = 0.04
"""Of which the server takes this for a frame once it has it: median 35 ms, and 5 ms to encode it
before. Source: `docs/explanation/choosing.md`."""

GOOD_BYTES = DEFAULT_TARGET_BYTES
"""A frame at full quality: the budget of a compressed 1280x720 picture."""

MODERATE_BYTES = 18_000
"""A frame at the lowest rung, 640x360 at quality 50. Source: as `SERVER_S`."""

ENTER_SHARE = 0.7
"""A better class has to be deserved: its frame crosses in this share of the time there is."""

LEAVE_SHARE = 0.9
"""A class is kept as long as its frame crosses in this share of the time there is. Source of both
shares: the players' factors before they go up (0.7) and down (0.9), in dash.js and hls.js."""

ASSUMED_RTT_S = 0.06
ASSUMED_BITS_PER_S = 3e6
"""In place of what was not measured: between the 2.7 Mbit/s that Chromium assumes for WiFi and the
4 to 5 Mbit/s of LTE and 5G while driving. It makes nothing `GOOD` that was not measured."""

OFFLINE_AFTER_S = 3.0
"""A request that is unanswered for so long means that there is no network, not that it is slow.
Source: the time after which Chromium's quality estimator takes a request for hanging."""

DWELL_S = 2.0
"""A class holds for so long at least, so that a caller that acts on it can finish its action."""

_BY_RANK = (NetworkClass.SLOW, NetworkClass.MODERATE, NetworkClass.GOOD)
_NEEDS = ((NetworkClass.GOOD, GOOD_BYTES), (NetworkClass.MODERATE, MODERATE_BYTES))


class NetworkClassifier:
    """Puts readings of the network into a class, and does not change its mind too often.

    ``GOOD``: a frame of 80 KB reaches the server and its answer is back within 200 ms, with a
    margin. ``MODERATE``: one of 18 KB does. ``SLOW``: neither does, but the link answers.
    ``OFFLINE``: nothing came back for `OFFLINE_AFTER_S`. ``UNKNOWN``: nothing has been measured
    yet, or not since the network came back.

    With a round trip of 60 ms, it takes 12.6 Mbit/s to become ``GOOD`` and 7.8 to stay so; 2.8 to
    become ``MODERATE`` and 1.7 to stay so.
    """

    def __init__(self) -> None:
        self.network = NetworkClass.UNKNOWN
        """The class as of the last reading."""
        self._changed_s = -math.inf

    def classify(
        self,
        *,
        now_s: float,
        rtt_s: float | None = None,
        bits_per_s: float | None = None,
        silent_s: float = 0.0,
    ) -> NetworkClass:
        """Take in a reading and give the class. Never raises.

        Args:
            now_s: Monotonic time in seconds.
            rtt_s: Round trip of a small message in seconds; `None` if not measured.
            bits_per_s: What the uplink carries, in bits per second; `None` if not measured.
            silent_s: Seconds for which something was asked and nothing came back.
        """
        wanted = self._wanted(rtt_s, bits_per_s, silent_s)
        if wanted is not self.network and now_s - self._changed_s >= DWELL_S:
            self.network = wanted
            self._changed_s = now_s
        return self.network

    def _wanted(
        self, rtt_s: float | None, bits_per_s: float | None, silent_s: float
    ) -> NetworkClass:
        if silent_s >= OFFLINE_AFTER_S:
            return NetworkClass.OFFLINE
        rtt_s, bits_per_s = _measured(rtt_s), _measured(bits_per_s)
        if rtt_s is None and bits_per_s is None:
            is_offline = self.network is NetworkClass.OFFLINE
            return NetworkClass.UNKNOWN if is_offline else self.network
        rtt_s = ASSUMED_RTT_S if rtt_s is None else rtt_s
        bits_per_s = ASSUMED_BITS_PER_S if bits_per_s is None else bits_per_s
        for network, size_bytes in _NEEDS:
            share = LEAVE_SHARE if self._is_at_least(network) else ENTER_SHARE
            if _crossing_s(size_bytes, rtt_s, bits_per_s) <= share * (DEADLINE_S - SERVER_S):
                return network
        return NetworkClass.SLOW

    def _is_at_least(self, network: NetworkClass) -> bool:
        return self.network in _BY_RANK[_BY_RANK.index(network) :]


def _crossing_s(size_bytes: int, rtt_s: float, bits_per_s: float) -> float:
    """Seconds for a frame there and its answer back, but for the server's time."""
    return rtt_s + 8 * size_bytes / bits_per_s if bits_per_s > 0.0 else math.inf


def _measured(value: float | None) -> float | None:
    """`value`, unless it is no number."""
    return None if value is None or math.isnan(value) else max(value, 0.0)
