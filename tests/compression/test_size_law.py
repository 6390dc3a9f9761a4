"""The one law of a picture's size, against what was measured on photos."""

import pytest

from hybrid_detect.compression.size_law import quality_within, size_share


@pytest.mark.parametrize(
    ("quality", "scale", "measured"),
    [(80, 1.0, 1.0), (50, 1.0, 0.54), (50, 0.75, 0.34), (50, 0.5, 0.18)],
)
def test_the_law_agrees_with_shares_measured_on_photos(
    quality: int, scale: float, measured: float
) -> None:
    assert size_share(quality, scale) == pytest.approx(measured, rel=0.06)


def test_every_quality_up_to_that_of_a_passed_through_jpeg_has_a_share() -> None:
    shares = [size_share(quality, 1.0) for quality in range(1, 101)]
    assert shares == sorted(shares)
    assert shares[0] > 0


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_quality_within_inverts_the_law(share: float) -> None:
    quality = quality_within(share, 80)
    assert size_share(quality, 1.0) == pytest.approx(share)
