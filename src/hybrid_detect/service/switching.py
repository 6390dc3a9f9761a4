"""Changes of an open service: another mode, another privacy policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hybrid_detect.config import ServiceConfig, detection_mode
from hybrid_detect.monitoring.events import SettingsEvent
from hybrid_detect.privacy.privacy_policy import FramePrivacy, PrivacyPolicy
from hybrid_detect.service.backend_set import BackendSet
from hybrid_detect.service.conditions_builder import ConditionsBuilder, frame_privacy
from hybrid_detect.service.default_policy import default_policy
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.service.planning import Planner
from hybrid_detect.types import DetectionMode

__all__ = ["Settings", "with_arguments", "within_config"]


class Settings:
    """The mode and the privacy policy of an open service.

    Args:
        config: What the service was made with.
        privacy: What may leave the device.
        backends: The backends.
        conditions: Asks the privacy policy, at each hand-over of bytes.
        planner: Asks the mode's policy; `None` if the app has brought a policy of its own.
        executor: Carries out the plans.
        on_change: Called after each change; `None` if no hook asks.
    """

    def __init__(
        self,
        config: ServiceConfig,
        privacy: PrivacyPolicy,
        *,
        backends: BackendSet,
        conditions: ConditionsBuilder,
        planner: Planner | None,
        executor: PlanExecutor,
        on_change: Callable[[SettingsEvent], None] | None,
    ) -> None:
        self.config = config
        """The configuration, with the mode that holds now."""
        self.privacy = privacy
        """What may leave the device now."""
        self._policy = privacy
        self._backends = backends
        self._conditions = conditions
        self._planner = planner
        self._executor = executor
        self._on_change = on_change
        self._adding = asyncio.Lock()

    async def set_mode(self, mode: DetectionMode | str) -> None:
        """See `HybridDetectionService.set_mode`."""
        mode = detection_mode(mode)
        async with self._adding:
            if mode is self.config.mode:
                return
            config = replace(self.config, mode=mode)
            await self._backends.add_for(mode, may_wait=True)
            self.config = config
            if self._planner is not None:
                self._planner.use(default_policy(config))
            self._backends.retire_for(mode)
        self._tell()

    async def set_privacy(self, privacy: PrivacyPolicy | FramePrivacy | str) -> None:
        """See `HybridDetectionService.set_privacy`."""
        if isinstance(privacy, PrivacyPolicy):
            policy = self._policy = within_config(privacy, self.config)
        else:
            stays = frame_privacy(privacy) is FramePrivacy.LOCAL_ONLY
            policy = replace(self._policy, may_leave=False) if stays else self._policy
        # Without a pause until every picture that may not leave any more is recalled.
        self.privacy = self._conditions.privacy = policy
        changed = self._backends.set_privacy(policy)
        self._executor.recall(denied=changed)
        await self._backends.withdraw(changed)
        async with self._adding:  # a mode that waits for its backend does not hold up the above
            await self._backends.add_for(detection_mode(self.config.mode), may_wait=False)
        self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(
                SettingsEvent(
                    at_s=time.time(),
                    mode=detection_mode(self.config.mode),
                    may_leave=self.privacy.may_leave,
                    session_id=self.config.session_id,
                )
            )


def with_arguments(config: ServiceConfig | None, **given: Any) -> ServiceConfig:
    """`config`, or the usual one, where the arguments that are not `None` win over its fields."""
    explicit = {name: value for name, value in given.items() if value is not None}
    return replace(config or ServiceConfig(), **explicit)


def within_config(privacy: PrivacyPolicy, config: ServiceConfig) -> PrivacyPolicy:
    """`privacy`, where it allows no more providers and regions than `config` does."""
    return privacy.within(
        allowed_providers=config.allowed_providers, allowed_regions=config.allowed_regions
    )
