"""The contracts of import-linter cover the whole tree, and pure packages touch no file or clock.

`nox -s layers` checks the imports themselves; here is what a list of packages can forget.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hybrid_detect

ROOT = Path(__file__).parent.parent
PACKAGE = Path(str(hybrid_detect.__file__)).parent

DOES_IO = {
    "backends",
    "cli",
    "integrations",
    "extras",  # asks the import system
    "monitoring",
    "server",
    "service",
    "simulation",  # reads traces
    "sources",
    "storage",
    "sync",
    "system",
    "testing",
}
"""Top-level modules and packages that may do I/O. `monitoring.events` and
`backends.remote.providers` are pure islands in them, named by the contract itself."""

FILE_READERS = {
    "exchange.key_files": "reads and writes the server's keys",
    "exchange.trust": "keeps the keys that it trusted on first use",
    "frames.reading": "reads the path or file object that the caller gave",
    "privacy.consent": "keeps the ledger's file",
}
"""The modules of pure packages that open files, and why."""

OPENS_FILES = {
    "open",
    "os.open",
    "read_bytes",
    "read_text",
    "write_bytes",
    "write_text",
    "unlink",
    "mkdir",
}
CLOCKS = {"sleep"}


def contracts() -> dict[str, dict[str, Any]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {contract["name"]: contract for contract in found}


def pure() -> list[str]:
    listed = contracts()["Deciding, encoding and the wire format do no I/O"]["source_modules"]
    return [str(name).removeprefix("hybrid_detect.") for name in listed]


def top_level() -> set[str]:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def files_of(name: str) -> Iterator[Path]:
    place = PACKAGE / name.replace(".", "/")
    yield from sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def called(function: ast.expr) -> str:
    """The name that tells whether a call opens a file: `open`, `os.open`, or any `read_text`.

    Methods called `open` are left out: Pillow's reads memory, and a seal is opened, too.
    """
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        return ast.unparse(function) if function.attr == "open" else function.attr
    return ""


def test_every_module_is_pure_or_may_do_io() -> None:
    whole = {name for name in pure() if "." not in name}
    assert whole | DOES_IO == top_level()
    assert not whole & DOES_IO


def test_every_module_that_the_contract_names_is_there() -> None:
    for name in pure():
        assert all(path.is_file() for path in files_of(name)), name


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_layer_is_in_the_tree() -> None:
    layers = contracts()["Imports run downward"]["layers"]
    named = {name.strip() for layer in layers for name in str(layer).split("|")}
    assert named == top_level()


def test_pure_modules_open_no_file_and_never_sleep() -> None:
    opens: set[str] = set()
    for path in (path for name in pure() for path in files_of(name)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {called(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & CLOCKS, path
        if calls & OPENS_FILES:
            opens.add(dotted(path))
    assert opens <= set(FILE_READERS)


def test_pure_modules_import_no_way_to_do_io() -> None:
    """`urllib.request` is here because import-linter knows no submodules of outside packages."""
    for path in (path for name in pure() for path in files_of(name)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert "urllib.request" not in names, path
            assert "http.client" not in names, path


def test_no_module_is_longer_than_400_lines() -> None:
    too_long = {
        dotted(path): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert too_long == {}
