"""The reference pages tell what the code does, and leave no public name out."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

import hybrid_detect
import hybrid_detect.testing
from hybrid_detect.config import ServiceConfig
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.testing import provider_servers

from .reference_pages import MADE, REFERENCE, field_docs

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_made_from_the_code_is_what_the_code_says(path: Path) -> None:
    """If this fails, run ``nox -s reference``."""
    assert path.read_text(encoding="utf-8") == MADE[path]()


@pytest.mark.parametrize("cls", [ServiceConfig, ServerConfig, FrameEvent, BackendEvent])
def test_every_field_is_described(cls: type) -> None:
    docs = field_docs(cls)
    assert [field.name for field in fields(cls) if not docs[field.name]] == []


def test_every_public_name_is_on_one_page_of_the_reference() -> None:
    pages = sorted((REFERENCE / "api").glob("*.md"))
    found = [
        name
        for page in pages
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    public = [f"hybrid_detect.{name}" for name in hybrid_detect.__all__]
    public += [f"hybrid_detect.testing.{name}" for name in hybrid_detect.testing.__all__]
    public += [f"{provider_servers.__name__}.{name}" for name in provider_servers.__all__]
    public += [
        f"hybrid_detect.integrations.{module}.{name}"
        for module in ("camera_feed", "kivy", "tk")
        for name in exported(module)
    ]
    assert sorted(found) == sorted(public)


def exported(module: str) -> list[str]:
    """The `__all__` of a bridge to another tool, which need not be installed."""
    source = Path(hybrid_detect.__file__).parent / "integrations" / f"{module}.py"
    (names,) = re.findall(r"^__all__ = (\[.*?\])$", source.read_text("utf-8"), re.MULTILINE)
    return list(ast.literal_eval(names))


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)
