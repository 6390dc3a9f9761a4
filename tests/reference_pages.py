"""Writes what is made from the code, reference pages and a stub: ``nox -s reference``."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import hybrid_detect
from hybrid_detect.backends.remote.protocol import Capabilities
from hybrid_detect.backends.remote.providers import PROVIDERS, protocol_of
from hybrid_detect.charges import SentRequest
from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.monitoring.events import (
    Answer,
    BackendEvent,
    FeedbackEvent,
    FrameEvent,
    FrameOutcome,
    SettingsEvent,
)
from hybrid_detect.server.config import ServerConfig

if __package__:
    from .metrics_page import metrics
else:  # run as a script
    from metrics_page import metrics

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"

PACKAGE = Path(str(hybrid_detect.__file__)).parent

HEAD = """\
# Settings

<!-- Made from the fields' docstrings by `nox -s reference`. -->

Every setting has a default. `ServiceConfig` is frozen and checked when it is made: a value outside
its range is a `ConfigurationError` that names the field.

```python
from hybrid_detect import HybridDetectionService, ServiceConfig

config = ServiceConfig(
    endpoint="https://faces.example.com", auth_token="your-token", deadline_s=0.5
)
service = HybridDetectionService(config=config)
```

The environment is read only where the program asks for it, as the command line does.
`ServiceConfig.from_env()` takes one variable for each field; arguments win over variables, and a
variable with the prefix that no field has is named in a warning.

## `ServiceConfig`

"""

SERVER = """
## `ServerConfig`

The reference server's settings, for `hybrid_detect.server.serving.serve(ServerConfig(...))`;
`hybrid-detect serve --help` lists the options of the command line.

"""


def field_docs(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        docs[statement.target.id] = (
            " ".join(str(following.value.value).split())
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            else ""
        )
    return docs


def enum_docs(cls: type) -> dict[str, str]:
    """The text under each member of an enumeration."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    return {
        statement.targets[0].id: " ".join(str(following.value.value).split())
        for statement, following in itertools.pairwise(body.body)
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }


def default_of(field: Field[Any]) -> str:
    """The default of `field` as a reader would write it."""
    if field.default_factory is not MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is MISSING:
        return "required"
    value = field.default
    return f"`{str(value) if hasattr(value, 'value') else repr(value)}`"


