"""Which processors MediaPipe's library runs on.

Its wheel for 64-bit ARM is compiled for processors with the Large System Extensions (LSE, ARMv8.1:
atomic instructions such as CAS and LDADD), and its library ends the process on one without them.
pip installs the wheel on every board and ``import mediapipe`` succeeds, so only the first use would
tell. Boards without LSE: Raspberry Pi 3, 4 and Zero 2 W (Cortex-A53, Cortex-A72); with it:
Raspberry Pi 5 (Cortex-A76). Seen with MediaPipe 1.2.3 on emulated processors of these kinds.
"""

from __future__ import annotations

import re
import sys

from hybrid_detect.errors import ConfigurationError

__all__ = [
    "processor_shortage",
    "require_supported_processor",
    "unsupported_instruction_message",
]

CPUINFO = "/proc/cpuinfo"

_ARM_64 = frozenset({"aarch64", "arm64"})

_CURE = (
    "install LiteRT, which does (pip install 'hybrid-detect[device-lite]'), detect on another "
    "machine (endpoint=..., or provider=...), or use a board with a newer processor, such as a "
    "Raspberry Pi 5"
)


def processor_shortage(cpuinfo: str, machine: str) -> str:
    """The reason why MediaPipe cannot run on a processor, and the cure; empty if nothing is known.

    Args:
        cpuinfo: The content of Linux's ``/proc/cpuinfo``; empty where there is none.
        machine: The architecture as `platform.machine` names it.
    """
    if machine.lower() not in _ARM_64:
        return ""
    features = re.findall(r"^Features\s*:(.*)$", cpuinfo, re.MULTILINE)
    # "atomics" is Linux's name for LSE. Source: Linux, Documentation/arch/arm64/elf_hwcaps.rst.
    if all("atomics" in line.split() for line in features):
        return ""
    return (
        "MediaPipe does not run on this processor: it lacks the LSE atomic instructions (no "
        f"'atomics' in /proc/cpuinfo), as on a Raspberry Pi 3, 4 or Zero 2 W; {_CURE}"
    )


def require_supported_processor() -> None:
    """Refuse a processor on which the detector's process would end at its start.

    Raises:
        ConfigurationError: If this is one.
    """
    if sys.platform != "linux":
        return
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            cpuinfo = file.read()
    except OSError:
        cpuinfo = ""  # A container may hide it; a start that fails will tell.
    if shortage := processor_shortage(cpuinfo, _machine()):
        raise ConfigurationError(shortage)


def unsupported_instruction_message() -> str:
    """What to say once a process ended at its start for an instruction that is not there."""
    return (
        "MediaPipe does not run on this processor: its library uses an instruction that the "
        f"processor ({_machine()}) does not have (signal 4, SIGILL); {_CURE}"
    )


def _machine() -> str:
    # Imported here, because the detector's process, which asks for none of this, imports this file.
    import platform

    return platform.machine()
