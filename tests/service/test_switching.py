"""Mode and privacy are changed while the service is open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import hybrid_detect
from hybrid_detect.backends.base import Backend
from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.streaming import StreamingService
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError, ClosedError, ConfigurationError
from hybrid_detect.monitoring.events import BackendEvent, SettingsEvent
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.fixed import FixedPolicy
from hybrid_detect.selection.policy import ORDERS
from hybrid_detect.service import backend_factory
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, DetectionMode

from ..waiting import LIMIT_S, until
from .stalling_server import stalling_server, steps

pytestmark = pytest.mark.anyio

IMAGE = np.zeros((48, 64, 3), np.uint8)
NOISE = np.random.default_rng(5).integers(0, 255, (480, 640, 3), np.uint8)
PICTURE_BYTES = 1500
"""More than this in one send is part of a picture: heads, pings and announcements are shorter."""
CLOUD, STREAMING, DEVICE = BackendKind.CLOUD, BackendKind.STREAMING, BackendKind.DEVICE


class Made:
    """Stands for the backends that a service makes; keeps all of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.all: list[Fake] = []
        self.broken: set[BackendKind] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        patch.setattr(backend_factory, "create_backend", self._create)

    def _create(self, kind: BackendKind, _config: ServiceConfig) -> Backend:
        if kind in self.broken:
            msg = f"no {kind.value} here"
            raise ConfigurationError(msg)
        self.all.append(fake := Fake(kind, self.gate))
        return fake

    def open(self) -> list[BackendKind]:
        """The kinds of those that are open, sorted."""
        return sorted(fake.kind for fake in self.all if not fake.is_closed)

    def of(self, kind: BackendKind) -> list[Fake]:
        return [fake for fake in self.all if fake.kind is kind]


class Fake(FakeBackend):
    """A fake whose first check waits for a gate, and whose frames for an event."""

    def __init__(self, kind: BackendKind, gate: asyncio.Event) -> None:
        super().__init__(kind)
        self._gate = gate
        self.holds: asyncio.Event | None = None

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def check(self, *, deadline_s: float) -> None:
        await self._gate.wait()
        await super().check(deadline_s=deadline_s)

    async def detect(self, frame: Any, plan: Any) -> Any:
        result = await super().detect(frame, plan)
        if self.holds is not None:
            await self.holds.wait()
            self._raise_if_told()
        return result


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


def service_of(mode: str, **options: Any) -> HybridDetectionService:
    config = ServiceConfig(endpoint="http://localhost:1", deadline_s=LIMIT_S, mode=mode)
    return HybridDetectionService(config=config, **options)


@pytest.mark.virtual_time
@pytest.mark.parametrize("mode", DetectionMode)
async def test_a_mode_has_its_backends_alone_and_its_first_answers(
    mode: DetectionMode, made: Made
) -> None:
    async with service_of("cloud" if mode is not DetectionMode.CLOUD else "on_device") as service:
        await service.set_mode(mode.value)
        await service.wait_ready()
        assert service.status().mode is service.config.mode is mode
        await until(lambda: made.open() == sorted(ORDERS[mode]))
        result = await service.process_image(IMAGE)
        assert result.backend in ORDERS[mode]
        if mode is not DetectionMode.AUTO:
            assert result.backend is ORDERS[mode][0]
        assert mode.value in result.reason or mode is DetectionMode.AUTO
    assert made.open() == []


@pytest.mark.virtual_time
async def test_frames_under_way_keep_their_plan_and_their_backend(made: Made) -> None:
    async with service_of("cloud") as service:
        (cloud,) = made.of(CLOUD)
        cloud.holds = asyncio.Event()
        asked = asyncio.create_task(service.process_image(IMAGE))
        await until(lambda: cloud.plans)
        await service.set_mode("on_device")
        assert (await service.process_image(IMAGE)).backend is DEVICE
        assert not cloud.is_closed
        cloud.holds.set()
        assert (await asked).backend is CLOUD
        await until(lambda: cloud.is_closed)
        assert [status.kind for status in service.status().backends] == [DEVICE]


