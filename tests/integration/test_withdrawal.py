"""Consent is asked at the socket: once `withdraw` has returned, no picture is handed to one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import numpy as np
import pytest

from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import HybridDetectError
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FaultyLink
from hybrid_detect.types import DetectionResult

from ..loop_steps import LoopSteps
from ..server.loopback import served
from ..waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

NOISE = np.random.default_rng(7).integers(0, 256, (480, 640, 3), dtype=np.uint8)
SMALL_BYTES = 2000
"""Heads, pings and farewells are smaller than this; the picture is 40 times as large."""


class Sent:
    """Counts the bytes that were handed to sockets connected to `port`."""

    def __init__(self, port: int, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = {name: getattr(socket.socket, name) for name in ("send", "sendmsg")}

        def counted(name: str) -> Any:
            def send(sock: socket.socket, *arguments: Any) -> int:
                taken: int = real[name](sock, *arguments)
                with contextlib.suppress(OSError):
                    if sock.family is socket.AF_INET and sock.getpeername()[1] == port:
                        self.bytes += taken
                return taken

            return send

        for name in real:
            patch.setattr(socket.socket, name, counted(name), raising=False)


def service_of(mode: str, url: str, ledger: ConsentLedger) -> HybridDetectionService:
    backend: Backend = (
        CloudDetectionService(endpoint=url) if mode == "cloud" else StreamingService(endpoint=url)
    )
    return HybridDetectionService(
        session_id="ann",
        config=ServiceConfig(endpoint=url, mode=mode, deadline_s=5.0),
        backends=[backend],
        privacy=PrivacyPolicy(require_consent=True, consent_version="1"),
        consent=ledger,
    )


@pytest.mark.parametrize("is_slow", [False, True], ids=["free link", "stalled link"])
@pytest.mark.parametrize("mode", ["cloud", "streaming"])
async def test_after_a_withdrawal_at_any_step_no_picture_is_sent(
    mode: str, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(ServerConfig(rate_per_s=0)) as server,
        FaultyLink(f"http://127.0.0.1:{server.port}") as link,
    ):
        port = int(link.url.rpartition(":")[2])
        sent = Sent(port, monkeypatch)
        ledger = ConsentLedger()
        service = service_of(mode, link.url, ledger)
        refused = 0
        async with service:
            for number in range(1000):
                ledger.grant("ann", version="1", recorded_by="test")
                assert (await answer_of(service)).answered
                withdrawn_at: list[int] = []
                if is_slow:
                    link.stall()
                before = sent.bytes
                asking = asyncio.ensure_future(answer_of(service))

                def withdraw(
                    step: int, number: int = number, asking: asyncio.Future[Any] = asking
                ) -> None:
                    if step == number and not asking.done():
                        ledger.withdraw("ann", recorded_by="test")
                        withdrawn_at.append(sent.bytes)  # noqa: B023 - it is this round's

                with LoopSteps(withdraw):
                    if is_slow:
                        asyncio.get_running_loop().call_later(1.0, link.resume)
                    await asking
                    await asyncio.sleep(2.0)  # what lay in a buffer has had its time
                if not withdrawn_at:
                    break  # the call was over before the step came
                after = sent.bytes - withdrawn_at[0]
                assert after < SMALL_BYTES, f"{after} bytes left after step {number}"
                refused += withdrawn_at[0] - before < SMALL_BYTES
                await until(lambda: not service.status().backends[0].unavailable_reason)
        assert refused >= 3, "no withdrawal came before the picture was sent"


async def answer_of(service: HybridDetectionService) -> Any:
    result: DetectionResult | None = None
    with contextlib.suppress(HybridDetectError):
        result = await service.process_image(NOISE)
    return result
