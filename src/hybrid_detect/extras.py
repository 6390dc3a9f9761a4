"""Optional dependencies: load one, or say exactly how to install it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from hybrid_detect.errors import MissingExtraError

__all__ = ["is_installed", "require"]


def is_installed(module: str) -> bool:
    """Whether the top-level module `module` can be imported, without importing it."""
    return find_spec(module) is not None


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, which comes with the extra `extra`.

    Args:
        module: Dotted module name.
        extra: Name of the extra that installs it.
        purpose: What needs it, as the subject of the error's sentence.

    Raises:
        MissingExtraError: If it is not installed.
        ImportError: If it is installed, but cannot be loaded.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        missing = exc.name or module
        where = "not installed: "
        if getattr(sys, "frozen", False):
            where = "not in this frozen app; where it is built: "
        msg = f"{purpose} needs {missing}, which is {where}pip install 'hybrid-detect[{extra}]'"
        raise MissingExtraError(msg, extra=extra) from exc