@pytest.mark.virtual_time
async def test_a_fallback_that_only_the_old_mode_has_still_serves_its_frames(made: Made) -> None:
    async with service_of("prefer_cloud") as service:
        await service.wait_ready()
        (cloud,) = made.of(CLOUD)
        cloud.holds = asyncio.Event()
        asked = asyncio.create_task(service.process_image(IMAGE))
        await until(lambda: cloud.plans)
        await service.set_mode("cloud")
        cloud.error = hybrid_detect.BackendUnavailableError("gone")
        cloud.holds.set()
        assert (await asked).backend is DEVICE
        await until(lambda: made.open() == [CLOUD])


@pytest.mark.virtual_time
async def test_a_mode_that_comes_back_meanwhile_finds_its_backend_as_it_was(made: Made) -> None:
    async with service_of("cloud") as service:
        (cloud,) = made.of(CLOUD)
        cloud.holds = asyncio.Event()
        asked = asyncio.create_task(service.process_image(IMAGE))
        await until(lambda: cloud.plans)
        await service.set_mode("on_device")
        await service.set_mode("cloud")
        cloud.holds.set()
        await asked
        assert (await service.process_image(IMAGE)).backend is CLOUD
        assert made.of(CLOUD) == [cloud]
        await until(lambda: made.open() == [CLOUD])


@pytest.mark.virtual_time
async def test_the_old_mode_serves_until_the_new_one_is_ready(made: Made) -> None:
    async with service_of("cloud") as service:
        made.gate.clear()
        switching = asyncio.create_task(service.set_mode("on_device"))
        await until(lambda: made.of(DEVICE))
        await steps(20)
        assert not switching.done()
        assert (await service.process_image(IMAGE)).backend is CLOUD
        made.gate.set()
        await switching
        assert (await service.process_image(IMAGE)).backend is DEVICE


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["cancelled", "impossible", "unknown"])
async def test_a_change_that_did_not_come_about_leaves_nothing(end: str, made: Made) -> None:
    async with service_of("cloud") as service:
        if end == "cancelled":
            made.gate.clear()
            switching = asyncio.create_task(service.set_mode("on_device"))
            await until(lambda: made.of(DEVICE))
            await steps(20)
            switching.cancel()
            await asyncio.wait([switching])
        elif end == "impossible":
            made.broken.add(DEVICE)
            with pytest.raises(ConfigurationError, match="no device here"):
                await service.set_mode("on_device")
        else:
            with pytest.raises(ConfigurationError, match=r"expected one of auto, .*got 'clod'"):
                await service.set_mode("clod")
            with pytest.raises(ConfigurationError, match="expected one of default, local_only"):
                await service.set_privacy("local-only")
        assert made.open() == [CLOUD]
        assert service.status().mode is DetectionMode.CLOUD
        assert (await service.process_image(IMAGE)).backend is CLOUD


async def test_a_closed_service_refuses() -> None:
    service = HybridDetectionService(backends=[FakeBackend()])
    with pytest.raises(ClosedError):
        await service.set_mode("auto")
    with pytest.raises(ClosedError):
        await service.set_privacy("local_only")


@pytest.mark.virtual_time
async def test_local_only_closes_what_sends_and_default_brings_it_back(made: Made) -> None:
    async with service_of("prefer_cloud") as service:
        await service.wait_ready()
        assert (await service.process_image(IMAGE)).backend is CLOUD
        await service.set_privacy("local_only")
        assert made.open() == [DEVICE]
        assert not service.status().privacy.may_leave
        result = await service.process_image(IMAGE)
        assert result.backend is DEVICE
        assert "lets no frame leave" in result.reason
        await service.set_privacy("default")
        await service.wait_ready()
        assert (await service.process_image(IMAGE)).backend is CLOUD
        assert service.status().privacy.may_leave


