"""The contract as authors of backends use it: it passes what keeps it and shows what does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "extend.md"


def example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "BackendContract" in block]
    return str(code)


def run(folder: Path, code: str) -> tuple[dict[str, int], str]:
    """How many tests of `code` passed and failed, and what pytest printed."""
    (folder / "test_mine.py").write_text(code)
    fixture = "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    (folder / "conftest.py").write_text(fixture)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "CI"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    counts = re.findall(r"(\d+) (passed|failed|error)", done.stdout.splitlines()[-1])
    return {what: int(number) for number, what in counts}, done.stdout


def test_the_page_s_example_keeps_the_contract(tmp_path: Path) -> None:
    counts, out = run(tmp_path, example())
    assert set(counts) == {"passed"}, out
    assert counts["passed"] > 20


def test_a_backend_that_answers_after_it_was_closed_is_found(tmp_path: Path) -> None:
    undying = "class Undying(FakeBackend):\n    async def aclose(self):\n        pass\n\n\n"
    code = example().replace("class TestMyBackend", undying + "class TestMyBackend")
    counts, out = run(tmp_path, code.replace("FakeBackend(faces", "Undying(faces"))
    assert counts["failed"] == 1
    assert "::test_closed_is_closed" in out


def test_a_failure_shows_the_values(tmp_path: Path) -> None:
    """As in a test module of one's own, whose assertions pytest rewrites."""
    wrong = example().replace("BoundingBox(0, 0, 320, 480)", "BoundingBox(0, 0, 9, 9)")
    counts, out = run(tmp_path, wrong)
    assert counts["failed"] > 5
    assert re.search(r"^E +assert 0\.0\d* >= 0\.5", out, re.MULTILINE)
