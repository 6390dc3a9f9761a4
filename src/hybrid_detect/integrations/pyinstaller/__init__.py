"""Hooks for PyInstaller, which finds them by the entry point ``pyinstaller40``.

The hook beside this file brings the modules that are imported by name only, and LiteRT or MediaPipe
with its files where it is installed. The run-time hook lets the app's own program be started as a
detector's process. A face model is not part of the bundle: ship one and name it
(`ServiceConfig.model_path`), or let it be fetched.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_directories"]


def hook_directories() -> list[str]:
    """Where PyInstaller finds the hooks."""
    return [str(Path(__file__).parent)]