@pytest.mark.virtual_time
async def test_where_no_backend_is_left_frames_fail_and_say_why(made: Made) -> None:
    async with service_of("cloud") as service:
        await service.set_privacy("local_only")
        with pytest.raises(AllBackendsFailedError, match="lets no frame leave the device"):
            await service.process_image(IMAGE)
        with pytest.raises(ConfigurationError, match="lets no frame leave the device"):
            await service.set_mode("streaming")
        await service.set_mode("on_device")
        assert (await service.process_image(IMAGE)).backend is DEVICE
        await service.set_privacy("default")
        assert (await service.process_image(IMAGE)).backend is DEVICE
    assert len(made.of(CLOUD)) == 1  # none was made for a mode without it


@pytest.mark.virtual_time
async def test_privacy_that_tightens_while_a_mode_starts_keeps_its_backend_away(made: Made) -> None:
    async with service_of("on_device") as service:
        made.gate.clear()
        switching = asyncio.create_task(service.set_mode("prefer_cloud"))
        privacy = asyncio.create_task(service.set_privacy("local_only"))
        await asyncio.wait([switching, privacy])
        made.gate.set()
        assert CLOUD not in made.open()
        assert (await service.process_image(IMAGE)).backend is DEVICE


@pytest.mark.virtual_time
async def test_no_mode_waits_for_a_backend_that_privacy_has_closed_meanwhile(made: Made) -> None:
    made.gate.clear()
    service = service_of("auto")
    entering = asyncio.create_task(service.__aenter__())
    await until(lambda: len(made.all) == 3)
    await steps(20)
    switching = asyncio.create_task(service.set_mode("cloud"))
    await steps(20)
    await asyncio.wait_for(service.set_privacy("local_only"), LIMIT_S)
    await asyncio.wait_for(switching, LIMIT_S)
    made.gate.set()
    await entering
    assert service.status().mode is DetectionMode.CLOUD
    await service.aclose()


@pytest.mark.virtual_time
async def test_one_of_two_denied_backends_of_a_kind_is_still_closed_in_the_end() -> None:
    here, there = At("https://here.test"), At("https://there.test")
    only_here = PrivacyPolicy(hosts=frozenset({"here.test"}))
    service = service_of("cloud", backends=[here, there], privacy=only_here)
    async with service:
        assert (await service.process_image(IMAGE)).backend is CLOUD
        await service.set_privacy(PrivacyPolicy())
        assert (await service.process_image(IMAGE)).backend is CLOUD
        assert len(here.plans) == 2
    assert here._closed
    assert there._closed


class At(FakeBackend):
    """A cloud at a host of its own."""

    def __init__(self, url: str) -> None:
        super().__init__("cloud")
        self.host = url.removeprefix("https://")


@pytest.mark.virtual_time
async def test_the_last_policy_comes_back_within_the_configuration(made: Made) -> None:
    async with service_of("prefer_cloud") as service:
        await service.set_privacy(PrivacyPolicy(backends=frozenset({STREAMING})))
        await service.set_privacy("local_only")
        await service.set_privacy("default")
        await service.wait_ready()
        assert made.open() == [DEVICE, STREAMING]
        await service.set_privacy(PrivacyPolicy(hosts=frozenset({"elsewhere.example"})))
        assert made.open() == [DEVICE]


@pytest.mark.virtual_time
async def test_backends_of_the_app_stay_open_and_get_no_frame(made: Made) -> None:
    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    async with service_of("prefer_cloud", backends=[cloud, device]) as service:
        await service.wait_ready()
        await service.set_privacy("local_only")
        assert (await service.process_image(IMAGE)).backend is DEVICE
        assert not cloud.plans
        await service.set_privacy("default")
        assert (await service.process_image(IMAGE)).backend is CLOUD
        await service.set_mode("on_device")
        assert (await service.process_image(IMAGE)).backend is DEVICE
        await service.set_mode("cloud")
        assert (await service.process_image(IMAGE)).backend is CLOUD


@pytest.mark.virtual_time
async def test_a_mode_that_no_backend_of_the_app_serves_is_refused_and_the_old_one_stays() -> None:
    cloud = FakeBackend("cloud")
    async with service_of("cloud", backends=[cloud]) as service:
        with pytest.raises(ConfigurationError) as refused:
            await service.set_mode("on_device")
        assert str(refused.value) == (
            "no backend of mode 'on_device' can work: device: not given; the backends that were "
            "given serve the modes auto, cloud, prefer_cloud, prefer_on_device"
        )
        assert service.status().mode is service.config.mode is DetectionMode.CLOUD
        assert (await service.process_image(IMAGE)).backend is CLOUD
        await service.set_mode("prefer_on_device")
        assert (await service.process_image(IMAGE)).backend is CLOUD


