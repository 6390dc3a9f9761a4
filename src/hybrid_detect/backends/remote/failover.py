"""Which targets a frame is sent to, one after the other, until one answers.

The best one first, then each of the others at once, then again after a pause: all of it inside the
frame's deadline, which is the caller's to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from hybrid_detect.backends.remote.retries import RetryBudget, retry
from hybrid_detect.backends.remote.target_pool import TargetPool, is_about_the_picture
from hybrid_detect.backends.remote.targets import Target
from hybrid_detect.errors import BackendError, SupersededError

__all__ = ["first_answer"]

T = TypeVar("T")


async def first_answer(
    ask: Callable[[Target, Sequence[Target]], Awaitable[T]],
    pool: TargetPool,
    *,
    denied: Sequence[Target] = (),
    retries: int,
    left_s: Callable[[], float],
    budget: RetryBudget,
) -> T:
    """The answer of the first target that gives one.

    What one provider cannot read, its other regions cannot read either, so that they are not asked;
    another provider may.

    Args:
        ask: Sends the frame to a target once; told of the targets that are out of the question.
        pool: The targets.
        denied: Those that this frame may not go to; at least one other is left.
        retries: How often the frame may be sent again once all targets have failed.
        left_s: Seconds that are left of the frame's deadline.
        budget: Lets retries help against a hiccup, but never feed an outage.

    Raises:
        BackendError: The last target's, if none could answer.
    """
    target = pool.pick(denied)
    out, blamed = [*denied, target], list[Target]()
    try:
        return await ask(target, denied)
    except BackendError as error:
        failure = error
    while not isinstance(failure, SupersededError):
        if is_about_the_picture(failure):
            blamed.append(target)
            out += [each for each in pool.targets if each.provider == target.provider]
        other = pool.other(out, left_s())
        if other is None:
            break
        try:
            answer = await ask(other, out)
        except BackendError as error:
            failure = error
        else:
            for each in blamed:
                pool.disproved(each)
            return answer
        target = other
        out.append(other)
    return await retry(
        lambda: ask(pool.pick(denied), denied),
        after=failure,
        retries=retries,
        deadline_s=left_s(),
        budget=budget,
        sleep=asyncio.sleep,
    )
