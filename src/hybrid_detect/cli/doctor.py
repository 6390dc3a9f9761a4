"""``hybrid-detect doctor``: what is installed, reachable and there, and what would be done."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from hybrid_detect.backends.device.model_choice import candidates
from hybrid_detect.backends.device.runtimes import RUNTIMES, choose_runtime
from hybrid_detect.backends.remote.providers import PROVIDERS
from hybrid_detect.backends.remote.proxies import proxy_for, system_settings
from hybrid_detect.backends.remote.target_pool import TargetStatus
from hybrid_detect.charges import in_full
from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.findings import Found, find, models_of, targets_of
from hybrid_detect.cli.installed import installed, summary
from hybrid_detect.cli.options import add_service_options, described, service_config
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.provider_facts import facts_told, provider_facts
from hybrid_detect.cli.table import table
from hybrid_detect.compression.codec import TurboCodec, jpeg_codec
from hybrid_detect.config import ServiceConfig
from hybrid_detect.endpoint import Endpoint
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.service.status import ServiceStatus
from hybrid_detect.system.medium import MediumProbe
from hybrid_detect.system.memory_probe import MemoryProbe, memory_shortage
from hybrid_detect.types import BackendKind, Medium

__all__ = ["add_parser"]

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
    parser.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="print targets, models and every version as well, and what providers keep",
    )
    parser.add_argument(
        "--providers",
        action="store_true",
        help="print what every provider keeps and trains on, not those in use alone",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; `ExitCode.DONE` if a backend would take the next picture."""
    config = service_config(arguments)
    found = asyncio.run(find(config))
    status = found.status
    if arguments.json:
        print(json.dumps(_findings(config, found), indent=2))
    else:
        for topic, text in _lines(config, found):
            print(f"{topic}: {one_line(text)}")
        if arguments.verbose:
            _print_tables(config, status, every_provider=arguments.providers)
        elif arguments.providers:
            _print_facts(status, every_provider=True)
    return ExitCode.DONE if status.plan.backend is not None else ExitCode.FAILED


def _findings(config: ServiceConfig, found: Found) -> dict[str, Any]:
    status = found.status
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
        "network": _network(config),
        "jpeg_codec": _jpeg_codec(),
        "endpoint": config.endpoint,
        "endpoint_answer_s": found.answer_s,
        "trust": _transport(config),
        "targets": [
            {"name": target.name, "provider": target.provider, "region": target.region}
            | {"denied_reason": target.denied_reason}
            for target in targets_of(status)
        ],
        "encryption": _encryption(config),
        "budgets": [
            {"period": budget.period, "currency": budget.currency}
            | {name: in_full(getattr(budget, name)) for name in ("budget", "spent")}
            for budget in status.budgets
        ],
        "models": [
            {"name": name, "bytes": size_bytes, "where": place}
            for name, size_bytes, place in models_of(config)
        ],
        "installed": [asdict(part) for part in installed()],
        "providers": [{"provider": name, **facts} for name, facts in provider_facts()],
    }


def _lines(config: ServiceConfig, found: Found) -> Iterator[tuple[str, str]]:
    """The ten lines: what decides comes first; what is merely good to know comes last."""
    status = found.status
    yield "the next picture", status.plan.reason
    told = [
        f"{backend.kind.value} yes"
        if backend.usable
        else f"{backend.kind.value} no ({backend.unavailable_reason})"
        for backend in status.backends
    ]
    yield "backends", "; ".join(told)
    yield "endpoint", _endpoint(config, found)
    yield "trust", f"{_transport(config)}; encryption: {_encryption(config)}"
    yield "on this device", f"{_runtime(config, status)}; model {_device_models(config)}"
    yield "memory", _memory(config)
    yield "network", _network(config)
    yield "jpeg codec", _jpeg_codec()
    spent = [
        f"{each.spent:,.4f} of {each.budget:,.2f} {each.currency} of this {each.period} spent"
        for each in status.budgets
    ]
    yield "budget", "; ".join(spent) or "none"
    yield "installed", summary()


