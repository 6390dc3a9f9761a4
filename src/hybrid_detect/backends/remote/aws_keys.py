"""AWS keys: where they come from, without a dependency of AWS's.

Given, from the environment, or from the profile files that the AWS CLI writes. Roles, single
sign-on and the keys of a machine in AWS need calls to other services: for those, give a function.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hybrid_detect.errors import BackendUnavailableError, ConfigurationError

__all__ = ["AwsKeySource", "AwsKeys", "checked_keys", "keys_found"]

_ELSEWHERE = ("role_arn", "sso_session", "sso_start_url", "credential_process", "login_session")
"""Settings of a profile whose keys are got from another service or program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsKeys:
    """An access key, its secret, and the token of the session that a temporary one belongs to.

    Raises:
        ConfigurationError: If one is empty or has blanks, line ends or non-ASCII characters.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    ends_at_s: float | None = None
    """When the session ends, in seconds since 1970; `None` if it does not or that is unknown."""

    def __post_init__(self) -> None:
        for name in ("access_key_id", "secret_access_key", "session_token"):
            value = getattr(self, name)
            if name == "session_token" and value is None:
                continue
            if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
                msg = f"{name}: expected visible ASCII characters, got something else"
                raise ConfigurationError(msg)


AwsKeySource: typing.TypeAlias = Callable[[], AwsKeys | Awaitable[AwsKeys]]
"""A function, sync or async, that gives keys. A sync one is called in a thread."""


def checked_keys(given: object) -> AwsKeys:
    """`given`, if it is `AwsKeys`.

    Raises:
        ConfigurationError: If it is something else.
    """
    if isinstance(given, AwsKeys):
        return given
    msg = f"credentials: expected AwsKeys or a function, got {type(given).__name__}"
    raise ConfigurationError(msg)


def keys_found(profile: str | None = None, *, environ: Mapping[str, str] | None = None) -> AwsKeys:
    """The keys of the environment, or else of a profile in the files of the AWS CLI.

    A profile that is named comes before keys in the environment, as with AWS's own SDKs. Reads
    files: call it in a thread.

    Args:
        profile: The profile's name; `None` for ``AWS_PROFILE``, or else ``default``.
        environ: The environment; the process's own if `None`.

    Raises:
        BackendUnavailableError: If there are none, with the places that were looked at. Nothing of
            a file is repeated.
    """
    environ = os.environ if environ is None else environ
    if profile is None and environ.get("AWS_ACCESS_KEY_ID"):
        return _from_environment(environ)
    name = profile or environ.get("AWS_PROFILE") or "default"
    looked_at = []
    for variable, usual, profile_of in (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", str.strip),
        ("AWS_CONFIG_FILE", "~/.aws/config", _profile_of),
    ):
        path = Path(environ.get(variable) or usual).expanduser()
        looked_at.append(str(path))
        settings = _settings(path, name, profile_of)
        if settings.get("aws_access_key_id"):
            return _keys(
                settings.get("aws_access_key_id"),
                settings.get("aws_secret_access_key"),
                settings.get("aws_session_token"),
                f"profile {name!r}",
            )
        for setting in _ELSEWHERE:
            if setting in settings:
                msg = (
                    f"AWS keys: profile {name!r} gets them by {setting}, which this library does "
                    "not: give a function as credentials"
                )
                raise BackendUnavailableError(msg)
    where = " and ".join(looked_at)
    msg = f"AWS keys: none in the environment, and no profile {name!r} with keys in {where}"
    raise BackendUnavailableError(msg)


def _from_environment(environ: Mapping[str, str]) -> AwsKeys:
    return _keys(
        environ.get("AWS_ACCESS_KEY_ID"),
        environ.get("AWS_SECRET_ACCESS_KEY"),
        environ.get("AWS_SESSION_TOKEN"),
        "the environment",
        ends_at_s=_time_s(environ.get("AWS_CREDENTIAL_EXPIRATION", "")),
    )


def _keys(
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    where: str,
    *,
    ends_at_s: float | None = None,
) -> AwsKeys:
    try:
        return AwsKeys(
            access_key_id=access_key_id or "",
            secret_access_key=secret_access_key or "",
            session_token=session_token or None,
            ends_at_s=ends_at_s,
        )
    except ConfigurationError as error:
        msg = f"AWS keys of {where}: {error}"
        raise BackendUnavailableError(msg) from None


def _profile_of(section: str) -> str:
    """The profile that a section of the config file is of; empty if it is of something else.

    ``[profile work]``, ``[profile "at work"]`` and ``[default]``. Source: botocore 1.44,
    `configloader.py`.
    """
    try:
        words = shlex.split(section)
    except ValueError:
        return ""
    if words == ["default"]:
        return "default"
    return words[1] if len(words) == 2 and words[0] == "profile" else ""


def _settings(path: Path, profile: str, profile_of: Callable[[str], str]) -> Mapping[str, str]:
    """What a file says of a profile; nothing if there is no such file or section."""
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error) as exc:
        # The parser's message repeats the lines that it cannot read.
        msg = f"AWS keys: {path} cannot be read ({type(exc).__name__})"
        raise BackendUnavailableError(msg) from None
    sections = [each for each in parser.sections() if profile_of(each) == profile]
    return {name: value for each in sections for name, value in parser[each].items()}


def _time_s(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
