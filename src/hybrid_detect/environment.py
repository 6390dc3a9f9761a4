"""Settings as texts: what the environment says, read as the type of a setting. Pure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hybrid_detect.errors import ConfigurationError

__all__ = ["ENV_PREFIX", "from_text", "resolved_targets", "warn_of_unknown"]

ENV_PREFIX = "HYBRID_DETECT_"

OTHER_VARIABLES = frozenset({"HYBRID_DETECT_MODEL_DIR", "HYBRID_DETECT_SERVER_TOKEN"})
"""Variables with the prefix that are read elsewhere: where models lie, and the server's token."""

SECRETS = ("auth_token", "api_key")
"""The keys of a target whose values may come from a variable of their own."""

_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def warn_of_unknown(
    environ: Mapping[str, str], names: Collection[str], *, also: Collection[str] = ()
) -> None:
    """Warn of variables with the prefix that are no settings: they would be without effect.

    Args:
        environ: The environment.
        names: The names of the settings, in lower case and without the prefix.
        also: Variables that a setting names.
    """
    from difflib import get_close_matches  # needed by those who misspell

    known = {ENV_PREFIX + name.upper() for name in names} | OTHER_VARIABLES
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known and name not in also:
            close = get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.warn(f"{name} is not a setting of hybrid_detect{hint}", stacklevel=4)


def from_text(name: str, type_name: str, text: str) -> Any:
    """`text` as a value of a type.

    Args:
        name: The setting's name.
        type_name: Its type, as its annotation spells it.
        text: What the environment says.

    Raises:
        ConfigurationError: If it cannot be read as that type. Nothing of a JSON text is repeated,
            which may hold a key.
    """
    try:
        if type_name == "bool":
            return _BOOLS[text.lower()]
        if type_name.startswith("float"):
            return float(text)
        if type_name.startswith("int"):
            return int(text)
        if type_name.startswith("Collection[str]"):
            return tuple(filter(None, (part.strip() for part in text.split(","))))
    except (ValueError, KeyError):
        msg = f"{ENV_PREFIX}{name.upper()}: expected {type_name}, got {text!r}"
        raise ConfigurationError(msg) from None
    for start, expected in (("Mapping", "object"), ("Sequence", "list of objects")):
        if type_name.startswith(start):
            return _json(name, expected, text)
    return Path(text) if type_name.startswith("Path") else text


def _json(name: str, expected: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    is_list = isinstance(value, list) and all(isinstance(each, dict) for each in value)
    if is_list if expected.startswith("list") else isinstance(value, dict):
        return value
    msg = f"{ENV_PREFIX}{name.upper()}: expected a JSON {expected}, got something else"
    raise ConfigurationError(msg)


def resolved_targets(
    targets: list[dict[str, Any]], environ: Mapping[str, str]
) -> tuple[tuple[dict[str, Any], ...], frozenset[str]]:
    """`targets` with their secrets, and the variables those came from.

    A target says ``"api_key_variable": "VISION_KEY"`` to have its key read from that variable.

    Raises:
        ConfigurationError: If there is no such variable.
    """
    read: set[str] = set()
    resolved = []
    for target in targets:
        values = dict(target)
        for secret in SECRETS:
            variable = values.pop(f"{secret}_variable", None)
            if variable is None:
                continue
            if not isinstance(variable, str) or not environ.get(variable):
                msg = f"targets: {secret}_variable names {variable!r}, which is not set"
                raise ConfigurationError(msg)
            read.add(variable)
            values[secret] = environ[variable]
        resolved.append(values)
    return tuple(resolved), frozenset(read)
