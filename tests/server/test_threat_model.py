"""The tables of attacks tell the truth: each test they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
FILES = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize(
    ("page", "at_least"),
    [
        ("explanation/threat-model.md", 50),
        ("explanation/encryption.md", 15),
        ("how-to/serve.md", 25),
    ],
)
def test_every_test_that_is_named_exists(page: str, at_least: int) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+?)(?:(_?\.\.\.)|\.py)?`", text)
    assert len(named) > at_least
    missing = [
        name
        for name, more in named
        if not re.search(rf"def {name}{r'_' if more else r'[(]'}", TESTS)
    ]
    assert [name for name in missing if f"{name}.py" not in FILES] == []


def test_the_links_of_the_security_policy_lead_somewhere() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)", text):
        assert (ROOT / target).exists(), target