@pytest.mark.parametrize(
    "service", [HybridDetectionService, hybrid_detect.sync.HybridDetectionService]
)
def test_a_service_is_not_made_for_a_mode_that_its_backends_do_not_serve(service: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"streaming: not given; .* serve the modes auto, on_"
    ):
        service(mode="streaming", backends=[FakeBackend("device")])
    with pytest.raises(ConfigurationError, match="mode 'auto' can work: streaming: not given; dev"):
        service(backends=[])
    with pytest.raises(ConfigurationError, match="cloud: the privacy policy lets no frame leave"):
        service(
            config=ServiceConfig(mode="cloud"),
            backends=[FakeBackend("cloud"), FakeBackend("device")],
            privacy=PrivacyPolicy(may_leave=False),
        )


@pytest.mark.virtual_time
async def test_a_policy_of_the_app_may_use_its_backends_in_any_mode() -> None:
    policy = FixedPolicy(backend="cloud")
    async with service_of("on_device", backends=[FakeBackend("cloud")], policy=policy) as service:
        assert (await service.process_image(IMAGE)).backend is CLOUD
        await service.set_mode("streaming")
        assert (await service.process_image(IMAGE)).backend is CLOUD


@pytest.mark.virtual_time
async def test_a_mode_of_the_apps_backends_that_privacy_denies_is_refused() -> None:
    both = [FakeBackend("cloud"), FakeBackend("device")]
    async with service_of("prefer_cloud", backends=both) as service:
        await service.set_privacy("local_only")
        with pytest.raises(ConfigurationError, match=r"cloud: .*lets no frame leave.*on_device"):
            await service.set_mode("cloud")
        assert (await service.process_image(IMAGE)).backend is DEVICE


class NeverStarts(FakeBackend):
    async def start(self) -> None:
        raise ConfigurationError("it has no licence")


@pytest.mark.virtual_time
async def test_an_apps_backend_that_cannot_start_serves_no_mode() -> None:
    with pytest.raises(ConfigurationError, match="it has no licence"):
        async with service_of("cloud", backends=[NeverStarts("cloud"), FakeBackend("device")]):
            pass
    both = [NeverStarts("cloud"), FakeBackend("device")]
    async with service_of("prefer_cloud", backends=both) as service:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"cloud: it has no licence; .*on_device"):
                await service.set_mode("cloud")
            await service.set_mode("on_device")  # which does not make that forgotten
            assert [each.unavailable_reason for each in service.status().backends] == [
                "",
                "it has no licence",
            ]
            await service.set_mode("auto")


@pytest.mark.virtual_time
async def test_a_mode_waits_for_the_apps_backends_of_it_alone(made: Made) -> None:
    made.gate.clear()
    cloud, device = Fake(CLOUD, made.gate), FakeBackend("device")
    async with service_of("on_device", backends=[cloud, device]) as service:
        switching = asyncio.create_task(service.set_mode("cloud"))
        await steps(20)
        assert not switching.done()
        assert (await service.process_image(IMAGE)).backend is DEVICE
        made.gate.set()
        await switching
        assert (await service.process_image(IMAGE)).backend is CLOUD


@pytest.mark.virtual_time
async def test_an_apps_backend_that_was_denied_at_first_may_come_later() -> None:
    cloud, device = FakeBackend("cloud"), FakeBackend("device")
    never = PrivacyPolicy(may_leave=False)
    async with service_of("prefer_cloud", backends=[cloud, device], privacy=never) as service:
        assert (await service.process_image(IMAGE)).backend is DEVICE
        await service.set_privacy(PrivacyPolicy())
        await service.wait_ready()
        assert (await service.process_image(IMAGE)).backend is CLOUD


