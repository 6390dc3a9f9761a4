"""What the providers say that they keep of pictures, and train on."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from hybrid_detect.backends.remote.providers import PROVIDERS, capabilities_of

__all__ = ["facts_told", "provider_facts"]


def provider_facts() -> Iterator[tuple[str, dict[str, Any]]]:
    """What each provider publishes about the pictures it is sent, by its name."""
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


def facts_told(names: Container[str]) -> Iterator[str]:
    """The same in lines for people.

    Args:
        names: The providers to tell of.
    """
    trains = {True: "yes, unless opted out", False: "no", None: "unknown"}
    for name, facts in provider_facts():
        if name not in names:
            continue
        yield name
        yield f"  keeps them: {facts['retention']}"
        yield f"  trains on them: {trains[facts['trains_on_data']]}"
        if facts["opt_out"]:
            yield f"  opt out: {facts['opt_out']}"
        yield f"  choice of region: {', '.join(facts['regions']) or 'none that is promised'}"
        yield f"  looked up {facts['facts_as_of']}: {facts['facts_from']}"
