"""What the path to the server carries, learned from the frames and pings that crossed it.

Pure: every time comes in from outside, and no time is taken in that a client cannot read off its
own clock or out of a reply. In particular nothing tells when a queued upload really began: that
is inferred from what was sent before it.

Sources of the method and its constants: the project's measurements over 36 network traces,
`docs/explanation/choosing.md`; each constant says what it means.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

from hybrid_detect.selection.conditions import LinkConditions

__all__ = ["LinkEstimator"]

PRIOR_BITS_PER_S = 3e6
"""Before the first frame: between the 2.7 Mbit/s that Chromium assumes for WiFi and the 4 to
5 Mbit/s measured as the median uplink of LTE and 5G while driving."""

PRIOR_VARIANCE = 1.0
"""Of ln(bits/s) before the first frame: a factor of e either way."""

WALK_PER_S = 1.5
"""How fast the variance of ln(bits/s) grows without an observation: after a second, mobile
capacity is known to a factor of 3 at best."""

MAX_VARIANCE = 2.0

OBSERVATION_VARIANCE = 0.05
"""Of one upload's ln(bits/s): capacity moves by a fifth within the 100 ms of an upload."""

CENSORED_VARIANCE = 0.1
"""Added for an upload that is still in flight: it bounds the capacity from above only."""

PRIOR_RTT_S = 0.06
PRIOR_RTT_DEVIATION_S = 0.02
PRIOR_SERVER_S = 0.038

RTT_GAIN = 0.7
"""Weight of a new round trip below the estimate. One above it replaces it (as Finagle's PeakEwma
does): late news about a link that has become slow costs more than a missed chance."""

SERVER_GAIN = 0.1
"""Weight of a new server time: it depends on the server, not on the link, and moves slowly."""

MIN_RTT_DRIFT = 1.002
"""Growth of the floor under the round trip with each ping, so that it forgets a path left."""

MIN_TRANSFER_S = 0.003
"""Below this a duration says more about clocks than about the link."""

BUFFERED_SHARE = 0.1
BUFFERED_S = 0.05
"""A receive time below this share of what sending took by the client's own clock is not believed,
if sending took longer than this: a proxy that takes the whole upload before the server sees it
(nginx does unless told otherwise) makes the server receive at the speed of its own network. A
server at the link's end receives for as long as the link carries: the two differ by jitter alone.
"""

LOST_PING_S = 0.15
"""A ping out for longer (and for 1.5 round trips) counts as a round trip that long, so far."""

PROBE_PAUSE_S = 0.25
MAX_PROBE_PAUSE_S = 2.0
"""Pause between probes, doubled after each that was late. Source: the same measurements; breakers
between servers wait a minute, which at 10 fps is 600 frames."""

ON_TIME_S = 0.2
"""A probe answered within this has shown that frames can be sent again."""

LOST_S = 3.0
"""A frame without an answer for so long counts as lost; it may still be in a buffer until then."""

DOUBT_EVERY_S = 0.1
"""How often an upload that hangs is held against the link: at each frame of a stream of 10 fps,
for which the variances above were measured."""


@dataclass(slots=True)
class _Upload:
    sent_s: float
    bits: float
    probe: bool