def table(cls: type, *, prefix: str | None) -> str:
    """A Markdown table of the fields of `cls`, with their variables if there are any.

    What a reader looks for comes first: the table is wider than a page.
    """
    docs = field_docs(cls)
    head = ["field", "default", "what it is", "type", *(["variable"] if prefix else [])]
    rows = [
        [
            f"`{field.name}`",
            default_of(field),
            docs[field.name].replace("|", "\\|"),
            f"`{field.type}`".replace(" | ", " or "),
            *([f"`{prefix}{field.name.upper()}`"] if prefix else []),
        ]
        for field in fields(cls)
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """`docs/reference/settings.md`."""
    return (
        HEAD + table(ServiceConfig, prefix=ENV_PREFIX) + SERVER + table(ServerConfig, prefix=None)
    )


EVENTS = """\
# Events

<!-- Made from the fields' docstrings by `nox -s reference`. -->

A service tells its [hooks](../how-to/write-a-hook.md) what happened. An event holds no pixel, key,
token or message body, so a hook may write all of it anywhere; `to_dict()` gives plain values for
JSON. `session_id` is the name that the app chose.

## `FrameEvent`

Emitted once for each frame that entered the service, right after its end, to `on_frame(event)`.
Frames that a camera's newer frames replaced never entered; the next event counts them in
`dropped_before`.

"""

OUTCOMES = """
## `FrameOutcome`

"""

REQUESTS = """
## `SentRequest`

In `FrameEvent.requests`: each request that left the device for the frame. `to_dict()` adds `price`,
the amount in units of the currency as a text.

"""

ANSWERS = """
## `Answer`

In `FrameEvent.answers`: what each backend that answered said of the frame.

"""

FEEDBACK = """
## `FeedbackEvent`

Emitted to `on_feedback(event)` when the app calls `report_feedback(result, verdict)`.

"""

BACKENDS = """
## `BackendEvent`

Emitted to `on_backend(event)` when a backend becomes usable or unusable, or its circuit breaker
changes. That is noticed when a frame is decided on, and when a check or an attempt ends.

"""

SETTINGS_EVENT = """
## `SettingsEvent`

Emitted to `on_settings(event)` once `set_mode()` or `set_privacy()` of an open service has taken
effect.

"""


def events() -> str:
    """`docs/reference/events.md`."""
    texts = enum_docs(FrameOutcome)
    outcomes = [f"| `{outcome.value}` | {texts[outcome.name]} |" for outcome in FrameOutcome]
    table_of_outcomes = "\n".join(
        ["| value | what became of the frame |", "| --- | --- |", *outcomes]
    )
    return (
        EVENTS
        + table(FrameEvent, prefix=None)
        + OUTCOMES
        + table_of_outcomes
        + "\n"
        + REQUESTS
        + table(SentRequest, prefix=None)
        + ANSWERS
        + table(Answer, prefix=None)
        + BACKENDS
        + table(BackendEvent, prefix=None)
        + SETTINGS_EVENT
        + table(SettingsEvent, prefix=None)
        + FEEDBACK
        + table(FeedbackEvent, prefix=None)
    )


PROVIDERS_HEAD = """\
# Providers

<!-- Made from the providers' own facts by `nox -s reference`. -->

What `provider=` can name, its `provider_options`, and what each takes, gives and does with
pictures.
[How to use one](../how-to/providers.md). A price is an estimate that `targets` can replace; every
attempt costs it, failed ones too.
"""


def providers() -> str:
    """`docs/reference/providers.md`."""
    return PROVIDERS_HEAD + "".join(map(provider, PROVIDERS))


def provider(name: str) -> str:
    """The section of one provider."""
    module, class_name = PROVIDERS[name]
    cls = getattr(importlib.import_module(f"{providers_package}.{module}"), class_name)
    doc = inspect.getdoc(cls) or ""
    about = doc.partition("Args:")[0].partition("Raises:")[0].strip()
    return f"\n## `{name}`\n\n{about}\n\n{options(cls, doc)}{facts(cls)}"


def options(cls: type, doc: str) -> str:
    """The options, from the constructor and the docstring's `Args`; empty if there are none."""
    described = dict(ARGUMENT.findall(doc.partition("Args:\n")[2].partition("\n\n")[0]))
    parameters = inspect.signature(cls).parameters.values()
    rows = [
        f"| `{each.name}` | "
        f"{'required' if each.default is each.empty else f'`{each.default!r}`'} | "
        f"{' '.join(described[each.name].split())} |"
        for each in parameters
    ]
    if not rows:
        return ""
    return "\n".join(["| option | default | what it is |", "| --- | --- | --- |", *rows]) + "\n\n"


def facts(cls: Any) -> str:
    """What of its `Capabilities` differs from the defaults."""
    found = cls.capabilities
    docs = field_docs(Capabilities)
    usual = Capabilities()
    rows = [
        f"| `{field.name}` | {fact(getattr(found, field.name))} | {docs[field.name]} |"
        for field in fields(Capabilities)
        if getattr(found, field.name) != getattr(usual, field.name)
    ]
    if not rows:
        return "Its limits are those of the endpoint.\n"
    return "\n".join(["| fact | value | what it is |", "| --- | --- | --- |", *rows]) + "\n"


def fact(value: Any) -> str:
    """A value of `Capabilities` as a reader would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, frozenset | tuple):
        return ", ".join(sorted(value) if isinstance(value, frozenset) else value)
    return str(value).replace("|", "\\|")


providers_package = protocol_of.__module__

ARGUMENT = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def stub() -> str:
    """What type checkers and editors read instead of the package's lazy names."""
    lines = [
        '"""The public names, as type checkers see them; made by `nox -s reference`."""',
        "",
        "from hybrid_detect import sync as sync",
    ]
    for home, names in sorted(hybrid_detect._HOMES.items()):
        for name in names.split():
            line = f"from hybrid_detect.{home} import {name} as {name}"
            if len(line) > 100:  # as ruff formats it
                line = f"from hybrid_detect.{home} import (\n    {name} as {name},\n)"
            lines.append(line)
    return "\n".join([*lines, "", "__version__: str", ""])


MADE = {
    REFERENCE / "settings.md": settings,
    REFERENCE / "events.md": events,
    REFERENCE / "metrics.md": metrics,
    REFERENCE / "providers.md": providers,
    PACKAGE / "__init__.pyi": stub,
}

if __name__ == "__main__":
    for path, make in MADE.items():
        path.write_text(make(), encoding="utf-8")
