"""Decisions as JSON lines: a policy's conditions and plans, to be replayed with another policy.

A line holds a version, the conditions and the plan::

    {"version": 1, "conditions": {"now_s": 12.5, ...}, "plan": {"backend": "streaming", ...}}

Names are those of `Conditions` and `Plan`. JSON has no infinity, so infinite and undefined numbers
are the strings ``"inf"``, ``"-inf"`` and ``"nan"``. A reader ignores names it does not know, and
takes the default for one that is missing, so that recordings outlive small changes; the version
rises when that is not enough.
"""

from __future__ import annotations

import json
import logging
import math
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from hybrid_detect.errors import StorageError
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.policy import Policy
from hybrid_detect.types import Plan

__all__ = ["RecordingPolicy", "Replayed", "decision_of", "line_of", "replay"]

logger = logging.getLogger(__name__)

VERSION = 1

_NOT_FINITE = {"inf", "-inf", "nan"}


class RecordingPolicy:
    """Decides as `policy` does, and gives each decision to `write`.

    ::

        with open("run.jsonl", "w", encoding="utf-8") as file:
            service = HybridDetectionService(policy=RecordingPolicy(AutoPolicy(), file.write))

    Conditions hold times, rates and names of backends; no picture, address or key is among them.

    Args:
        policy: Decides.
        write: Is given one line with its end for each decision, on the thread that decides, so it
            must be quick. If it raises `OSError` or `ValueError` (a full disk, a closed file),
            recording ends with a warning, and deciding goes on.
    """

    def __init__(self, policy: Policy, write: Callable[[str], object]) -> None:
        self._policy = policy
        self._write: Callable[[str], object] | None = write

    def decide(self, conditions: Conditions) -> Plan:
        """The policy's plan for a frame under `conditions`."""
        plan = self._policy.decide(conditions)
        if self._write is not None:
            try:
                self._write(line_of(conditions, plan))
            except (OSError, ValueError) as error:
                self._write = None
                logger.warning("recording has ended: %s", error)
        return plan

    def __getattr__(self, name: str) -> Any:
        # Other methods of the policy: it may watch the simulator's events, for instance.
        if name == "_policy":  # not made yet: unpickled or copied
            raise AttributeError(name)
        return getattr(self._policy, name)


class Replayed(NamedTuple):
    """One recorded decision beside a new one."""

    conditions: Conditions
    recorded: Plan
    new: Plan


def replay(lines: Iterable[str], policy: Policy) -> Iterator[Replayed]:
    """Show each recorded frame's conditions to `policy`.

    What the policy would have changed in later conditions is not in the recording: for that,
    simulate (`hybrid_detect.simulation.simulator`).

    Raises:
        StorageError: At the first line that is not a decision; its number is in the message.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            conditions, recorded = decision_of(line, number=number)
            yield Replayed(conditions, recorded, policy.decide(conditions))


def line_of(conditions: Conditions, plan: Plan) -> str:
    """The line that records a decision, with its end."""
    record = {"version": VERSION, "conditions": _plain(conditions), "plan": _plain(plan)}
    return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"


def decision_of(line: str, *, number: int = 1) -> tuple[Conditions, Plan]:
    """The decision that `line` records, `number` being its place in the file.

    Raises:
        StorageError: If it is none, or of a version that this library cannot read.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        msg = f"line {number}: expected a recorded decision, got no JSON"
        raise StorageError(msg) from None
    try:
        if not isinstance(record, dict):
            msg = f"expected an object, got {type(record).__name__}"
            raise _ReadError(msg)
        version = record.get("version")
        if version != VERSION or isinstance(version, bool):
            msg = f"expected version {VERSION}, got {_shown(version)}"
            raise _ReadError(msg)
        conditions = _read(Conditions, record.get("conditions"), "conditions")
        return conditions, _read(Plan, record.get("plan"), "plan")
    except _ReadError as error:
        msg = f"line {number}: {error}"
        raise StorageError(msg) from None


class _ReadError(Exception):
    """What is wrong with a line."""


def _plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(expected: Any, value: Any, where: str) -> Any:
    """`value` as the type `expected`, which is one that `Conditions` and `Plan` are made of."""
    if get_origin(expected) is types.UnionType:
        (kind,) = (each for each in get_args(expected) if each is not types.NoneType)
        return None if value is None else _read(kind, value, where)
    if get_origin(expected) is tuple:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        kind = get_args(expected)[0]
        return tuple(_read(kind, each, f"{where}[{i}]") for i, each in enumerate(value))
    if is_dataclass(expected):
        return _read_object(expected, value, where)
    if issubclass(expected, StrEnum):
        try:
            return expected(value)
        except ValueError:
            raise _wrong(where, f"one of {', '.join(expected)}", value) from None
    if expected is float and isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise _wrong(where, f"a value of type {expected.__name__}", value)
    try:
        return expected(value)
    except OverflowError:
        raise _wrong(where, "a number of usual size", value) from None


def _read_object(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    values = {}
    for each in fields(cls):
        if each.name in value:
            hint = _hints(cls)[each.name]
            values[each.name] = _read(hint, value[each.name], f"{where}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            msg = f"{where}.{each.name} is missing"
            raise _ReadError(msg)
    return cls(**values)


def _wrong(where: str, expected: str, value: Any) -> _ReadError:
    return _ReadError(f"{where}: expected {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
