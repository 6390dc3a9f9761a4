"""How another policy would have decided what was recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hybrid_detect.cli.exit_codes import ExitCode
from hybrid_detect.cli.table import table
from hybrid_detect.errors import StorageError
from hybrid_detect.selection.recording import replay
from hybrid_detect.simulation.policy_names import make_policy
from hybrid_detect.types import BackendKind, Plan

__all__ = ["replay_file"]

SHOWN_DIFFERENCES = 10


def replay_file(path: Path, name: str) -> int:
    """Show the recording in `path` to the policy `name`, and tell the differences."""
    policy = make_policy(name)
    changes: Counter[tuple[str, str]] = Counter()
    shown: list[str] = []
    total = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for conditions, recorded, new in replay(lines, policy):
                total += 1
                before, after = _deed(recorded), _deed(new)
                if before == after:
                    continue
                changes[before, after] += 1
                if len(shown) < SHOWN_DIFFERENCES:
                    shown.append(f"{conditions.now_s:10.2f} s  {recorded.reason}  ->  {new.reason}")
    except OSError as error:
        msg = f"--replay: cannot read the file: {error.strerror}"
        raise StorageError(msg) from None
    except UnicodeDecodeError:
        msg = "--replay: expected a recording, got no UTF-8 text"
        raise StorageError(msg) from None
    differ = changes.total()
    print(f"{total} decisions, {differ} of them different with {name}")
    if differ:
        print()
        rows = [(count, *deeds) for deeds, count in changes.most_common()]
        print(table(("frames", "recorded", name), rows))
        print("\nThe first of them:\n" + "\n".join(shown))
    return ExitCode.DONE


def _deed(plan: Plan) -> str:
    """What a plan comes to, in words."""
    if plan.backend is None or plan.skip:
        return "nothing"
    if plan.backend is BackendKind.DEVICE:
        deed = plan.backend.value
    else:
        deed = f"{plan.backend.value} q{plan.quality} {plan.max_side_px or 'full'} px"
    deed += " (probe)" if plan.probe else ""
    if plan.hedge is None:
        return deed
    after = f" after {plan.hedge_after_s * 1000:.0f} ms" if plan.hedge_after_s > 0 else ""
    return f"{deed} and {plan.hedge.value}{after}"
