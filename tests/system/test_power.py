"""Readings of energy and heat, from fake trees of the system's files."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.system.power import MAX_AGE_S, PowerProbe, system_battery
from hybrid_detect.types import PowerConditions

from ..clock import FakeClock

Battery = namedtuple("Battery", "percent secsleft power_plugged")

PI = "devices/platform/soc/soc:firmware"
PI_5 = "devices/platform/soc@107c000000/soc@107c000000:firmware"
CPU = "devices/system/cpu/cpu{}/thermal_throttle"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def put(root: Path, folder: str, **files: object) -> None:
    for name, value in files.items():
        path = root / "sys" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def throttled(root: Path) -> bool | None:
    return PowerProbe(root=root, battery=lambda: None).read().throttled


def test_what_is_not_told_is_not_known(tmp_path: Path) -> None:
    assert PowerProbe(root=tmp_path, battery=lambda: None).read() == PowerConditions()


@pytest.mark.parametrize(
    ("told", "battery", "on_battery"),
    [((0.5, True), 0.5, False), ((0.2, False), 0.2, True), ((1.0, None), 1.0, None)],
)
def test_charge_and_supply(tmp_path: Path, told: tuple, battery: float, on_battery: object) -> None:
    found = PowerProbe(root=tmp_path, battery=lambda: told).read()
    assert (found.battery, found.on_battery) == (battery, on_battery)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, None),
        (Battery(55.0, 100, False), (0.55, False)),
        (Battery(103.0, -2, True), (1.0, True)),
        (Battery(-1, -1, None), (0.0, None)),
        (Battery(float("nan"), -1, True), None),
    ],
)
def test_the_system_s_battery(
    monkeypatch: pytest.MonkeyPatch, told: Battery | None, expected: object
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: told, raising=False)
    assert system_battery() == expected


@pytest.mark.parametrize("error", [OSError, psutil.AccessDenied, RuntimeError, ValueError])
def test_a_system_that_does_not_tell_of_its_battery(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(psutil, "sensors_battery", refuse, raising=False)
    assert system_battery() is None
    monkeypatch.delattr(psutil, "sensors_battery")
    assert system_battery() is None


@pytest.mark.parametrize("folder", [PI, PI_5])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("0", False),
        ("1", False),  # too low a voltage
        ("f0000", False),  # all of it, but in the past
        ("2", True),
        ("4", True),
        ("8", True),
        ("0x50005", True),
        ("", None),
        ("hot", None),
    ],
)
def test_a_raspberry_pi_s_flag(
    tmp_path: Path, folder: str, flags: str, expected: bool | None
) -> None:
    put(tmp_path, folder, get_throttled=flags)
    assert throttled(tmp_path) is expected


def test_counters_tell_from_the_second_reading_on(tmp_path: Path, clock: FakeClock) -> None:
    for number in (0, 1):
        put(
            tmp_path,
            CPU.format(number),
            core_throttle_count=7,
            package_throttle_count=40,
            core_throttle_total_time_ms=999,
        )
    probe = PowerProbe(root=tmp_path, clock=clock, battery=lambda: None)
    found = [probe.read().throttled]
    for count in (7, 8, 8):
        put(tmp_path, CPU.format(1), core_throttle_count=count, core_throttle_total_time_ms=count)
        clock.now_s += MAX_AGE_S
        found.append(probe.read().throttled)
    assert found == [None, False, True, False]


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [
        ("Processor", 0, False),
        ("Processor", 3, True),
        ("cpufreq-cpu0", 1, True),
        ("thermal-cpufreq-0", 1, True),
        ("pwm-fan", 4, None),
        ("intel_powerclamp", -1, None),
    ],
)
def test_cooling_devices(tmp_path: Path, kind: str, state: int, expected: bool | None) -> None:
    put(tmp_path, "class/thermal/cooling_device0", type="Fan", cur_state=1)
    put(tmp_path, "class/thermal/cooling_device1", type=kind, cur_state=state)
    assert throttled(tmp_path) is expected


@pytest.mark.parametrize(
    ("heat", "kind", "trip", "expected"),
    [
        (84_999, "passive", 85_000, False),
        (85_000, "passive", 85_000, True),
        (85_000, "critical", 85_000, None),
        (45_000, "passive", 0, None),
        (45_000, "passive", -274_000, None),
        ("", "passive", 85_000, None),
    ],
)
def test_trip_points(
    tmp_path: Path, heat: object, kind: str, trip: int, expected: bool | None
) -> None:
    put(
        tmp_path,
        "class/thermal/thermal_zone3",
        temp=heat,
        trip_point_0_type="hot",
        trip_point_0_temp=20_000,
        trip_point_10_type=kind,
        trip_point_10_temp=trip,
    )
    assert throttled(tmp_path) is expected


def test_one_hot_zone_is_enough(tmp_path: Path) -> None:
    for number, heat in enumerate((90_000, 40_000)):
        put(
            tmp_path,
            f"class/thermal/thermal_zone{number}",
            temp=heat,
            trip_point_0_type="passive",
            trip_point_0_temp=85_000,
        )
    assert throttled(tmp_path) is True


def test_the_surer_source_wins(tmp_path: Path) -> None:
    put(tmp_path, PI, get_throttled=0)
    put(tmp_path, "class/thermal/cooling_device0", type="Processor", cur_state=3)
    assert throttled(tmp_path) is False


def test_a_reading_is_kept_for_a_while(tmp_path: Path, clock: FakeClock) -> None:
    asked = []

    def battery() -> tuple[float, bool]:
        asked.append(clock.now_s)
        return 1.0 - 0.1 * len(asked), False

    probe = PowerProbe(root=tmp_path, clock=clock, battery=battery)
    first = probe.read()
    clock.now_s += MAX_AGE_S - 0.1
    assert probe.read() is first
    clock.now_s += 0.1
    assert probe.read().battery == pytest.approx(0.8)
    assert len(asked) == 2


@given(told=st.binary())
def test_any_content_is_survived(tmp_path_factory: pytest.TempPathFactory, told: bytes) -> None:
    root = tmp_path_factory.mktemp("root")
    for path in (
        f"{PI}/get_throttled",
        f"{CPU.format(0)}/core_throttle_count",
        "class/thermal/cooling_device0/cur_state",
        "class/thermal/cooling_device0/type",
        "class/thermal/thermal_zone0/temp",
        "class/thermal/thermal_zone0/trip_point_0_temp",
    ):
        (root / "sys" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys" / path).write_bytes(told)
    put(root, "class/thermal/thermal_zone0", trip_point_0_type="passive")
    assert throttled(root) in (None, False, True)


def test_this_machine_can_be_read() -> None:
    found = PowerProbe().read()
    assert found.battery is None or 0.0 <= found.battery <= 1.0
