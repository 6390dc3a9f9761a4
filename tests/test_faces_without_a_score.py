"""A face without a score, through each reader of scores: kept, shown, and never given a number."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageChops

from hybrid_detect import HybridDetectionService
from hybrid_detect.backends.device.picture_faces import PictureFaces
from hybrid_detect.backends.device.worker_messages import REPLY, pack_found, unpack_found
from hybrid_detect.backends.remote.pictures import faces_in_frame
from hybrid_detect.cli import demo
from hybrid_detect.cli.detect import _as_text
from hybrid_detect.cli.pictures import NamedPicture
from hybrid_detect.compression.compressed_image import CompressedImage
from hybrid_detect.exchange.wire import ResultReply, decode_reply, encode_reply
from hybrid_detect.frames.drawing import draw
from hybrid_detect.monitoring.events import frame_event
from hybrid_detect.monitoring.monitor import BackendProcessingMonitor
from hybrid_detect.privacy.filter import PrivacyFilter
from hybrid_detect.selection.escalation import why_unsure
from hybrid_detect.storage.history import DetectionHistory
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind, BoundingBox, DetectionResult, DetectionStatus, Face

UNSCORED = Face(BoundingBox(10, 10, 90, 90), None)
SCORED = Face(BoundingBox(20, 20, 80, 80), 0.9)
BLACK = np.zeros((100, 100, 3), np.uint8)


def result(*faces: Face) -> DetectionResult:
    return DetectionResult(
        status=DetectionStatus.OK, width=100, height=100, faces=faces, backend=BackendKind.CLOUD
    )


@pytest.mark.parametrize("min_confidence", [None, 0.0, 0.5, 1.0])
def test_no_threshold_of_a_remote_backend_drops_it(min_confidence: float | None) -> None:
    reply = ResultReply(request_id=0, width=100, height=100, faces=(UNSCORED,))
    picture = CompressedImage(
        data=b"p", width=100, height=100, original_width=100, original_height=100, quality=80,
        encodes=1,
    )  # fmt: skip
    assert faces_in_frame(reply, picture, min_confidence=min_confidence) == (UNSCORED,)


@pytest.mark.anyio
async def test_it_comes_after_the_faces_with_a_score_in_the_order_that_was_reported() -> None:
    other = Face(BoundingBox(0, 0, 5, 5), None)
    unlikely = Face(BoundingBox(0, 0, 5, 5), 0.0)
    backend = FakeBackend(faces=(UNSCORED, unlikely, other, SCORED), kind=BackendKind.CLOUD)
    async with HybridDetectionService(mode="cloud", backends=[backend]) as service:
        found = await service.process_image(BLACK)
    assert found.faces == (SCORED, unlikely, UNSCORED, other)


def test_the_wire_format_leaves_the_score_out() -> None:
    reply = ResultReply(request_id=1, width=100, height=100, faces=(UNSCORED, SCORED))
    assert decode_reply(encode_reply(reply)) == reply
    assert b'"score":null' not in encode_reply(reply)


def test_the_messages_of_the_worker_carry_it() -> None:
    found = PictureFaces(100, 100, (UNSCORED, SCORED))
    assert unpack_found(pack_found(found)[REPLY.size :]) == found


def test_json_says_null() -> None:
    said = json.loads(result(UNSCORED).to_json())
    assert said["faces"][0]["score"] is None


def test_the_history_keeps_null(tmp_path: Path) -> None:
    with DetectionHistory(tmp_path / "history.db", sweeps=False) as history:
        history.add(result(UNSCORED, SCORED), session="ann")
        (kept,) = history.results("ann")
    assert [face["score"] for face in kept.result["faces"]] == [None, 0.9]


def test_supervision_gets_nan() -> None:
    pytest.importorskip("supervision")
    assert math.isnan(result(UNSCORED).to_supervision().confidence[0])


def test_a_drawing_has_its_box_and_no_label() -> None:
    without = draw(BLACK, result(UNSCORED))
    assert ImageChops.difference(without, draw(BLACK, result())).getbbox() is not None
    scored = draw(BLACK, result(Face(UNSCORED.box, 0.5)))
    assert ImageChops.difference(without, scored).getbbox() is not None


def test_tables_of_the_command_line_say_a_dash() -> None:
    row = _as_text(NamedPicture("photo.jpg"), result(UNSCORED)).splitlines()[-1]
    assert row.split()[:2] == ["1", "-"]
    assert demo._best_score(result(UNSCORED)) == demo._best_score(result()) == "-"
    assert demo._best_score(result(SCORED)) == "0.90"


def test_the_monitor_s_mean_is_that_of_the_faces_with_a_score() -> None:
    monitor = BackendProcessingMonitor()
    for faces in ((UNSCORED,), (SCORED, UNSCORED), ()):
        event = frame_event(result(*faces), at_s=0.0, total_s=0.1)
        assert event.confidence == (0.9 if SCORED in faces else None)
        json.dumps(event.to_dict(), default=str)
        monitor.on_frame(event)
    assert monitor.figures().mean_confidence == 0.9


def test_anonymizing_destroys_it_all_the_same() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8)
    done = np.asarray(PrivacyFilter().anonymize(noise, [UNSCORED]))
    assert not np.array_equal(done[40:60, 40:60], noise[40:60, 40:60])


def test_it_makes_the_cascade_neither_sure_nor_unsure() -> None:
    assert why_unsure(result(UNSCORED)) == ""
    assert "50%" in why_unsure(result(UNSCORED, Face(SCORED.box, 0.5)))
