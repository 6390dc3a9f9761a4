"""Writes the reference pages that are made from the code: ``nox -s reference``."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from hybrid_detect.charges import SentRequest
from hybrid_detect.config import ServiceConfig
from hybrid_detect.environment import ENV_PREFIX
from hybrid_detect.monitoring.events import BackendEvent, FrameEvent, FrameOutcome
from hybrid_detect.server.config import ServerConfig

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"

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
    """A Markdown table of the fields of `cls`, with their variables if there are any."""
    docs = field_docs(cls)
    head = ["field", "type", "default", *(["variable"] if prefix else []), "what it is"]
    rows = [
        [
            f"`{field.name}`",
            f"`{field.type}`".replace(" | ", " or "),
            default_of(field),
            *([f"`{prefix}{field.name.upper()}`"] if prefix else []),
            docs[field.name].replace("|", "\\|"),
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

BACKENDS = """
## `BackendEvent`

Emitted to `on_backend(event)` when a backend becomes usable or unusable, or its circuit breaker
changes. That is noticed when a frame is decided on, and when a check or an attempt ends.

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
        + BACKENDS
        + table(BackendEvent, prefix=None)
    )


PAGES = {"settings.md": settings, "events.md": events}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
