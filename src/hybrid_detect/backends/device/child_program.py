"""The program of a detector's process: whether one can be started here, by what, and with what."""

from __future__ import annotations

import os
import sys

from hybrid_detect.errors import ConfigurationError

__all__ = [
    "BOOT",
    "FROZEN_ARGUMENT",
    "can_start_processes",
    "command",
    "environment",
    "require_child_processes",
]

FROZEN_ARGUMENT = "--hybrid-detect-worker"
"""First argument of a frozen app that is started as a detector's process."""

BOOT = """
import json, signal, sys
# Ctrl-C, and what a service manager sends to a whole group, is for the app, which ends this process
# when it needs it no more. This process ends with the app in any case.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.platform == "linux":
    try:  # If memory runs out, the kernel should end this process rather than the app.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
options = json.loads(sys.argv[1])
sys.path[:] = options["sys_path"]
from hybrid_detect.backends.device.worker_child import main
main(options)
"""


def can_start_processes() -> bool:
    """Whether a detector's process can be started from this program.

    A frozen app has no interpreter: `sys.executable` is the app itself, which would run once more
    and start a process in its turn. With the run-time hook of `integrations.pyinstaller` in it, it
    becomes a detector's process before its own code runs.
    """
    if getattr(sys, "frozen", False):
        return getattr(sys, "hybrid_detect_worker", None) == FROZEN_ARGUMENT
    return bool(sys.executable)


def require_child_processes() -> None:
    """Refuse where no Python child process can be started.

    Raises:
        ConfigurationError: In an embedded interpreter, as on phones, and in a frozen app that was
            built without this package's hooks.
    """
    if not can_start_processes():
        msg = (
            "isolation: 'process' needs a Python interpreter to start, and this app has none "
            "(it is embedded, or frozen without hybrid_detect's PyInstaller hooks); pass "
            "isolation='none'"
        )
        raise ConfigurationError(msg)


def command(options: str) -> list[str]:
    """What starts a detector's process."""
    if getattr(sys, "frozen", False):
        return [sys.executable, FROZEN_ARGUMENT, options]
    return [sys.executable, "-P", "-c", BOOT, options]


def environment() -> dict[str, str]:
    """The app's environment, with every proxy pointing nowhere and one thread for NumPy.

    MediaPipe sends usage data through libcurl when it is closed, which is never done. If another
    version tries earlier, before the process has lost the right to open sockets, it meets a port on
    which nothing listens. NumPy's OpenBLAS would keep a thread for each core, with a stack and
    buffers of its own, for products of matrices that are too small to share.
    """
    nowhere = "http://127.0.0.1:9"  # The discard service, RFC 863.
    names = ("http_proxy", "https_proxy", "all_proxy")
    proxies = {name: nowhere for low in names for name in (low, low.upper())}
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    return {**kept, **proxies, "OPENBLAS_NUM_THREADS": "1"}
