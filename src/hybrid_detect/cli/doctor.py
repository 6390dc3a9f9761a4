"""``hybrid-detect doctor``: what is installed, reachable and there, and what would be done."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Container, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hybrid_detect.backends.device.model_choice import candidates
from hybrid_detect.backends.device.models import MODELS
from hybrid_detect.backends.device.runtimes import RUNTIMES, choose_runtime
from hybrid_detect.backends.device.system_libraries import missing_libraries
from hybrid_detect.backends.remote.providers import PROVIDERS, capabilities_of
from hybrid_detect.backends.remote.target_pool import TargetStatus
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.models import where
from hybrid_detect.cli.options import add_service_options, described, service_config
from hybrid_detect.cli.table import table
from hybrid_detect.compression.codec import TurboCodec, jpeg_codec
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.service.status import ServiceStatus
from hybrid_detect.system.memory_probe import MemoryProbe, memory_shortage
from hybrid_detect.types import BackendKind

__all__ = ["add_parser"]

UVLOOP = () if sys.platform == "win32" else ("uvloop",)
"""There is none for Windows."""

PARTS = {
    "device": ("mediapipe",),
    "device-lite": ("ai-edge-litert",),
    "centerface": ("onnxruntime",),
    "server": ("starlette", "httptools", *UVLOOP),
    "cluster": ("ray",),
    "server-gpu": ("onnxruntime-gpu",),
    "camera": ("av",),
    "opencv": ("opencv-python-headless",),
    "completion": ("argcomplete",),
    "google": ("google-auth",),
    "jwt": ("pyjwt",),
    "kivy": ("kivy",),
    "otel": ("opentelemetry-api",),
    "prometheus": ("prometheus-client",),
    "report": ("jinja2", "pygal"),
    "turbo": ("simplejpeg",),
    "supervision": ("supervision",),
}
"""What each extra brings, as distributions."""

MIB = 1024 * 1024


def add_parser(commands: Any) -> None:
    """Add the command to the parser's `commands`."""
    parser = commands.add_parser(
        "doctor",
        **described(
            "show what the next picture would get and why, and what is installed; change nothing"
        ),
    )
    add_service_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--providers",
        action="store_true",
        help="print what every provider keeps and trains on, not those in use alone",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; `ExitCode.DONE` if a backend would take the next picture."""
    config = service_config(arguments)
    status = asyncio.run(_status(config))
    if arguments.json:
        print(json.dumps(_findings(config, status), indent=2))
    else:
        _print_findings(config, status, every_provider=arguments.providers)
    return ExitCode.DONE if status.plan.backend is not None else ExitCode.FAILED


def _findings(config: ServiceConfig, status: ServiceStatus) -> dict[str, Any]:
    backend = status.plan.backend
    return {
        "next_picture": {
            "backend": None if backend is None else backend.value,
            "reason": status.plan.reason,
        },
        "backends": [
            {
                "kind": backend.kind.value,
                "usable": backend.usable,
                "unavailable_reason": backend.unavailable_reason,
            }
            for backend in status.backends
        ],
        "runtime": _runtime(config, status),
        "memory": _memory(config),
        "jpeg_codec": _jpeg_codec(),
        "endpoint": config.endpoint,
        "targets": [
            {"name": target.name, "provider": target.provider, "region": target.region}
            | {"denied_reason": target.denied_reason}
            for target in _targets(status)
        ],
        "encryption": _encryption(config),
        "budgets": [
            {"period": budget.period, "currency": budget.currency}
            | {name: f"{getattr(budget, name):f}" for name in ("budget", "spent")}
            for budget in status.budgets
        ],
        "models": [
            {"name": name, "bytes": size_bytes, "where": place}
            for name, size_bytes, place in _models(config)
        ],
        "installed": [
            {"name": name, "version": found, "cure": cure} for name, found, cure in _installed()
        ],
        "providers": [{"provider": name, **facts} for name, facts in _provider_facts()],
    }


def _targets(status: ServiceStatus) -> list[TargetStatus]:
    """The targets of the cloud backend."""
    clouds = [each for each in status.backends if each.kind is BackendKind.CLOUD]
    return [target for cloud in clouds for target in cloud.targets]


def _print_findings(config: ServiceConfig, status: ServiceStatus, *, every_provider: bool) -> None:
    """What decides comes first; what is merely good to know comes last."""
    print(f"the next picture: {status.plan.reason}\n")
    rows = [
        (backend.kind.value, "yes" if backend.usable else "no", backend.unavailable_reason)
        for backend in status.backends
    ]
    print(table(("backend", "usable", "why not"), rows))
    print(f"\non this device: {_runtime(config, status)}")
    print(f"memory: {_memory(config)}")
    print(f"jpeg codec: {_jpeg_codec()}")
    print(f"endpoint: {config.endpoint or 'none'}")
    for target in _targets(status):
        facts = ", ".join(fact for fact in (target.provider, target.region) if fact)
        denied = f": never asked, {target.denied_reason}" if target.denied_reason else ""
        print(f"target: {target.name} ({facts}){denied}")
    for budget in status.budgets:
        spent = f"{budget.spent:,.4f} of {budget.budget:,.2f} {budget.currency}"
        print(f"budget for this {budget.period}: {spent} spent")
    print(f"encryption: {_encryption(config)}\n")
    print(table(("model", "bytes", "where"), _models(config)))
    print()
    print(table(("installed", "version", ""), _installed()))
    used = {target.provider for target in _targets(status)}
    told = list(_facts_told(PROVIDERS if every_provider else used))
    if told:
        print("\nwhat providers say about the pictures they are sent:")
        print("\n".join(told))


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
    if _version("mediapipe") != "missing":
        for library in missing_libraries():
            yield (
                library.filename,
                "missing",
                f"apt-get install {library.debian_package} (for MediaPipe)",
            )


def _runtime(config: ServiceConfig, status: ServiceStatus) -> str:
    """What runs the model on this device, and why; or why nothing does, and the cure."""
    for backend in status.backends:
        if backend.runtime:
            return backend.runtime
    try:
        spec, *_ = candidates(config.model)
        return choose_runtime(config.runtime, runtimes=spec.runtimes).told()
    except ConfigurationError as error:
        return f"no detection: {error}"


def _memory(config: ServiceConfig) -> str:
    reading = MemoryProbe().read()
    specs = candidates(config.model)
    needed_bytes = max(spec.input().needed_bytes for spec in specs)
    with contextlib.suppress(ConfigurationError):
        runtime = choose_runtime(config.runtime, runtimes=specs[0].runtimes)
        needed_bytes -= RUNTIMES[runtime.name].saves_bytes
    shortage = memory_shortage(
        reading, memory_budget_bytes=config.memory_budget_bytes, needed_bytes=needed_bytes
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
    if trusted is None or trusted.sealer is None:
        return "to the key that the server gives when it is first met, which it has not been"
    key = trusted.sealer.public_key
    why = "trusted since it was first met" if config.trust_on_first_use else "pinned"
    return f"to key {key.id} ({why}, {key.suite.value}, until {key.not_after:%Y-%m-%d})"


def _provider_facts() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in PROVIDERS:
        facts = capabilities_of(name)
        if facts.facts_as_of is not None:
            yield (
                name,
                {
                    "retention": facts.retention,
                    "trains_on_data": facts.trains_on_data,
                    "opt_out": facts.opt_out,
                    "regions": facts.regions,
                    "facts_from": facts.facts_from,
                    "facts_as_of": facts.facts_as_of.isoformat(),
                },
            )


def _facts_told(names: Container[str]) -> Iterator[str]:
    trains = {True: "yes, unless opted out", False: "no", None: "unknown"}
    for name, facts in _provider_facts():
        if name not in names:
            continue
        yield name
        yield f"  keeps them: {facts['retention']}"
        yield f"  trains on them: {trains[facts['trains_on_data']]}"
        if facts["opt_out"]:
            yield f"  opt out: {facts['opt_out']}"
        yield f"  choice of region: {', '.join(facts['regions']) or 'none that is promised'}"
        yield f"  looked up {facts['facts_as_of']}: {facts['facts_from']}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _models(config: ServiceConfig) -> Iterator[tuple[str, int, str]]:
    used = [spec.name for spec in candidates(config.model, config.model_path)]
    for name, spec in MODELS.items():
        path = config.model_path if name in used else None
        missing = "not here yet; a service fetches it when it is first needed"
        yield name, spec.size_bytes, where(name, path=path, missing=missing)


async def _status(config: ServiceConfig) -> ServiceStatus:
    """What a service with `config` would do now. No model is fetched and no key remembered."""
    with TemporaryDirectory(prefix="hybrid-detect-doctor-") as folder:
        if config.trust_on_first_use:
            from hybrid_detect.exchange.trust import known_keys_path

            # A server that is met for the first time would be trusted from then on.
            known, copy = known_keys_path(config), Path(folder) / "known.json"
            if known.is_file():
                shutil.copyfile(known, copy)
            config = replace(config, known_keys_path=copy)
        if config.costs_path is not None and not config.costs_path.is_file():
            config = replace(config, costs_path=None)  # else it would be made
        config = replace(config, model_fetch=False)
        async with HybridDetectionService(config=config) as service:
            await service.wait_ready()
            return service.status()
