import json
import sys

import pytest

from hybrid_detect.errors import ConfigurationError, MissingExtraError
from hybrid_detect.extras import is_installed, require


def test_an_installed_module_is_returned() -> None:
    assert require("json", extra="device", purpose="this test") is json


def test_a_missing_module_is_named_with_the_line_that_cures_it() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module_xyz", extra="device", purpose="on-device detection")
    assert caught.value.extra == "device"
    assert "on-device detection needs no_such_module_xyz" in str(caught.value)
    assert str(caught.value).endswith("pip install 'hybrid-detect[device]'")
    assert isinstance(caught.value, ConfigurationError)


def test_a_missing_module_of_a_package_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"json\.no_such_part"):
        require("json.no_such_part", extra="server", purpose="this test")


def test_another_error_of_the_module_is_not_hidden(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module_xyz.py").write_text("1 / 0\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        require("broken_module_xyz", extra="device", purpose="this test")


def test_being_installed_is_found_out_without_importing(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "untouched_module_xyz.py").write_text("raise SystemExit\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_installed("untouched_module_xyz")
    assert "untouched_module_xyz" not in sys.modules
    assert not is_installed("no_such_module_xyz")


def test_a_frozen_app_is_told_where_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install`` on the user's machine would change nothing."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(MissingExtraError, match=r"not in this frozen app; where it is built: pip"):
        require("no_such_module", extra="device", purpose="a test")
