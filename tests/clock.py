"""The clock of every test that needs one; users have the same."""

from hybrid_detect.testing import FakeClock

__all__ = ["FakeClock"]
