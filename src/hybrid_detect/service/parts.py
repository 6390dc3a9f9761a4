"""The parts of a service, put together: which of them is told of which."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from hybrid_detect.backends.base import Backend
from hybrid_detect.config import ServiceConfig
from hybrid_detect.monitoring.hooks import Dispatcher, Hook
from hybrid_detect.monitoring.prices import PriceTable
from hybrid_detect.monitoring.tracing import Tracer
from hybrid_detect.privacy.consent import ConsentLedger
from hybrid_detect.privacy.privacy_policy import PrivacyPolicy
from hybrid_detect.selection.policy import Policy
from hybrid_detect.service.accounts import Accounts
from hybrid_detect.service.backend_set import BackendSet
from hybrid_detect.service.conditions_builder import ConditionsBuilder
from hybrid_detect.service.default_policy import default_policy
from hybrid_detect.service.frame_runs import FrameRuns
from hybrid_detect.service.plan_executor import PlanExecutor
from hybrid_detect.service.planning import Planner
from hybrid_detect.service.processing import FrameProcessor
from hybrid_detect.service.switching import Settings
from hybrid_detect.service.withdrawals import Withdrawals

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is made of. Nothing is open yet."""

    accounts: Accounts
    hooks: Dispatcher
    backends: BackendSet
    runs: FrameRuns
    planner: Planner
    executor: PlanExecutor
    processor: FrameProcessor
    settings: Settings
    withdrawals: Withdrawals

    @classmethod
    def of(
        cls,
        config: ServiceConfig,
        *,
        require_open: Callable[[], None],
        backends: Iterable[Backend] | None,
        policy: Policy | None,
        privacy: PrivacyPolicy,
        consent: ConsentLedger | None,
        hooks: Iterable[Hook],
        prices: Iterable[PriceTable],
        tracer: Tracer,
        clock: Callable[[], float],
    ) -> Self:
        """The parts of a service with `config`.

        Args:
            config: The whole configuration.
            require_open: Raises a `ClosedError` if the service is not open.
            backends: As `HybridDetectionService` takes them; so are the arguments that follow.
            policy: Decides instead of the mode's own.
            privacy: What may leave the device, within the configuration.
            consent: The consents that `privacy` asks for.
            hooks: The app's own.
            prices: Prices that replace the targets' own.
            tracer: Traces each frame.
            clock: Monotonic time in seconds.

        Raises:
            ConfigurationError: If no backend of the mode can work as configured.
        """
        accounts = Accounts(config, prices)
        dispatcher = Dispatcher(accounts.with_meter(hooks))
        backend_set = BackendSet(
            config,
            backends,
            privacy=privacy,
            clock=clock,
            on_change=dispatcher.backend if dispatcher.wants_backends else None,
            ledger=accounts.ledger,
            has_policy=policy is not None,
        )
        runs = FrameRuns(
            # The processor is made below, of what is made of these runs.
            process=lambda *frame: processor.process(*frame),
            failed=lambda *failure: processor.failed(*failure),
            deadline_s=config.deadline_s,
            require_open=require_open,
            clock=clock,
        )
        conditions = ConditionsBuilder(
            config,
            backend_set.by_kind,
            backend_set.missing,
            meters=backend_set.meters,
            privacy=privacy,
            consent=consent,
            ledger=accounts.ledger,
            clock=clock,
        )
        planner = Planner(
            policy or default_policy(config),
            backends=backend_set,
            conditions=conditions,
            clock=clock,
        )
        executor = PlanExecutor(
            backend_set.reachable,
            backend_set.missing,
            clock=clock,
            spawn=runs.spawn,
            denied_reason=conditions.denied_reason,
            consent_left_s=conditions.consent_left_s,
            charge=accounts.ledger.charge,
            in_use=backend_set.in_use,
        )
        processor = FrameProcessor(
            config,
            planner=planner,
            executor=executor,
            conditions=conditions,
            hooks=dispatcher,
            tracer=tracer,
            clock=clock,
        )
        settings = Settings(
            config,
            privacy,
            backends=backend_set,
            conditions=conditions,
            planner=None if policy else planner,
            executor=executor,
            on_change=dispatcher.settings,
        )
        return cls(
            accounts,
            dispatcher,
            backend_set,
            runs,
            planner,
            executor,
            processor,
            settings,
            Withdrawals(consent, subject=config.session_id, recall=executor.recall),
        )