class LinkEstimator:
    """Believes in a capacity (log-normal), a round trip and a server time, and keeps the queue.

    The capacity is a random walk of ln(bits/s), filtered as Kalman did. Report every frame with
    `sent` and then either `answered` or `lost`, every ping with `pinged` and `ponged`; ask for
    `conditions` at any moment. Times are monotonic seconds and never decrease.
    """

    def __init__(self) -> None:
        self._log_bits = math.log(PRIOR_BITS_PER_S)
        self._variance = PRIOR_VARIANCE
        self._variance_at_s: float | None = None
        self._rtt_s = PRIOR_RTT_S
        self._rtt_floor_s = PRIOR_RTT_S
        self._rtt_deviation_s = PRIOR_RTT_DEVIATION_S
        self._server_s = PRIOR_SERVER_S
        self._uploads: OrderedDict[Hashable, _Upload] = OrderedDict()
        self._drained_s = -math.inf  # when the last upload known to have ended did so
        self._last_sent_s = -math.inf
        self._heard_s = -math.inf
        self._probed_s = -math.inf
        self._probe_pause_s = PROBE_PAUSE_S
        self._doubted_s = -math.inf
        self._pings: deque[tuple[float, float]] = deque()  # (sent at, own queue before it)
        self._pinged_rtt_s: float | None = None
        self.bytes_sent = 0
        """Bytes of all frames reported."""
        self.bytes_probing = 0
        """Bytes of the frames that were sent as probes."""
        self.pings = 0
        """Pings reported."""

    # -- frames ------------------------------------------------------------------------------

    def sent(
        self, request_id: Hashable, size_bytes: int, *, now_s: float, probe: bool = False
    ) -> None:
        """A frame of `size_bytes` was handed to the network."""
        self._uploads[request_id] = _Upload(now_s, 8.0 * max(size_bytes, 1), probe)
        self.bytes_sent += size_bytes
        if probe:
            self._probed_s = now_s
            self.bytes_probing += size_bytes
        else:
            self._last_sent_s = now_s

    def answered(
        self,
        request_id: Hashable,
        *,
        now_s: float,
        server_s: float | None,
        receive_s: float | None = None,
    ) -> None:
        """The whole answer to a frame is there.

        Args:
            request_id: The frame's, as given to `sent`.
            now_s: When the answer was complete.
            server_s: Seconds that the server had the whole frame; `None` if it did not tell.
            receive_s: Seconds from the frame's first byte at the server to its last, if told.
        """
        upload = self._uploads.pop(request_id, None)
        if upload is None:
            return
        self._heard_s = now_s
        self._advance(now_s)
        if server_s is None:
            server_s = self._server_s
        # A server that is mistaken or lies cannot have had it for longer than it was away.
        away_s = now_s - upload.sent_s
        server_s = min(server_s, away_s)
        self._server_s += SERVER_GAIN * (server_s - self._server_s)
        is_queued = self._drained_s > upload.sent_s
        if receive_s is not None and self._is_buffered(upload, now_s - server_s, receive_s):
            receive_s = None
        if receive_s is not None:
            receive_s = min(receive_s, away_s)
            transfer_s = max(receive_s, MIN_TRANSFER_S)
            self._observe(math.log(upload.bits / transfer_s), OBSERVATION_VARIANCE)
            if not is_queued:
                self._observe_rtt(now_s - server_s - upload.sent_s - receive_s)
            ended_s = now_s - server_s - self._rtt_s
        else:
            ended_s = now_s - server_s - self._rtt_s
            # Of a queued upload the error in the round trip cancels: answers are spaced as
            # the ends of their uploads are.
            transfer_s = ended_s - max(upload.sent_s, self._drained_s)
            least_s = 0.25 * upload.bits / math.exp(self._log_bits)
            transfer_s = max(transfer_s, least_s, MIN_TRANSFER_S)
            doubt = (0.5 if is_queued else 1.0) * self._rtt_deviation_s / transfer_s
            self._observe(math.log(upload.bits / transfer_s), OBSERVATION_VARIANCE + doubt**2)
        self._drained_s = max(self._drained_s, ended_s)
        self._after_probe(upload, on_time=now_s - upload.sent_s <= ON_TIME_S)

    def _is_buffered(self, upload: _Upload, left_server_s: float, receive_s: float) -> bool:
        """Whether something took the upload before the server did, as far as pings tell.

        Args:
            upload: The upload that was answered.
            left_server_s: When the answer was here, less the server's own time.
            receive_s: What the server says that receiving took.
        """
        if self._pinged_rtt_s is None:
            return False
        began_s = max(upload.sent_s, self._drained_s)
        transfer_s = left_server_s - self._pinged_rtt_s - began_s
        return transfer_s > BUFFERED_S and receive_s < BUFFERED_SHARE * transfer_s

    def lost(self, request_id: Hashable, *, now_s: float) -> None:
        """A frame was given up, and what of it had not left was thrown away."""
        upload = self._uploads.pop(request_id, None)
        if upload is None:
            return
        self._advance(now_s)
        elapsed_s = max(now_s - max(upload.sent_s, self._drained_s), MIN_TRANSFER_S)
        # It had not left by now; after the longest wait it is not likely to have been close.
        hopeless = 0.5 if elapsed_s >= LOST_S - DOUBT_EVERY_S else 0.0
        seen = math.log(upload.bits / elapsed_s) - hopeless
        if seen < self._log_bits:
            self._observe(seen, OBSERVATION_VARIANCE)
        self._drained_s = max(self._drained_s, now_s)
        self._after_probe(upload, on_time=False)

    def withdrawn(self, request_id: Hashable) -> None:
        """A frame is not waited for any more, for reasons that say nothing about the link."""
        self._uploads.pop(request_id, None)

    def broken(self) -> None:
        """The connection is gone, and with it all that was on its way."""
        self._uploads.clear()
        self._pings.clear()

    def _after_probe(self, upload: _Upload, *, on_time: bool) -> None:
        if on_time:
            self._probe_pause_s = PROBE_PAUSE_S
        elif upload.probe:
            self._probe_pause_s = min(self._probe_pause_s * 2, MAX_PROBE_PAUSE_S)

    # -- pings -------------------------------------------------------------------------------

    def pinged(self, *, now_s: float) -> None:
        """A ping was sent, behind whatever was sent before it."""
        self._pings.append((now_s, self._backlog_s(now_s)))
        self.pings += 1
        while now_s - self._pings[0][0] > LOST_S:
            self._pings.popleft()

    def ponged(self, sent_s: float, *, now_s: float) -> None:
        """The answer came to the ping that was sent at `sent_s`; earlier ones are forgotten."""
        while self._pings and self._pings[0][0] <= sent_s:
            ping_s, queue_s = self._pings.popleft()
            if ping_s == sent_s:
                self._heard_s = now_s
                seen_s = max(now_s - sent_s - queue_s, 0.7 * self._rtt_floor_s)
                self._rtt_floor_s = min(self._rtt_floor_s * MIN_RTT_DRIFT, seen_s)
                self._observe_rtt(seen_s)
                self._pinged_rtt_s = seen_s

    def connected(self, rtt_s: float) -> None:
        """A connection to the server was made, which took one round trip of `rtt_s`.

        It serves to doubt receive times alone. A connection is made once, and before any frame: as
        a belief it would make the first predictions too good.
        """
        self._pinged_rtt_s = rtt_s

    @property
    def is_measured(self) -> bool:
        """Whether anything has ever come back."""
        return self._heard_s > -math.inf

    # -- beliefs -----------------------------------------------------------------------------

    def conditions(self, *, now_s: float) -> LinkConditions:
        """What is believed now."""
        self._give_up(now_s)
        self._advance(now_s)
        self._doubt_what_hangs(now_s)
        return LinkConditions(
            bits_per_s=math.exp(self._log_bits),
            spread=math.sqrt(self._variance),
            rtt_s=self._rtt_s,
            rtt_deviation_s=self._rtt_deviation_s,
            server_s=self._server_s,
            backlog_s=self._backlog_s(now_s),
            in_flight=len(self._uploads),
            idle_s=now_s - self._last_sent_s,
            silent_s=self._silent_s(now_s),
            probe_due=not self._uploads
            and now_s - max(self._probed_s, self._last_sent_s) >= self._probe_pause_s,
        )

    def _silent_s(self, now_s: float) -> float:
        asked = [upload.sent_s for upload in self._uploads.values()]
        asked += [ping_s for ping_s, _ in self._pings]
        return max(now_s - max(min(asked), self._heard_s), 0.0) if asked else 0.0

    def _give_up(self, now_s: float) -> None:
        late = [each for each, upload in self._uploads.items() if now_s - upload.sent_s > LOST_S]
        for request_id in late:
            self.lost(request_id, now_s=now_s)

    def _advance(self, now_s: float) -> None:
        if self._variance_at_s is not None:
            grown = self._variance + WALK_PER_S * max(now_s - self._variance_at_s, 0.0)
            self._variance = min(grown, MAX_VARIANCE)
        self._variance_at_s = now_s

    def _observe(self, log_bits: float, variance: float) -> None:
        gain = self._variance / (self._variance + variance)
        self._log_bits += gain * (log_bits - self._log_bits)
        self._variance *= 1 - gain

    def _observe_rtt(self, rtt_s: float) -> None:
        error = min(max(rtt_s, MIN_TRANSFER_S), 1.5) - self._rtt_s
        self._rtt_deviation_s += RTT_GAIN * (abs(error) - self._rtt_deviation_s)
        self._rtt_s += (RTT_GAIN if error < 0 else 1.0) * error

    def _doubt_what_hangs(self, now_s: float) -> None:
        for ping_s, _ in self._pings:
            if now_s - ping_s > max(LOST_PING_S, 1.5 * self._rtt_s):
                self._rtt_s = max(self._rtt_s, now_s - ping_s)
        oldest = next(iter(self._uploads.values()), None)
        if oldest is None or now_s - self._doubted_s < DOUBT_EVERY_S - 1e-9:
            return
        self._doubted_s = now_s
        under_way_s = now_s - max(oldest.sent_s, self._drained_s) - self._rtt_s - self._server_s
        if under_way_s > 0.03:
            seen = math.log(oldest.bits / under_way_s)
            if seen < self._log_bits:
                self._observe(seen, OBSERVATION_VARIANCE + CENSORED_VARIANCE)

    def _backlog_s(self, now_s: float) -> float:
        bits_per_s = math.exp(self._log_bits)
        drained_s = self._drained_s
        for upload in self._uploads.values():
            drained_s = max(drained_s, upload.sent_s) + upload.bits / bits_per_s
        if self._uploads:
            drained_s = max(drained_s, now_s - 0.5 * self._rtt_s)
        return max(0.0, drained_s - now_s)
