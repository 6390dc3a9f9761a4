"""``hybrid-detect doctor``: what is installed, reachable and there, and what would be done."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from hybrid_detect.backends.device.models import MODELS
from hybrid_detect.cli.models import where
from hybrid_detect.cli.options import add_service_options, described, service_config
from hybrid_detect.cli.table import table
from hybrid_detect.compression.codec import TurboCodec, jpeg_codec
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.privacy.provider_facts import PROVIDER_FACTS
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.system.memory_probe import DEVICE_DETECTOR_BYTES, MemoryProbe, memory_shortage

__all__ = ["add_parser"]

UVLOOP = () if sys.platform == "win32" else ("uvloop",)
"""There is none for Windows."""

PARTS = {
    "device": ("mediapipe",),
    "server": ("starlette", "uvicorn", "httptools", *UVLOOP),
    "jwt": ("pyjwt",),
    "turbo": ("simplejpeg",),
    "supervision": ("supervision",),
}
"""What each extra brings, as distributions."""

MIB = 1024 * 1024


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "doctor", **described("show what is installed and reachable, and what would be done")
    )
    add_service_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 0 if a picture would be looked at."""
    config = service_config(arguments)
    print(table(("installed", "version", ""), _installed()))
    print()
    print(table(("model", "bytes", "where"), _models(config)))
    print()
    print(f"memory: {_memory(config)}")
    print(f"jpeg codec: {_jpeg_codec()}")
    print(f"endpoint: {config.endpoint or 'none'}")
    print(f"encryption: {_encryption(config)}\n")
    print(
        "what providers say that they do with pictures (this version sends to custom_backend only,"
    )
    print("which is this library's own server):")
    print("\n".join(_provider_facts()) + "\n")
    return asyncio.run(_backends(config))


def _installed() -> Iterator[tuple[str, str, str]]:
    yield "python", platform.python_version(), f"{platform.system()} {platform.machine()}"
    yield "hybrid-detect", version("hybrid-detect"), ""
    base = [line for line in requires("hybrid-detect") or () if "extra ==" not in line]
    for line in base:
        name = line.partition(">")[0]
        yield name, _version(name), ""
    for extra, names in PARTS.items():
        for name in names:
            found = _version(name)
            cure = "" if found != "missing" else f"pip install 'hybrid-detect[{extra}]'"
            yield name, found, cure


def _memory(config: ServiceConfig) -> str:
    reading = MemoryProbe().read()
    shortage = memory_shortage(
        reading,
        memory_budget_bytes=config.memory_budget_bytes,
        needed_bytes=DEVICE_DETECTOR_BYTES,
    )
    left = reading.available_bytes
    available = "unknown" if left is None else f"{left // MIB} MiB left in the {reading.bound_by}"
    held = f"this process holds {reading.process_bytes // MIB} MiB"
    return f"{available}; {held}; {shortage or 'enough for the detector'}"


def _jpeg_codec() -> str:
    if isinstance(jpeg_codec(), TurboCodec):
        return "simplejpeg"
    return "Pillow (slower than simplejpeg: pip install 'hybrid-detect[turbo]')"


def _encryption(config: ServiceConfig) -> str:
    if config.server_public_key is None and not config.trust_on_first_use:
        return "that of https alone (see server_public_key)"
    from hybrid_detect.exchange.trust import TrustedKey

    try:
        trusted = TrustedKey.from_config(config)
    except ConfigurationError as error:
        return f"cannot work, so nothing is sent: {error}"
    if trusted is None or trusted.transmission is None:
        return "to the key that the server gives when it is first met, which it has not been"
    key = trusted.transmission.public_key
    why = "trusted since it was first met" if config.trust_on_first_use else "pinned"
    return f"to key {key.id} ({why}, {key.suite.value}, until {key.not_after:%Y-%m-%d})"


def _provider_facts() -> Iterator[str]:
    for facts in PROVIDER_FACTS:
        yield facts.provider
        yield f"  keeps them: {facts.retention}"
        yield f"  trains on them: {facts.training}"
        if facts.opt_out:
            yield f"  opt out: {facts.opt_out}"
        yield f"  choice of region: {facts.region}"
        yield f"  looked up {facts.looked_up}: {facts.source}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _models(config: ServiceConfig) -> Iterator[tuple[str, int, str]]:
    for name, spec in MODELS.items():
        path = config.model_path if name == config.model else None
        missing = "not here yet; fetched when first needed"
        yield name, spec.size_bytes, where(name, path=path, missing=missing)


async def _backends(config: ServiceConfig) -> int:
    async with HybridDetectionService(config=config) as service:
        await service.wait_ready()
        status = service.status()
    rows = [
        (backend.kind.value, "yes" if backend.usable else "no", backend.unavailable_reason)
        for backend in status.backends
    ]
    print(table(("way", "usable", "why not"), rows))
    print(f"\nthe next picture: {status.plan.reason}")
    return 0 if status.plan.backend is not None else 1
