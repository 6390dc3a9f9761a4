"""Providers by name: those of the library, and those that other distributions register."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.backends.remote.protocol import HttpResponse, Protocol
from hybrid_detect.backends.remote.providers import PROVIDERS, protocol_of, provider_names
from hybrid_detect.errors import BackendResponseError, ConfigurationError, Refusal

from .protocol_contract import PICTURE, ProtocolContract, json_response

MODULE = """
from hybrid_detect import FaceMapping, JsonEndpoint


class Acme(JsonEndpoint):
    name = "acme"

    @classmethod
    def from_options(cls, options):
        return cls(FaceMapping(**options))


class Odd:
    from_options = dict


class Bare:
    pass
"""

ENTRY_POINTS = """[hybrid_detect.providers]
acme = acme_faces_of_a_test:Acme
odd = acme_faces_of_a_test:Odd
bare = acme_faces_of_a_test:Bare
gone = acme_faces_of_a_test:Gone
aws = acme_faces_of_a_test:Bare
custom_backend = acme_faces_of_a_test:Bare
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with entry points, as pip leaves it in site-packages."""
    (tmp_path / "acme_faces_of_a_test.py").write_text(MODULE)
    info = tmp_path / "acme_faces_of_a_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-faces-of-a-test\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("acme_faces_of_a_test", None)


def test_a_registered_provider_is_reached_by_name() -> None:
    protocol = protocol_of("acme", {"score": "p"})
    assert protocol.name == "acme"
    assert "acme" in provider_names()


def test_a_name_of_the_librarys_own_cannot_be_taken() -> None:
    assert protocol_of("custom_backend").name == "custom_backend"
    assert [name for name in provider_names() if name in PROVIDERS] == list(PROVIDERS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "cannot be loaded \\(AttributeError\\)"),
        ("bare", "to have from_options"),
        ("odd", "to make a Protocol, got dict"),
        ("nowhere", "expected one of .*acme"),
    ],
)
def test_one_that_cannot_be_used_says_so(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        protocol_of(name)


def test_an_unknown_option_is_its_own_error() -> None:
    with pytest.raises((ConfigurationError, TypeError)):
        protocol_of("acme", {"colour": "red"})


PAGE = (Path(__file__).parents[4] / "docs/how-to/extend.md").read_text(encoding="utf-8")
HOW_TO = re.findall(r"```python\n(# acme_faces\.py\n.*?)```", PAGE, re.DOTALL)[0]
TABLE = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]


class TestProviderOfTheHowTo(ProtocolContract):
    def make(self) -> Protocol:
        names: dict[str, Any] = {}
        exec(HOW_TO, names)  # noqa: S102 - the documentation's own
        made: Protocol = names["AcmeFaces"]()
        return made

    def good(self) -> HttpResponse:
        box = {"x_min": 8, "y_min": 8, "x_max": 24, "y_max": 24}
        return json_response({"faces": [{"box": box, "score": 0.75}]})

    def test_it_has_no_more_than_forty_lines_and_a_code_that_decides(self) -> None:
        assert len([line for line in HOW_TO.splitlines()[1:] if line]) <= 40
        with pytest.raises(BackendResponseError) as caught:
            self.make().decode(json_response({"code": "slow_down"}, 400), (PICTURE,))
        assert caught.value.refusal is Refusal.THROTTLED


def test_the_provider_of_the_how_to_is_reached_by_the_name_it_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = tomllib.loads(TABLE)["project"]["entry-points"]["hybrid_detect.providers"]
    folder = tmp_path / "site"
    info = folder / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "acme_faces.py").write_text(HOW_TO)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    lines = "\n".join(f"how_to_{name} = {where}" for name, where in registered.items())
    (info / "entry_points.txt").write_text(f"[hybrid_detect.providers]\n{lines}\n")
    monkeypatch.syspath_prepend(folder)
    try:
        assert protocol_of("how_to_acme").name == "acme"
    finally:
        sys.modules.pop("acme_faces", None)
