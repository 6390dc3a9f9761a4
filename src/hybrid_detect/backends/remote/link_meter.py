"""What remote backends learn from their uploads about the link to each host."""

from __future__ import annotations

import itertools
import time
import typing
from collections.abc import Callable, Iterator

from hybrid_detect.charges import SentRequest
from hybrid_detect.compression.size_law import size_share
from hybrid_detect.selection.link import LinkEstimator

__all__ = ["Gate", "LinkMeter", "LinkMeters", "Upload"]

_numbers = itertools.count()


class Gate(typing.Protocol):
    """Lets a request leave and records it: an `UploadGate`, or those of several pictures as one."""

    def hand_over(self, request: SentRequest) -> int:
        """As in `UploadGate`."""

    def record(self, request: SentRequest) -> int:
        """As in `UploadGate`."""

    def answered(self, place: int) -> None:
        """As in `UploadGate`."""


class Upload:
    """One request that is being sent or answered; made by `LinkMeter.upload`."""

    def __init__(
        self, meter: LinkMeter, request: SentRequest, *, probe: bool, gate: Gate | None
    ) -> None:
        self._meter = meter
        self._number = next(_numbers)
        self._request = request
        self._size_bytes = request.bytes_sent
        self._probe = probe
        self._gate = gate
        self._place: int | None = None
        self._begun_s = meter.clock()
        self._is_sent = False

    @property
    def images(self) -> int:
        """Pictures in it."""
        return self._request.images

    def handed_over(self) -> None:
        """The network has it as soon as this returns: hand it over without an `await` between.

        Raises:
            BackendUnavailableError: If the frame may not leave any more, or the budget is spent.
        """
        if self._gate is not None:
            self._place = self._gate.hand_over(self._request)
        self._begun_s = self._meter.clock()
        self._send()

    def has_left(self) -> None:
        """A response has come, so that it left, even if its channel did not call `handed_over`."""
        if not self._is_sent and self._gate is not None:
            self._place = self._gate.record(self._request)
        self._send()

    def _send(self) -> None:
        if not self._is_sent:
            self._is_sent = True
            self._meter.link.sent(
                self._number, self._size_bytes, now_s=self._begun_s, probe=self._probe
            )

    def answered(self, *, now_s: float, server_s: float | None, receive_s: float | None) -> None:
        """Its answer was complete at `now_s`."""
        self.has_left()
        if self._gate is not None and self._place is not None:
            self._gate.answered(self._place)
        self._meter.link.answered(self._number, now_s=now_s, server_s=server_s, receive_s=receive_s)

    def answered_unread(self) -> None:
        """Its answer has come after it was given up."""
        self._send()
        self._meter.link.answered(
            self._number, now_s=self._meter.clock(), server_s=None, receive_s=None
        )

    def given_up(self, *, still_comes: bool) -> None:
        """Its caller has given it up.

        Args:
            still_comes: Whether it goes on over the link all the same, and is answered.
        """
        if self._is_sent:
            self._meter.wasted_bytes += self._size_bytes
        if not still_comes:
            self._meter.link.lost(self._number, now_s=self._meter.clock())

    def failed(self) -> None:
        """It was refused, or its connection broke: that says nothing of the link's rate."""
        self._meter.link.withdrawn(self._number)


class LinkMeter:
    """Watches the uploads to one host.

    Args:
        link: Learns from them.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self, link: LinkEstimator | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.link = link or LinkEstimator()
        self.clock = clock
        self.wasted_bytes = 0
        """Bytes of the uploads that were given up before their answers had come."""

    def upload(
        self, request: SentRequest, *, probe: bool = False, gate: Gate | None = None
    ) -> Upload:
        """`request` is about to be sent.

        Args:
            request: Its size and where it goes.
            probe: Whether it is sent mainly to learn what the link carries.
            gate: Asked right before it is handed over.
        """
        return Upload(self, request, probe=probe, gate=gate)

    def expected_s(self, size_bytes: int, pictures: int) -> float:
        """Seconds from now in which a request of `size_bytes` will be answered, as a median.

        Args:
            size_bytes: Its size.
            pictures: Pictures in it, which the server is taken to look at one after the other.
        """
        link = self.link.conditions(now_s=self.clock())
        sending_s = link.backlog_s + 8 * size_bytes / link.bits_per_s
        return sending_s + link.rtt_s + pictures * link.server_s


class LinkMeters:
    """One `LinkMeter` for each host; the backends of a service share them.

    Args:
        default_host: The host of backends that name none.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self, default_host: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._default_host = default_host
        self._clock = clock
        self._meters: dict[str, LinkMeter] = {}
        self.frame_bytes: float | None = None
        """What the last frame would have weighed at full size and quality 80."""

    def of(self, host: str) -> LinkMeter:
        """The meter of the link to `host`; it begins with nothing known."""
        host = host or self._default_host
        meter = self._meters.get(host)
        if meter is None:
            meter = self._meters[host] = LinkMeter(clock=self._clock)
        return meter

    def __iter__(self) -> Iterator[LinkMeter]:
        return iter(self._meters.values())

    def record_size(self, size_bytes: int, *, quality: int, scale: float) -> None:
        """A picture came to `size_bytes` at a `quality` and a `scale`: the next will be alike."""
        self.frame_bytes = size_bytes / size_share(quality, scale)
