"""`report_feedback`: checked, told to the hooks, kept with the record and in the file of sums."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid_detect import sync
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import BackendResponseError, ClosedError, ConfigurationError
from hybrid_detect.monitoring.events import FeedbackEvent, FrameEvent
from hybrid_detect.monitoring.report import make_report
from hybrid_detect.monitoring.report_json import report_json
from hybrid_detect.monitoring.report_page import report_page
from hybrid_detect.monitoring.usage_meter import UsageMeter
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.selection.escalation import CascadePolicy
from hybrid_detect.service.hybrid import HybridDetectionService
from hybrid_detect.storage.cost_store import CostStore
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import (
    BackendKind,
    BoundingBox,
    DetectionResult,
    DetectionStatus,
    Face,
    Plan,
)
from hybrid_detect.usage import Measure

from ..waiting import until

pytestmark = pytest.mark.anyio

FRAME = np.zeros((48, 64, 3), np.uint8)
FACES = [Face(box=BoundingBox(1, 1, 20, 20), score=score) for score in (0.9, 0.6)]


class Ears:
    """Hears everything."""

    def __init__(self) -> None:
        self.heard: list[FeedbackEvent] = []
        self.frames: list[FrameEvent] = []

    def on_feedback(self, event: FeedbackEvent) -> None:
        self.heard.append(event)

    def on_frame(self, event: FrameEvent) -> None:
        self.frames.append(event)


def service(ears: Ears, **options: Any) -> HybridDetectionService:
    config = ServiceConfig(session_id="ann", deadline_s=10.0, **options)
    return HybridDetectionService(
        config=config, backends=[FakeBackend("device", faces=FACES)], hooks=[ears]
    )


async def test_feedback_tells_the_frame_and_the_score_it_is_about() -> None:
    ears = Ears()
    async with service(ears) as opened:
        result = await opened.process_image(FRAME)
        opened.report_feedback(result, "false_positive", face=1)
        opened.report_feedback(result, "correct")
        opened.report_feedback(result, "missed_face")
    assert [(e.verdict.value, e.face, e.confidence) for e in ears.heard] == [
        ("false_positive", 1, 0.6),
        ("correct", None, 0.9),
        ("missed_face", None, None),
    ]
    assert {(e.session_id, e.frame_id, e.captured_at_s, e.backend) for e in ears.heard} == {
        ("ann", result.frame_id, result.captured_at_s, BackendKind.DEVICE)
    }


@pytest.mark.parametrize(
    ("verdict", "face", "named"),
    [("wrong", None, "verdict"), ("correct", 2, "face"), ("correct", -1, "face")],
)
async def test_a_verdict_or_a_face_that_is_none_is_refused(
    verdict: str, face: int | None, named: str
) -> None:
    ears = Ears()
    async with service(ears) as opened:
        result = await opened.process_image(FRAME)
        with pytest.raises(ConfigurationError, match=f"^{named}: expected"):
            opened.report_feedback(result, verdict, face=face)
    assert ears.heard == []


@pytest.mark.parametrize("status", ["failed", "skipped", "stale"])
async def test_a_frame_that_no_backend_looked_at_cannot_be_judged(status: str) -> None:
    result = DetectionResult(
        status=DetectionStatus(status), width=64, height=48, backend=BackendKind.DEVICE
    )
    async with service(Ears()) as opened:
        with pytest.raises(ConfigurationError, match=status):
            opened.report_feedback(result, "correct")


async def test_a_result_without_faces_has_no_false_positive() -> None:
    result = DetectionResult(
        status=DetectionStatus.OK, width=64, height=48, backend=BackendKind.DEVICE
    )
    async with service(Ears()) as opened:
        with pytest.raises(ConfigurationError, match="false_positive"):
            opened.report_feedback(result, "false_positive")
    with pytest.raises(ClosedError):
        opened.report_feedback(result, "correct")


def test_it_is_kept_with_the_frames_record_and_counted_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    config = ServiceConfig(session_id="ann", deadline_s=10.0, costs_path=path, user_region="DE")
    with DetectionHistory(path, sweeps=False) as history:
        with sync.HybridDetectionService(
            config=config, backends=[FakeBackend("device", faces=FACES)], hooks=[history]
        ) as opened:
            result = opened.process_image(FRAME)
            opened.report_feedback(result, "false_positive", face=1)
        (kept,) = history.results("ann")
    assert kept.result["feedback"][0]["verdict"] == "false_positive"
    with CostStore(path) as store:
        rows = store.usage()
    told = {row.key.label for row in rows if row.key.measure == Measure.FEEDBACK}
    assert told == {"false_positive 12"}
    assert {row.key.user_region for row in rows} == {"DE"}
    assert sum(row.number for row in rows if row.key.measure == Measure.OUTCOME) == 1


async def test_an_event_tells_every_answer_of_its_frame() -> None:
    ears = Ears()
    backends = [FakeBackend("device"), FakeBackend("cloud", faces=FACES)]
    async with HybridDetectionService(
        config=ServiceConfig(deadline_s=10.0),
        backends=backends,
        policy=CascadePolicy(),
        hooks=[ears],
    ) as opened:
        await opened.wait_ready()
        await opened.process_image(FRAME)
    (event,) = ears.frames
    assert [(a.backend.value, a.faces, a.confidence) for a in event.answers] == [
        ("device", 0, None),
        ("cloud", 2, 0.9),
    ]
    assert all(0 < answer.elapsed_s <= 10.0 for answer in event.answers), "inside the deadline"
    assert event.to_dict()["answers"][1]["backend"] == "cloud"


class Probing:
    """Sends each frame to learn about the link, while the device answers it."""

    def decide(self, conditions: Conditions) -> Plan:
        return Plan(
            backend=BackendKind.CLOUD,
            hedge=BackendKind.DEVICE,
            probe=True,
            reason="auto: cloud probe, device after 0 ms",
            deadline_s=conditions.deadline_s,
        )


async def test_the_answer_of_a_probe_is_compared_though_it_comes_last() -> None:
    ears, meter = Ears(), UsageMeter()
    may_answer = asyncio.Event()

    async def held(_seconds: float) -> None:
        await may_answer.wait()

    async with HybridDetectionService(
        config=ServiceConfig(deadline_s=20.0),
        backends=[
            FakeBackend("device", faces=FACES[:1]),
            FakeBackend("cloud", faces=FACES, sleep=held),
        ],
        policy=Probing(),
        hooks=[ears, meter],
    ) as opened:
        await opened.wait_ready()
        result = await opened.process_image(FRAME)
        assert result.backend is BackendKind.DEVICE
        assert ears.frames == []
        may_answer.set()
        await until(lambda: ears.frames)
    told = {(r.key.measure, r.key.backend, r.key.label) for r in meter.rows()}
    assert ("compared", "cloud", "server") in told
    assert ("reason", "device", "cloud only probed") in told


def test_nothing_secret_of_a_real_run_is_in_its_report(tmp_path: Path) -> None:
    cloud = FakeBackend("cloud")
    cloud.error = BackendResponseError("canary-body", backend="cloud")
    config = ServiceConfig(
        auth_token="canary-token",
        session_id="canary-session",
        user_id="canary-user",
        mode="prefer_cloud",
        deadline_s=10.0,
        costs_path=tmp_path / "costs.db",
    )
    with sync.HybridDetectionService(
        config=config, backends=[cloud, FakeBackend("device", faces=FACES)]
    ) as opened:
        opened.wait_ready()
        for _ in range(3):
            result = opened.process_image(FRAME)
            opened.report_feedback(result, "correct")
    with CostStore(config.costs_path or "") as store:
        told = report_json(make_report(store.rows(), store.usage(), now_s=time.time()))
    assert (told["frames"], told["feedback"]["judged"]) == (3, 3)
    (user,) = told["users"]["rows"]
    assert user["frames"] == 3
    assert "canary" not in report_page(told)
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"canary" not in files
