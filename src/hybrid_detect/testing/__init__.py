"""For users' own tests: fakes of backends and clocks, a network with faults, faces, memory budgets.

The names are loaded when they are first used: pytest imports this package in every run of
every project that has it installed (see `pytest_plugin`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid_detect.testing.backend_contract import BackendContract
    from hybrid_detect.testing.clock import FakeClock
    from hybrid_detect.testing.drawn_faces import DrawnFrame, drawn_frame, drawn_frames
    from hybrid_detect.testing.fakes import FakeBackend, ScriptStep
    from hybrid_detect.testing.faulty_link import FaultyLink
    from hybrid_detect.testing.memory_budget import MemoryBudget, MemoryBudgetError
    from hybrid_detect.testing.memory_report import MemoryReport
    from hybrid_detect.testing.synthetic_model import synthetic_face_model

__all__ = [
    "BackendContract",
    "DrawnFrame",
    "FakeBackend",
    "FakeClock",
    "FaultyLink",
    "MemoryBudget",
    "MemoryBudgetError",
    "MemoryReport",
    "ScriptStep",
    "drawn_frame",
    "drawn_frames",
    "synthetic_face_model",
]

_HOME = {
    "BackendContract": "backend_contract",
    "DrawnFrame": "drawn_faces",
    "FakeBackend": "fakes",
    "FakeClock": "clock",
    "FaultyLink": "faulty_link",
    "MemoryBudget": "memory_budget",
    "MemoryBudgetError": "memory_budget",
    "MemoryReport": "memory_report",
    "ScriptStep": "fakes",
    "drawn_frame": "drawn_faces",
    "drawn_frames": "drawn_faces",
    "synthetic_face_model": "synthetic_model",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