def _print_tables(config: ServiceConfig, status: ServiceStatus, *, every_provider: bool) -> None:
    """Targets, models, versions, and what providers say of the pictures they are sent."""
    for target in targets_of(status):
        print(f"target: {one_line(_target(target))}")
    print()
    print(table(("model", "bytes", "where"), models_of(config)))
    print()
    parts = [(part.name, part.version, part.told) for part in installed()]
    print(table(("installed", "version", ""), parts))
    _print_facts(status, every_provider=every_provider)


def _print_facts(status: ServiceStatus, *, every_provider: bool) -> None:
    used = {target.provider for target in targets_of(status)}
    told = list(facts_told(PROVIDERS if every_provider else used))
    if told:
        print("\nwhat providers say about the pictures they are sent:")
        print("\n".join(told))


def _endpoint(config: ServiceConfig, found: Found) -> str:
    """Where pictures would go, and how quickly that answers."""
    targets = [_target(target) for target in targets_of(found.status)]
    where = config.endpoint or "; ".join(targets) or "none"
    if found.answer_s is not None:
        return f"{where}, which answers in {found.answer_s * 1000:.1f} ms"
    remote = [each for each in found.status.backends if each.kind is not BackendKind.DEVICE]
    if config.endpoint is None or not remote or any(each.usable for each in remote):
        return where
    return f"{where}, not to be used: {remote[0].unavailable_reason}"


def _target(target: TargetStatus) -> str:
    facts = ", ".join(fact for fact in (target.provider, target.region) if fact)
    denied = f": never asked, {target.denied_reason}" if target.denied_reason else ""
    return f"{target.name} ({facts}){denied}"


def _transport(config: ServiceConfig) -> str:
    """How the way to the endpoint is kept closed, and what is shown there."""
    endpoint = _parsed(config)
    if endpoint is None:
        way = "no server of its own"
    elif endpoint.url.startswith("http:"):
        way = f"plain http{', on this machine' if endpoint.is_local else ': it can be read'}"
    else:
        way = f"https by {'the CAs of the system' if config.ca_file is None else config.ca_file}"
    if config.client_cert is not None:
        way += f", shows {config.client_cert}"
    has_credential = config.auth_token is not None or config.api_key is not None
    return f"{way}; {'a' if has_credential else 'no'} token is sent"


def _device_models(config: ServiceConfig) -> str:
    names = dict.fromkeys(spec.name for spec in candidates(config.model, config.model_path))
    places = {name: place for name, _, place in models_of(config)}
    told = [name if Path(places[name]).is_file() else f"{name} ({places[name]})" for name in names]
    return f"{config.model}: {' or '.join(told)}" if len(told) > 1 else told[0]


def _network(config: ServiceConfig) -> str:
    """What the system says of its links, and the proxy that the endpoint is reached through."""
    try:
        stats = psutil.net_if_stats()
    except (OSError, psutil.Error):
        stats = {}
    up = sorted(name for name, link in stats.items() if link.isup and name not in ("lo", "lo0"))
    parts = [f"{', '.join(up)} up" if up else "no link is up but this machine's own"]
    if config.metered:
        parts.append("metered")
    if (endpoint := _parsed(config)) is not None:
        medium = MediumProbe(config.medium).read(endpoint.host)
        if medium is not Medium.UNKNOWN:
            parts.append(f"first hop to the server: {medium}")
        try:
            proxy = proxy_for(endpoint, system_settings())
        except ConfigurationError as error:
            parts.append(str(error))
        else:
            parts.append(f"through {proxy.host} ({proxy.variable})" if proxy else "no proxy")
    return "; ".join(parts)


def _parsed(config: ServiceConfig) -> Endpoint | None:
    if config.endpoint is None:
        return None
    return Endpoint.parse(config.endpoint, allow_insecure_http=True)


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
        endpoint = _parsed(config)
        if endpoint is not None and endpoint.url.startswith("http:"):
            return "none (see server_public_key)"
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
