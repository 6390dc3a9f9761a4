"""Models are fetched before a service opens, in view of the user.

A service's first check waits three seconds for its detector and lets a slow fetch go on behind it;
a command has ended by then.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hybrid_detect.backends.device.model_choice import candidates
from hybrid_detect.backends.device.models import find_model, load_model
from hybrid_detect.backends.device.runtimes import choose_runtime
from hybrid_detect.cli.plain_text import one_line
from hybrid_detect.cli.progress import progress_line
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import ConfigurationError, ModelError
from hybrid_detect.types import DetectionMode

if TYPE_CHECKING:
    from hybrid_detect.server.config import ServerConfig

__all__ = ["SERVER_MODEL", "fetch_for_device", "fetch_for_server"]

SERVER_MODEL = "auto"
"""What the reference server looks with, unless it is told otherwise."""


def fetch_for_device(config: ServiceConfig) -> None:
    """Fetch the device's model, if it is not here and the device is the first choice.

    Where there is a server, it answers meanwhile, so the command does not wait for the fetch.

    Raises:
        ModelError: If it cannot be had and the device is the only backend.
        ConfigurationError: If there is no such model and the device is the only backend.
    """
    first = config.mode in {DetectionMode.ON_DEVICE, DetectionMode.PREFER_ON_DEVICE}
    if not (first or config.endpoint is None):
        return
    if config.mode in {DetectionMode.CLOUD, DetectionMode.STREAMING}:
        return
    try:
        spec, *others = candidates(
            config.model,
            config.model_path,
            runtime=config.runtime,
            memory_budget_bytes=config.memory_budget_bytes,
        )
        choose_runtime(config.runtime, runtimes=spec.runtimes)
    except ConfigurationError:
        return  # the service says so, and how to get one
    if others and any(find_model(other.name) is not None for other in others):
        return  # the service does with what is here
    try:
        with progress_line() as progress:
            load_model(
                spec.name,
                path=config.model_path,
                fetch=config.model_fetch,
                progress=progress,
            )
    except (ModelError, ConfigurationError) as error:
        if config.endpoint is None or config.mode is DetectionMode.ON_DEVICE:
            raise
        print(f"hybrid-detect: going on without the device: {one_line(error)}", file=sys.stderr)


def fetch_for_server(config: ServerConfig | None = None, *, warns: bool = True) -> None:
    """Fetch the models of a reference server that is about to be started, if they are not here.

    Args:
        config: The server's; `None` for one that looks with `SERVER_MODEL`.
        warns: Whether to log which levels will be missing; a server in this process does so itself.

    Raises:
        ModelError: If no model can be had.
        ConfigurationError: If there is no model of that name.
        MissingExtraError: If there is nothing to use it with.
    """
    from hybrid_detect.server.config import ServerConfig
    from hybrid_detect.server.levels import served_levels

    with progress_line() as progress:
        served_levels(config or ServerConfig(model=SERVER_MODEL), progress=progress, warns=warns)
