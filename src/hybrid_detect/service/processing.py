"""One frame's way through the service: observe, decide, detect, fall back, feed back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import AllBackendsFailedError
from hybrid_detect.frames.frame import ImageLike, PixelFormat
from hybrid_detect.monitoring.hooks import Dispatcher
from hybrid_detect.monitoring.tracing import Tracer
from hybrid_detect.service.conditions_builder import ConditionsBuilder, FrameContext
from hybrid_detect.service.execution import Execution
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.service.planning import Planner
from hybrid_detect.service.streams import Stream
from hybrid_detect.types import DetectionResult

__all__ = ["FrameProcessor"]


class FrameProcessor:
    """Looks at frames, one call for each, and tells the hooks what became of them.

    Args:
        config: The frames' limits, and the caller's name for this run of the app.
        planner: Makes a frame's plan.
        executor: Carries it out.
        conditions: Learns from it.
        hooks: Told of each frame.
        tracer: Traces each frame.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        planner: Planner,
        executor: PlanExecutor,
        conditions: ConditionsBuilder,
        hooks: Dispatcher,
        tracer: Tracer,
        clock: Callable[[], float],
    ) -> None:
        self._max_pixels = config.max_pixels
        self._session_id = config.session_id
        self._planner = planner
        self._executor = executor
        self._conditions = conditions
        self._hooks = hooks
        self._tracer = tracer
        self._clock = clock

    async def process(
        self,
        image: ImageLike,
        pixel_format: PixelFormat | str,
        context: FrameContext,
        stream: Stream | None = None,
    ) -> DetectionResult:
        """The result of one frame: ``failed`` if no backend could answer.

        Raises:
            InvalidFrameError: If it is not an image.
        """
        execution = Execution(started_s=self._clock(), context=context)
        execution.start_trace(self._tracer, own_trace=stream is not None)
        try:
            frame = await execution.open(
                image, pixel_format, now_s=self._clock(), max_pixels=self._max_pixels
            )
            if stream and (known := stream.unchanged(frame, context, now_s=self._clock())):
                result = replace(known, trace_id=execution.span.trace_id)
            else:
                execution.context = replace(
                    context,
                    captured_at_s=frame.captured_at_s,
                    side_px=max(frame.width, frame.height),
                )
                plan = await execution.decide(self._planner.plan)
                await self._executor.execute(execution)
                result = execution.to_result(now_s=self._clock(), session_id=self._session_id)
                self._conditions.on_plan(plan)
        except AllBackendsFailedError as error:
            result = self.failed(execution, error)
        except BaseException as error:
            self._tell(execution, self.failed(execution, error), error)
            raise
        self._tell(execution, result)
        if stream is None or execution.frame is None:
            return result
        return stream.with_frame(result, execution.frame, now_s=self._clock())

    def failed(self, execution: Execution, error: BaseException) -> DetectionResult:
        """The result of a frame that ended in `error`."""
        return execution.failed(error, now_s=self._clock(), session_id=self._session_id)

    def _tell(
        self, execution: Execution, result: DetectionResult, error: BaseException | None = None
    ) -> None:
        """Tell the hooks what became of a frame, once: all that left for it has left."""
        execution.end_trace(result, error)
        if self._hooks.wants_frames:
            event = partial(execution.to_event, result, error, now_s=self._clock())
            execution.when_all_has_left(lambda: self._hooks.frame(event()))
