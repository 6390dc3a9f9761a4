"""What the library says of each provider: complete, dated, and with a source."""

from __future__ import annotations

from datetime import date

import pytest

from hybrid_detect.backends.remote.providers import PROVIDERS, capabilities_of
from hybrid_detect.geometry import KEYPOINT_NAMES


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "json_endpoint"])
def test_every_fact_is_there_with_its_source_and_date(name: str) -> None:
    facts = capabilities_of(name)
    assert facts.facts_from
    assert facts.facts_as_of is not None
    assert facts.facts_as_of > date(2026, 1, 1)
    assert facts.retention
    assert "jpeg" in facts.formats
    assert set(facts.landmarks) <= set(KEYPOINT_NAMES)
    if facts.trains_on_data:
        assert facts.opt_out
    if facts.price_per_image:
        assert facts.price_as_of is not None


@pytest.mark.parametrize("name", PROVIDERS)
def test_its_limits_leave_a_picture_possible(name: str) -> None:
    facts = capabilities_of(name)
    assert facts.min_picture_bytes < (facts.max_picture_bytes or 1 << 40)
    assert facts.min_side_px < (facts.max_side_px or 1 << 20)
    assert facts.max_pictures >= 1
    if facts.max_request_bytes and facts.max_picture_bytes:
        assert facts.max_picture_bytes < facts.max_request_bytes
