import dataclasses
from datetime import date

import pytest

from hybrid_detect.privacy.provider_facts import PROVIDER_FACTS, UNKNOWN, ProviderFacts


def test_every_provider_of_the_library_is_told_about_once() -> None:
    providers = [facts.provider for facts in PROVIDER_FACTS]
    assert providers == ["custom_backend", "google", "aws", "azure", "kserve"]


@pytest.mark.parametrize("facts", PROVIDER_FACTS, ids=lambda facts: facts.provider)
def test_every_fact_is_there_or_said_to_be_unknown(facts: ProviderFacts) -> None:
    for field in dataclasses.fields(facts):
        if field.name != "opt_out":
            assert getattr(facts, field.name), field.name
    assert date(2026, 1, 1) < facts.looked_up
    if facts.training == UNKNOWN or facts.training.startswith("yes"):
        assert facts.opt_out, "whoever may train says how to object, or that this is unknown"
