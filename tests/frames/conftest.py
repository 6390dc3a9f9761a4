"""What tests of frames share."""

import numpy as np
import pytest


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
