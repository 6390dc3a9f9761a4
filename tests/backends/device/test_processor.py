"""Which processors MediaPipe runs on, asked before a process is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hybrid_detect import HybridDetectionService
from hybrid_detect.backends.device import processor
from hybrid_detect.backends.device.on_device import OnDeviceDetectionService
from hybrid_detect.backends.device.processor import processor_shortage
from hybrid_detect.backends.device.runtimes import choose_runtime
from hybrid_detect.cli import main
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.server.config import ServerConfig
from hybrid_detect.server.detectors import DetectorPool
from hybrid_detect.testing import FakeBackend

pytestmark = pytest.mark.anyio

# Features as Linux 6 lists them for these processors.
ARMV8_0 = "fp asimd evtstrm crc32 cpuid"
ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
X86 = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr sse sse2 ssse3 sse4_1 sse4_2 avx avx2"


def arm(features: str, part: str, cores: int = 4) -> str:
    core = (
        "processor\t: {0}\nBogoMIPS\t: 108.00\nFeatures\t: {1}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {2}\nCPU revision\t: 3\n\n"
    )
    return "".join(core.format(number, features, part) for number in range(cores))


CORTEX_A53 = arm(ARMV8_0, "0xd03")
CORTEX_A72 = arm(ARMV8_0, "0xd08")
CORTEX_A76 = arm(ARMV8_2, "0xd0b")
XEON = f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {X86}\n\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "runs"),
    [
        (CORTEX_A53, "aarch64", False),
        (CORTEX_A72, "aarch64", False),
        (CORTEX_A76, "aarch64", True),
        (CORTEX_A76 + CORTEX_A53, "aarch64", False),
        (CORTEX_A53, "ARM64", False),
        (XEON, "x86_64", True),
        ("", "aarch64", True),
        ("", "x86_64", True),
        (arm("fp asimd atomicsx", "0xd03"), "aarch64", False),
        ("processor\t: 0\nFeatures\t:\n", "aarch64", False),
    ],
    ids=[
        *("Pi 3 and Zero 2 W", "Pi 4", "Pi 5", "a mixture", "another name of it", "x86"),
        *("hidden", "hidden on x86", "a longer word", "no features"),
    ],
)
def test_processors_without_lse_are_told_with_the_cure(
    cpuinfo: str, machine: str, runs: bool
) -> None:
    shortage = processor_shortage(cpuinfo, machine)
    assert (shortage == "") is runs
    if not runs:
        assert "LSE" in shortage
        assert "Raspberry Pi 5" in shortage
        assert "pip install 'hybrid-detect[device-lite]'" in shortage
        assert "another machine" in shortage


@pytest.fixture
def raspberry_pi_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, for the test."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(CORTEX_A72, encoding="utf-8")
    monkeypatch.setattr(processor, "CPUINFO", str(cpuinfo))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(processor, "_machine", lambda: "aarch64")
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", "mediapipe".__eq__)
    for module in ("backends.device.on_device", "server.levels"):
        monkeypatch.setattr(
            f"hybrid_detect.{module}.load_model", lambda *_, **__: pytest.fail("fetched")
        )


@pytest.mark.usefixtures("raspberry_pi_4")
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_no_process_is_started_on_a_processor_that_cannot_run_it(isolation: str) -> None:
    """It used to die seven times, with signal 4 and without a word about the processor."""
    with pytest.raises(ConfigurationError, match="does not run on this processor"):
        OnDeviceDetectionService(isolation=isolation)


@pytest.mark.usefixtures("raspberry_pi_4")
async def test_the_service_goes_on_without_the_device_and_says_why() -> None:
    async with HybridDetectionService(endpoint="https://detect.example", mode="auto") as service:
        reasons = [backend.unavailable_reason for backend in service.status().backends]
    assert any("does not run on this processor" in reason for reason in reasons)
    with pytest.raises(ConfigurationError, match="does not run on this processor"):
        HybridDetectionService(mode="on_device")
    async with HybridDetectionService(backends=[FakeBackend("cloud")]):
        pass  # An app's own backends are not asked about the processor.


@pytest.mark.usefixtures("raspberry_pi_4")
def test_doctor_names_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--endpoint", "http://127.0.0.1:9"])
    told = capsys.readouterr().out
    assert "on this device: no detection: MediaPipe does not run on this processor" in told
    assert "pip install 'hybrid-detect[device-lite]'" in told


@pytest.mark.usefixtures("raspberry_pi_4")
def test_litert_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_detect.backends.device.runtimes.is_installed", lambda _: True)
    assert choose_runtime().name == "litert"
    with pytest.raises(ConfigurationError, match="does not run on this processor"):
        choose_runtime("mediapipe")


@pytest.mark.usefixtures("raspberry_pi_4")
async def test_the_server_does_not_start_on_such_a_processor() -> None:
    pool = DetectorPool(ServerConfig(detectors=1))
    with pytest.raises(ConfigurationError, match="does not run on this processor"):
        await pool.start()
    await pool.aclose()


def test_a_system_that_hides_its_processor_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", str(tmp_path / "none"))
    monkeypatch.setattr(processor, "_machine", lambda: "aarch64")
    processor.require_supported_processor()
