"""Runs before the app's own code: is this the app, or a detector's process that it has started?"""


def _pyi_rthook() -> None:
    import sys

    from hybrid_detect.backends.device.child_program import BOOT, FROZEN_ARGUMENT

    sys.hybrid_detect_worker = FROZEN_ARGUMENT  # type: ignore[attr-defined]
    if sys.argv[1:2] == [FROZEN_ARGUMENT]:
        del sys.argv[1]
        exec(BOOT, {"__name__": "hybrid_detect_worker"})  # noqa: S102 - our own text; never returns


_pyi_rthook()
del _pyi_rthook
