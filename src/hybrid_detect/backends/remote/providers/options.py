"""The options of a provider, as configuration spells them, checked against its constructor."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from hybrid_detect.errors import ConfigurationError

__all__ = ["checked_choice", "checked_name", "checked_options"]


def checked_options(cls: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options`, if they are arguments of `cls` and of the types that it declares.

    Raises:
        ConfigurationError: If one is unknown, of another type, or missing.
    """
    parameters = inspect.signature(cls).parameters
    hints = typing.get_type_hints(cls.__init__)
    for name in sorted(options):
        if name not in parameters:
            msg = (
                f"provider_options: {name!r} is not an option of {cls.name}; "
                f"it has {', '.join(parameters) or 'none'}"
            )
            raise ConfigurationError(msg)
        expected, value = hints[name], options[name]
        is_number = expected is float and isinstance(value, int) and not isinstance(value, bool)
        if not is_number and type(value) is not expected:
            msg = f"{name}: expected {expected.__name__}, got {type(value).__name__}"
            raise ConfigurationError(msg)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            msg = f"provider_options: {cls.name} needs {name!r}"
            raise ConfigurationError(msg)
    return dict(options)


def checked_name(value: str, option: str, *, slashes: int = 0) -> str:
    """`value`, if it can stand in a URL as it is: letters, digits and ``-._~``.

    Args:
        value: The name.
        option: What the message calls it.
        slashes: How many slashes part it, as in ``project/1``.

    Raises:
        ConfigurationError: If it cannot.
    """
    parts = value.split("/")
    if len(parts) != slashes + 1 or not all(map(_is_name, parts)):
        shape = "/".join(["name"] * (slashes + 1))
        msg = f"{option}: expected {shape} of letters, digits and -._~, got {value!r}"
        raise ConfigurationError(msg)
    return value


def _is_name(text: str) -> bool:
    is_dots = set(text) <= {"."}  # which a URL resolves
    return not is_dots and text.isascii() and all(c.isalnum() or c in "-._~" for c in text)


def checked_choice(value: str, option: str, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        ConfigurationError: If it is not.
    """
    if value not in choices:
        msg = f"{option}: expected one of {', '.join(choices)}, got {value!r}"
        raise ConfigurationError(msg)
    return value
