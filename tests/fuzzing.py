"""How long to fuzz: seconds in the suite, minutes in `nox -s fuzz`."""

from __future__ import annotations

import os

__all__ = ["examples"]

ASKED = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def examples(usual: int) -> int:
    """How many examples a test tries that has `usual` ones in the suite."""
    return max(usual, ASKED)
