"""What a remote backend sends carries nothing of the metadata of the file it was made from."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from hybrid_detect.backends.remote.cloud import CloudDetectionService
from hybrid_detect.backends.remote.protocol import DetectParams
from hybrid_detect.backends.remote.providers.custom import CustomProtocol
from hybrid_detect.compression.compressor import ImageCompressionService
from hybrid_detect.errors import BackendResponseError
from hybrid_detect.exchange.wire import decode_request
from hybrid_detect.frames.frame import Frame
from hybrid_detect.privacy.filter import PrivacyFilter
from hybrid_detect.types import BackendKind, Plan

from ...privacy.laden_files import CANARY, LADEN_FILES, LadenFile


def plan(target_bytes: int) -> Plan:
    return Plan(
        backend=BackendKind.CLOUD,
        reason="test",
        deadline_s=5.0,
        retries=0,
        target_bytes=target_bytes,
        max_side_px=None,
    )


def request_for(file: LadenFile, target_bytes: int) -> bytes:
    asked = plan(target_bytes)
    picture = ImageCompressionService().compress(
        Frame.of(file.data), target_bytes=asked.target_bytes, max_side_px=asked.max_side_px
    )
    return CustomProtocol().encode((picture,), DetectParams()).body


@pytest.mark.parametrize("target_bytes", [80 * 1024, 900], ids=["roomy", "tight"])
@pytest.mark.parametrize("file", LADEN_FILES, ids=repr)
def test_no_request_carries_metadata(file: LadenFile, target_bytes: int) -> None:
    request = request_for(file, target_bytes)
    assert CANARY not in request
    image = decode_request(request).image
    assert PrivacyFilter().find_metadata(image) == ()
    with Image.open(io.BytesIO(image)) as picture:
        assert picture.format == "JPEG"
        assert not picture.getexif()
        assert {name for name, _ in picture.applist} <= {"APP0"}  # type: ignore[attr-defined]


def test_nor_does_one_whose_picture_is_passed_through() -> None:
    file = next(file for file in LADEN_FILES if file.name == "jpeg: nothing behind it")
    compressed = ImageCompressionService().compress(file.data)
    assert compressed.encodes == 0
    assert decode_request(request_for(file, 80 * 1024)).image == compressed.data
    assert compressed.data == PrivacyFilter().remove_pii(file.data)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_no_word_of_it(tmp_path: Path) -> None:
    for number, file in enumerate(LADEN_FILES):
        image = decode_request(request_for(file, 80 * 1024)).image
        (tmp_path / f"{number}.jpg").write_bytes(image)
    done = subprocess.run(
        ["exiftool", "-a", "-u", "-U", "-G1", "-s", "-ee3", *sorted(tmp_path.iterdir())],
        capture_output=True,
        timeout=50,
    )
    assert done.stdout.count(b"[JFIF]") >= len(LADEN_FILES)
    for group in (b"IFD0", b"GPS", b"XMP", b"IPTC", b"ICC", b"Comment", CANARY):
        assert group not in done.stdout


@pytest.mark.anyio
@pytest.mark.parametrize("file", LADEN_FILES[:2], ids=repr)
async def test_no_byte_on_the_wire_is_of_it(file: LadenFile) -> None:
    sent: list[bytes] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        sent.append(b"\n".join([str(request.url).encode(), *sum(request.headers.raw, ()), body]))
        return httpx.Response(403)

    async with CloudDetectionService(
        endpoint="http://127.0.0.1:1", transport=httpx.MockTransport(handler)
    ) as service:
        with pytest.raises(BackendResponseError):
            await service.detect(Frame.of(file.data), plan(80 * 1024))
    (request,) = sent
    assert b"\xff\xd8\xff" in request
    assert CANARY not in request
