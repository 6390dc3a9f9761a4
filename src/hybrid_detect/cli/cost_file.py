"""The file of costs that a command reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.errors import StorageError

if TYPE_CHECKING:
    from hybrid_detect.storage.cost_store import CostStore

__all__ = ["opened"]


def opened(given: Path | None, command: str) -> CostStore | None:
    """The file `given`, or the one that the environment names; `None`, with a word, for neither.

    Raises:
        StorageError: If it is not there, is no file of ours or cannot be opened. Another's file
            is not touched.
    """
    named = given or os.environ.get(f"{ENV_PREFIX}COSTS_PATH")
    if not named:
        print(f"{command}: expected FILE, or {ENV_PREFIX}COSTS_PATH", file=sys.stderr)
        return None
    path = Path(named)
    if not path.is_file():
        msg = f"there is no file of costs at {path}"
        raise StorageError(msg)
    from hybrid_detect.storage.cost_store import CostStore
    from hybrid_detect.storage.database import is_ours

    if not is_ours(path):
        msg = f"{path} is no file of costs"
        raise StorageError(msg)
    return CostStore(path)
