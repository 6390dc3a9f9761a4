"""The encryption suites to test: all there are, skipped where the installed library lacks one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.exchange.keys import PrivateKey, Suite

__all__ = ["AVAILABLE", "each_suite", "needs_post_quantum"]


def _is_there(suite: Suite) -> bool:
    try:
        PrivateKey.generate(suite, datetime(2099, 1, 1, tzinfo=UTC))
    except ConfigurationError:
        return False
    return True


AVAILABLE = [suite for suite in Suite if _is_there(suite)]

needs_post_quantum = pytest.mark.skipif(
    Suite.MLKEM768_X25519 not in AVAILABLE, reason="this cryptography has no ML-KEM"
)

each_suite = pytest.mark.parametrize(
    "suite",
    [
        pytest.param(
            suite,
            id=suite.value,
            marks=[needs_post_quantum] if suite is Suite.MLKEM768_X25519 else [],
        )
        for suite in Suite
    ],
)
