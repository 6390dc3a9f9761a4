"""Consent is asked at the socket: no byte of a picture is handed to it once consent has ended.

A server on loopback takes little or nothing, so that pictures lie in buffers; consent ends at every
step of the event loop, at random moments, and by itself. What the client's sockets are given is
watched at the call itself.
"""

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.types import BackendKind

from ..waiting import LIMIT_S, until
from .stalling_server import stalling_server, steps

pytestmark = pytest.mark.anyio

IMAGE = np.random.default_rng(5).integers(0, 255, (480, 640, 3), np.uint8)
PICTURE_BYTES = 1500
"""More than this in one send is part of a picture: heads, pings and announcements are shorter."""


class Sockets:
    """Watches what the process's sockets are given, in pieces that can only be a picture's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended = False
        self.sent = self.late = 0
        send = socket.socket.send

        def watched_send(sock: socket.socket, data: Any, *rest: Any) -> int:
            count = send(sock, data, *rest)
            if len(data) > PICTURE_BYTES:
                self.sent += count
                if self.ended:
                    self.late += count
            return count

        monkeypatch.setattr(socket.socket, "send", watched_send)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Sockets:
    return Sockets(monkeypatch)


def service_for(kind: str, url: str, ledger: ConsentLedger) -> HybridDetectionService:
    return HybridDetectionService(
        config=ServiceConfig(
            endpoint=url, auth_token="t", mode=kind, session_id="s", deadline_s=LIMIT_S
        ),
        privacy=PrivacyPolicy(require_consent=True, consent_version="1"),
        consent=ledger,
    )


@pytest.fixture(autouse=True)
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers nothing, so that a check would take its whole time."""

    async def check(self: Any, *, deadline_s: float) -> None:
        await self.start()

    monkeypatch.setattr(CloudDetectionService, "check", check)
    monkeypatch.setattr(StreamingService, "check", check)


@asynccontextmanager
async def ready(
    kind: str, sockets: Sockets
) -> AsyncIterator[Callable[..., Coroutine[Any, Any, None]]]:
    """A service whose frames go to a stalling server; gives what tries one withdrawal."""
    ledger = ConsentLedger()

    async def withdrawn_after(
        wait: Callable[[], Any], *, elsewhere: bool = False, frames: int = 1
    ) -> None:
        """Send frames, end consent when `wait` says, and wait for the frames' end."""
        ledger.grant("s", version="1", recorded_by="test")
        await until(lambda: not service.status().backends[0].unavailable_reason)
        sockets.ended = False
        asked = [asyncio.create_task(service.process_image(IMAGE)) for _ in range(frames)]
        await wait()
        if elsewhere:
            thread = threading.Thread(target=end, args=(ledger, sockets))
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0)
        else:
            end(ledger, sockets)
        await asyncio.wait(asked, timeout=LIMIT_S)
        assert all(isinstance(each.exception(), AllBackendsFailedError) for each in asked)
        await steps(20)

    async with stalling_server(kind) as url, service_for(kind, url, ledger) as service:
        yield withdrawn_after


def end(ledger: ConsentLedger, sockets: Sockets) -> None:
    ledger.withdraw("s", recorded_by="test")
    sockets.ended = True


async def sending(sockets: Sockets) -> None:
    before = sockets.sent
    await until(lambda: sockets.sent > before)


@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_nothing_leaves_after_a_withdrawal_at_any_step_of_the_loop(
    kind: str, sockets: Sockets
) -> None:
    async with ready(kind, sockets) as withdrawn_after:
        for count in range(0, 15, 3):  # every step: tests/integration/test_withdrawal.py

            async def wait(count: int = count) -> None:
                # Steps pass quickly while the picture is compressed in its thread.
                await asyncio.sleep(0.002 * (count // 3))
                await steps(count)

            await withdrawn_after(wait)
            assert sockets.late == 0, f"after {count} steps"


@pytest.mark.parametrize("is_leaving", [False, True], ids=["before it leaves", "in the buffer"])
async def test_nothing_leaves_of_a_request_that_frames_share(
    is_leaving: bool, sockets: Sockets
) -> None:
    async with ready("cloud", sockets) as withdrawn_after:
        for count in range(0, 40, 4):

            async def wait(count: int = count) -> None:
                await (sending(sockets) if is_leaving else asyncio.sleep(0.004 * (count // 4)))
                await steps(count)

            await withdrawn_after(wait, frames=4)
            assert sockets.late == 0, f"after {count} steps"
    assert sockets.sent > 0 or not is_leaving


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the loop", "in another thread"])
@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_nothing_leaves_of_a_picture_that_lies_in_the_buffer(
    kind: str, elsewhere: bool, sockets: Sockets
) -> None:
    async with ready(kind, sockets) as withdrawn_after:
        for count in range(5):

            async def wait(count: int = count) -> None:
                await sending(sockets)
                await steps(count)

            await withdrawn_after(wait, elsewhere=elsewhere)
    assert sockets.sent > 0
    assert sockets.late == 0


@pytest.mark.hostile
@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_nothing_leaves_after_five_hundred_withdrawals(kind: str, sockets: Sockets) -> None:
    chance = random.Random(11)
    async with ready(kind, sockets) as withdrawn_after:
        for number in range(250):

            async def wait() -> None:
                if chance.random() < 0.5:
                    await asyncio.sleep(chance.random() * 0.05)
                else:
                    await sending(sockets)
                await steps(chance.randrange(30))

            await withdrawn_after(wait, elsewhere=bool(number % 2))
            assert sockets.late == 0, f"round {number}"
    assert sockets.sent > 0


@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_nothing_leaves_after_consent_has_expired(kind: str, sockets: Sockets) -> None:
    ledger = ConsentLedger()
    async with stalling_server(kind) as url, service_for(kind, url, ledger) as service:
        await until(lambda: service._backends.by_kind[BackendKind(kind)].conditions().usable)
        expires_at = datetime.now(UTC) + timedelta(seconds=1.0)
        ledger.grant("s", version="1", recorded_by="test", expires_at=expires_at)
        asked = asyncio.create_task(service.process_image(IMAGE))
        await sending(sockets)
        await until(lambda: datetime.now(UTC) > expires_at)
        sockets.ended = True
        await asyncio.wait([asked], timeout=LIMIT_S)
        assert isinstance(asked.exception(), AllBackendsFailedError)
        assert sockets.late == 0
