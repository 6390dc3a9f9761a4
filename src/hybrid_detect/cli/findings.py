"""What a service with a given configuration says of itself; nothing is fetched or remembered."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hybrid_detect.backends import create_backend
from hybrid_detect.backends.device.model_choice import candidates
from hybrid_detect.backends.device.models import MODELS
from hybrid_detect.backends.remote.target_pool import TargetStatus
from hybrid_detect.cli.models import where
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import HybridDetectError
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.status import ServiceStatus
from hybrid_detect.types import BackendKind

__all__ = ["Found", "find", "models_of", "targets_of"]

NOT_HERE = "not here yet; a service fetches it when it is first needed"


@dataclass(frozen=True, slots=True)
class Found:
    """What a service with this configuration says."""

    status: ServiceStatus
    answer_s: float | None
    """Seconds that its server took to answer a check; `None` if none was asked."""


async def find(config: ServiceConfig) -> Found:
    """What a service with `config` would do now. No model is fetched and no key remembered."""
    if config.costs_path is not None and not config.costs_path.is_file():
        config = replace(config, costs_path=None)  # else it would be made
    may_fetch = config.model_fetch
    config = replace(config, model_fetch=False)
    found = await _unremembered(config)
    return replace(found, status=_not_fetched(config, found.status)) if may_fetch else found


def _not_fetched(config: ServiceConfig, status: ServiceStatus) -> ServiceStatus:
    """`status` with the reason that holds for a service, which fetches a model that is not here."""
    names = {spec.name for spec in candidates(config.model, config.model_path)}
    if any(place != NOT_HERE for name, _, place in models_of(config) if name in names):
        return status
    device = next((each for each in status.backends if each.kind is BackendKind.DEVICE), None)
    if device is None or device.usable or not device.unavailable_reason:
        return status
    why = f"its model is {NOT_HERE}"
    reason = status.plan.reason.replace(device.unavailable_reason, why)
    backends = (
        replace(each, unavailable_reason=why) if each is device else each
        for each in status.backends
    )
    return replace(status, backends=tuple(backends), plan=replace(status.plan, reason=reason))


async def _unremembered(config: ServiceConfig) -> Found:
    if not config.trust_on_first_use:
        return await _asked(config)
    from hybrid_detect.exchange.trust import known_keys_path

    # A server that is met for the first time would be trusted from then on.
    with TemporaryDirectory(prefix="hybrid-detect-doctor-") as folder:
        known, copy = known_keys_path(config), Path(folder) / "known.json"
        if known.is_file():
            shutil.copyfile(known, copy)
        return await _asked(replace(config, known_keys_path=copy))


async def _asked(config: ServiceConfig) -> Found:
    async with HybridDetectionService(config=config) as service:
        await service.wait_ready()
        status = service.status()
    return Found(status, await _answer_s(config, status))


async def _answer_s(config: ServiceConfig, status: ServiceStatus) -> float | None:
    """Seconds in which our own server answers a check over a connection that is there already."""
    usable = [each.kind for each in status.backends if each.usable]
    remote = next((kind for kind in usable if kind is not BackendKind.DEVICE), None)
    if remote is None or any(each.provider != "custom_backend" for each in targets_of(status)):
        return None  # others' checks may be none at all
    try:
        backend = create_backend(remote, config)
        try:
            await backend.start()
            await backend.check(deadline_s=backend.check_deadline_s)
            started_s = time.monotonic()
            await backend.check(deadline_s=backend.check_deadline_s)
            return time.monotonic() - started_s
        finally:
            await backend.aclose()
    except HybridDetectError:  # it has gone meanwhile; the service found it well
        return None


def targets_of(status: ServiceStatus) -> list[TargetStatus]:
    """The targets of the cloud backend."""
    clouds = [each for each in status.backends if each.kind is BackendKind.CLOUD]
    return [target for cloud in clouds for target in cloud.targets]


def models_of(config: ServiceConfig) -> Iterator[tuple[str, int, str]]:
    """Every model's name and bytes, and its verified file or why there is none."""
    used = [spec.name for spec in candidates(config.model, config.model_path)]
    for name, spec in MODELS.items():
        path = config.model_path if name in used else None
        yield name, spec.size_bytes, where(name, path=path, missing=NOT_HERE)
