import ast
import importlib
import inspect
from enum import Enum
from pathlib import Path

import pytest

import hybrid_detect


def names_in_the_stub() -> dict[str, str]:
    """The names that type checkers see, and the module each comes from."""
    tree = ast.parse(Path(str(hybrid_detect.__file__)).with_suffix(".pyi").read_text())
    return {
        str(alias.asname): str(statement.module)  # only what is renamed, to itself, is public
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def test_the_public_names_are_sorted_case_aside() -> None:
    assert hybrid_detect.__all__ == sorted(hybrid_detect.__all__, key=str.casefold)
    assert len(set(hybrid_detect.__all__)) == len(hybrid_detect.__all__)


def test_type_checkers_see_the_names_that_programs_get() -> None:
    typed = names_in_the_stub()
    assert typed.keys() == set(hybrid_detect.__all__)
    for name, home in typed.items():
        assert getattr(importlib.import_module(home), name) is getattr(hybrid_detect, name)


def test_a_prompt_completes_to_the_public_names_and_modules_alone() -> None:
    offered = {name for name in dir(hybrid_detect) if not name.startswith("_")}
    others = offered - set(hybrid_detect.__all__)
    assert offered >= set(hybrid_detect.__all__)
    assert all(inspect.ismodule(getattr(hybrid_detect, name)) for name in others), others
    assert "__version__" in dir(hybrid_detect)


@pytest.mark.parametrize("name", hybrid_detect.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(hybrid_detect, name)
    text = inspect.getdoc(value)
    assert text
    if isinstance(value, type):
        assert value.__name__ == name
        assert "__doc__" in vars(value), "a docstring of its own, not an inherited one"
        assert value.__module__.startswith("hybrid_detect.")


@pytest.mark.parametrize("name", hybrid_detect.__all__)
def test_every_public_method_is_documented(name: str) -> None:
    value = getattr(hybrid_detect, name)
    if not isinstance(value, type) or issubclass(value, Enum):
        return
    undocumented = [
        member
        for member, function in vars(value).items()
        if not member.startswith("_")
        and (inspect.isfunction(function) or isinstance(function, property | classmethod))
        and not inspect.getdoc(getattr(value, member))
    ]
    assert undocumented == []


def test_everything_can_be_imported_with_a_star() -> None:
    names: dict[str, object] = {}
    exec("from hybrid_detect import *", names)  # noqa: S102 - the statement under test
    assert set(hybrid_detect.__all__) <= set(names)


def test_dir_lists_the_public_names_before_they_are_loaded() -> None:
    assert set(hybrid_detect.__all__) <= set(dir(hybrid_detect))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hybrid_detect.no_such_name
    assert not hasattr(hybrid_detect, "requests")


def test_the_version_is_the_distribution_s() -> None:
    assert hybrid_detect.__version__ == "0.1.0"


def test_the_blocking_service_has_the_same_name_in_sync() -> None:
    assert hybrid_detect.sync.HybridDetectionService is not hybrid_detect.HybridDetectionService
