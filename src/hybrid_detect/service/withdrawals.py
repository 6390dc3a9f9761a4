"""Watches for consents that are withdrawn while their frames are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.consent_record import ConsentRecord
from hybrid_detect.service.loop_thread import call_in_loop

__all__ = ["Withdrawals"]


class Withdrawals:
    """Recalls the frames of one subject when that one's consent is withdrawn.

    Args:
        consent: The consents; `None` if there are none.
        subject: Whose consent it is.
        recall: Called in the event loop's thread, before `ConsentLedger.withdraw` returns.
    """

    def __init__(
        self, consent: ConsentLedger | None, *, subject: str | None, recall: Callable[[], None]
    ) -> None:
        self._consent = consent
        self._subject = subject
        self._recall = recall
        self._stops: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to watch. Call it in the event loop."""
        if self._consent is None:
            return
        loop = asyncio.get_running_loop()

        def on_withdrawal(record: ConsentRecord) -> None:
            if record.subject == self._subject:
                call_in_loop(loop, self._recall)

        self._stops = self._consent.on_withdrawal(on_withdrawal)

    def stop(self) -> None:
        """Watch no more. May be called more than once."""
        stops, self._stops = self._stops, None
        if stops is not None:
            stops()