@pytest.mark.virtual_time
async def test_a_stream_goes_on_through_changes(made: Made) -> None:
    async with service_of("cloud") as service:
        seen = []
        async for result in service.start_detection(iter([IMAGE] * 6), max_fps=None):
            seen.append(result.backend)
            if len(seen) == 2:
                await service.set_mode("on_device")
        assert seen[0] is CLOUD
        assert seen[-1] is DEVICE
        assert None not in seen


@pytest.mark.virtual_time
async def test_hooks_are_told(made: Made) -> None:
    class Hook:
        def __init__(self) -> None:
            self.settings: list[SettingsEvent] = []
            self.backends: list[BackendEvent] = []

        def on_settings(self, event: SettingsEvent) -> None:
            self.settings.append(event)

        def on_backend(self, event: BackendEvent) -> None:
            self.backends.append(event)

    hook = Hook()
    async with service_of("cloud", hooks=[hook]) as service:
        await service.set_mode("prefer_on_device")
        await service.set_mode("prefer_on_device")
        await service.set_privacy("local_only")
        assert [(event.mode.value, event.may_leave) for event in hook.settings] == [
            ("prefer_on_device", True),
            ("prefer_on_device", False),
        ]
        gone = [event for event in hook.backends if event.backend is CLOUD][-1]
        assert (gone.usable, gone.reason) == (
            False,
            "the privacy policy lets no frame leave the device",
        )


def test_the_blocking_service_changes_both(made: Made) -> None:
    config = ServiceConfig(endpoint="http://localhost:1", deadline_s=LIMIT_S)
    with hybrid_detect.sync.HybridDetectionService(mode="cloud", config=config) as service:
        service.set_mode("prefer_cloud")
        service.wait_ready()
        assert service.process_image(IMAGE).backend is CLOUD
        service.set_privacy("local_only")
        assert service.process_image(IMAGE).backend is DEVICE
        assert service.status().mode is DetectionMode.PREFER_CLOUD


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
                self.late += count if self.ended else 0
            return count

        monkeypatch.setattr(socket.socket, "send", watched_send)


@asynccontextmanager
async def sending(kind: str, patch: pytest.MonkeyPatch) -> AsyncIterator[HybridDetectionService]:
    async def check(self: Any, *, deadline_s: float) -> None:
        await self.start()  # the server answers nothing

    patch.setattr(CloudDetectionService, "check", check)
    patch.setattr(StreamingService, "check", check)
    async with stalling_server(kind) as url:
        config = ServiceConfig(endpoint=url, auth_token="t", mode=kind, deadline_s=LIMIT_S)
        async with HybridDetectionService(config=config) as service:
            yield service


@pytest.mark.parametrize("is_leaving", [False, True], ids=["before it leaves", "in the buffer"])
@pytest.mark.parametrize("change", ["local_only", "hosts"])
@pytest.mark.parametrize("kind", ["cloud", "streaming"])
async def test_no_picture_is_handed_to_a_socket_once_privacy_was_tightened(
    kind: str, change: str, is_leaving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight: Any = (
        "local_only" if change == "local_only" else PrivacyPolicy(hosts=frozenset({"other.test"}))
    )
    sockets = Sockets(monkeypatch)
    async with sending(kind, monkeypatch) as service:
        for count in range(0, 12, 3):
            usable: Callable[[], bool] = lambda: service.status().backends[0].usable  # noqa: E731
            await until(usable)
            sockets.ended = False
            before = sockets.sent
            asked = asyncio.create_task(service.process_image(NOISE))
            if is_leaving:
                await until(lambda before=before: sockets.sent > before)  # type: ignore[misc]
            else:
                await asyncio.sleep(0.004 * (count // 3))
            await steps(count)
            changing = asyncio.create_task(service.set_privacy(tight))
            await steps(1)  # it holds from its first step on
            sockets.ended = True
            await changing
            await asyncio.wait([asked], timeout=LIMIT_S)
            assert isinstance(asked.exception(), AllBackendsFailedError)
            await steps(20)
            assert sockets.late == 0, f"after {count} steps"
            await service.set_privacy("default" if tight == "local_only" else PrivacyPolicy())
    assert sockets.sent > 0 or not is_leaving
