"""The tables of attacks tell the truth: each test they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", ["threat-model.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    text = (ROOT / "docs" / "explanation" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 50
    missing = [name for name in named if not re.search(rf"def {name}\(", TESTS)]
    assert missing == []


def test_the_links_of_the_security_policy_lead_somewhere() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)", text):
        assert (ROOT / target).exists(), target
