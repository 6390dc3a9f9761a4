"""`nox -s fuzz` runs each file that can be fuzzed for longer, and names none that is gone."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nox_fuzzes_the_files_that_ask_how_long_to_go_on() -> None:
    noxfile = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    (fuzzed,) = (
        ast.literal_eval(each.value)
        for each in noxfile.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "FUZZED"
    )
    asking = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "fuzzing import examples" in path.read_text("utf-8") and path != Path(__file__)
    ]
    assert list(fuzzed) == sorted(asking)
