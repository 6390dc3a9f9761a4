"""Readings of memory, from fake trees of the system's files and from this very process."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.system import memory_probe as probes
from hybrid_detect.system.memory_probe import (
    DEVICE_DETECTOR_BYTES,
    MIB,
    MemoryProbe,
    MemoryReading,
    memory_shortage,
)

PSI = "some avg10={} avg60=0.50 avg300=0.10 total=1\nfull avg10=99.00 avg60=0 avg300=0 total=1\n"
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "22 1 8:1 / / rw - ext4 /dev/root rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
UNLIMITED_V1 = "9223372036854771712\n"


def tree(root: Path, **files: str) -> Path:
    """Files by path below `root`, with ``__`` for the slash."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(root: Path, folder: str, **values: object) -> None:
    for name, value in values.items():
        tree(root, **{f"{folder}/memory.{name}": f"{value}\n"})


def read(root: Path, system: int | None = 8000 * MIB) -> MemoryReading:
    return MemoryProbe(root=root, children=False, system=lambda: system).read()


@pytest.fixture
def v2(tmp_path):
    return tree(tmp_path, **{"proc/self/cgroup": "0::/app/cam\n", "proc/self/mountinfo": V2_MOUNT})


def test_v2_counts_inactive_file_pages_as_free(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=300 * MIB, high="max", current=280 * MIB)
    group(v2, "sys/fs/cgroup/app/cam", stat=f"anon 1\ninactive_file {100 * MIB}\nfile 3")
    reading = read(v2)
    assert reading.available_bytes == 120 * MIB
    assert (reading.limit_bytes, reading.bound_by) == (300 * MIB, "cgroup")


def test_v2_soft_limit_counts_like_the_hard_one(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=300 * MIB, high=200 * MIB, current=150 * MIB)
    assert read(v2).available_bytes == 50 * MIB


def test_the_group_with_least_left_wins_whatever_its_limit(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=300 * MIB, current=100 * MIB)
    group(v2, "sys/fs/cgroup/app", max=1000 * MIB, current=950 * MIB)
    reading = read(v2)
    assert (reading.available_bytes, reading.limit_bytes) == (50 * MIB, 1000 * MIB)


def test_a_group_above_its_limit_leaves_nothing(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=100 * MIB, current=120 * MIB)
    assert read(v2).available_bytes == 0


def test_the_system_may_be_nearer_than_the_cgroup(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=300 * MIB, current=10 * MIB)
    reading = read(v2, system=40 * MIB)
    assert (reading.available_bytes, reading.bound_by) == (40 * MIB, "system")


def test_a_group_without_limit_leaves_the_system_alone(v2):
    group(v2, "sys/fs/cgroup/app/cam", max="max", high="max", current=10 * MIB)
    reading = read(v2)
    assert (reading.available_bytes, reading.limit_bytes) == (8000 * MIB, None)


def test_v1_with_an_unlimited_root_and_a_limit_in_between(tmp_path):
    tree(
        tmp_path,
        **{
            "proc/self/cgroup": "9:name=systemd:/\n4:memory,hugetlb:/docker/abc\n0::/\n",
            "proc/self/mountinfo": V1_MOUNTS,
        },
    )
    memory = "sys/fs/cgroup/memory"
    inner = {"limit_in_bytes": UNLIMITED_V1.strip(), "usage_in_bytes": 90 * MIB}
    group(tmp_path, f"{memory}/docker/abc", **inner)
    outer = {"limit_in_bytes": 200 * MIB, "usage_in_bytes": 150 * MIB}
    stat = f"inactive_file 0\ntotal_inactive_file {30 * MIB}"
    group(tmp_path, f"{memory}/docker", **outer, stat=stat)
    group(tmp_path, memory, limit_in_bytes=UNLIMITED_V1.strip(), usage_in_bytes=900 * MIB)
    reading = read(tmp_path)
    assert (reading.available_bytes, reading.limit_bytes) == (80 * MIB, 200 * MIB)


@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("/docker/abc", "/docker/abc"),  # the host's path, the container's mount
        ("/", "/"),  # a cgroup namespace
        ("/../elsewhere", "/"),  # outside its own namespace
        ("/docker/xyz", "/docker/abc"),  # another one's mount
    ],
)
def test_a_container_s_mount_is_its_group(tmp_path, path, top):
    mount = V2_MOUNT.replace(" / /sys", f" {top} /sys")
    tree(tmp_path, **{"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": mount})
    group(tmp_path, "sys/fs/cgroup", max=300 * MIB, current=100 * MIB)
    assert read(tmp_path).available_bytes == 200 * MIB


def test_a_mountpoint_with_a_space(tmp_path):
    mount = V2_MOUNT.replace("/sys/fs/cgroup", "/my\\040groups")
    tree(tmp_path, **{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mount})
    group(tmp_path, "my groups", max=300 * MIB, current=100 * MIB)
    assert read(tmp_path).limit_bytes == 300 * MIB


def test_a_process_that_is_moved_is_found_again(v2):
    group(v2, "sys/fs/cgroup/app/cam", max=300 * MIB, current=100 * MIB)
    group(v2, "sys/fs/cgroup/other", max=50 * MIB, current=10 * MIB)
    probe = MemoryProbe(root=v2, children=False, system=lambda: None)
    assert probe.read().limit_bytes == 300 * MIB
    tree(v2, **{"proc/self/cgroup": "0::/other\n"})
    assert probe.read().limit_bytes == 50 * MIB


def test_pressure_is_the_group_s_own_where_it_has_one(v2):
    tree(v2, **{"proc/pressure/memory": PSI.format("4.00")})
    assert read(v2).pressure == pytest.approx(0.04)
    group(v2, "sys/fs/cgroup/app/cam", pressure=PSI.format("12.50"))
    assert read(v2).pressure == pytest.approx(0.125)


def test_without_any_file_there_is_the_system_s_word_alone(tmp_path):
    reading = read(tmp_path, system=None)
    assert reading.available_bytes is None
    assert (reading.limit_bytes, reading.bound_by, reading.pressure) == (None, "", None)
    assert reading.process_bytes > 0


@given(places=st.text(), mounts=st.text(), other=st.binary())
def test_any_text_is_survived(tmp_path_factory, places, mounts, other):
    root = tmp_path_factory.mktemp("root")
    for path, content in (
        ("proc/self/cgroup", places.encode("utf-8", "replace")),
        ("proc/self/mountinfo", mounts.encode("utf-8", "replace")),
        ("proc/pressure/memory", other),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    read(root)


# -- the verdict ---------------------------------------------------------------------------------


def reading(left: int | None = None, *, held: int = 0, **more: object) -> MemoryReading:
    available = None if left is None else left * MIB
    return MemoryReading(process_bytes=held * MIB, available_bytes=available, **more)


def test_a_full_cgroup_is_told_in_words():
    short = memory_shortage(reading(48, bound_by="cgroup"), needed_bytes=DEVICE_DETECTOR_BYTES)
    assert short == "only 48 MiB are left in the cgroup, the device's detector needs 90"


def test_the_app_keeps_a_reserve():
    short = memory_shortage(reading(100, bound_by="system"), needed_bytes=DEVICE_DETECTOR_BYTES)
    assert short.startswith("only 100 MiB are left on the system, the device's detector needs 90 ")
    assert short.endswith(" beside 64 kept for the app")
    assert memory_shortage(reading(20)) == "only 20 MiB are left, 32 are kept for the app"


def test_a_budget_holds_before_and_while_running():
    held = reading(8000, held=120)
    assert memory_shortage(
        held, memory_budget_bytes=200 * MIB, needed_bytes=DEVICE_DETECTOR_BYTES
    ) == ("this process holds 120 MiB, the device's detector needs 90: the budget is 200")
    assert memory_shortage(held, memory_budget_bytes=200 * MIB) == ""
    assert memory_shortage(held, memory_budget_bytes=100 * MIB) == (
        "this process holds 120 MiB: the budget is 100"
    )


def test_stalling_refuses_a_start_before_it_ends_a_run():
    stalled = reading(8000, pressure=0.2)
    assert "20% of the last 10 s" in memory_shortage(stalled, needed_bytes=DEVICE_DETECTOR_BYTES)
    assert memory_shortage(stalled) == ""
    assert memory_shortage(reading(8000, pressure=0.5))


def test_what_is_not_known_speaks_against_nothing():
    assert memory_shortage(reading(), needed_bytes=DEVICE_DETECTOR_BYTES) == ""


@given(left=st.integers(0, 400), needed=st.integers(1, 200))
def test_unloading_does_not_make_room_to_load_again(left, needed):
    """Below the mark that ends a run, what it gives back is too little to start again."""
    if memory_shortage(reading(left)):
        assert memory_shortage(reading(left + needed), needed_bytes=needed * MIB)


@given(left=st.integers(0, 400), needed=st.integers(0, 200), more=st.integers(0, 400))
def test_more_memory_never_speaks_against(left, needed, more):
    if not memory_shortage(reading(left), needed_bytes=needed * MIB):
        assert not memory_shortage(reading(left + more), needed_bytes=needed * MIB)


# -- this machine --------------------------------------------------------------------------------


@pytest.fixture
def child():
    code = (
        "block = bytearray(30_000_000); print('ready', flush=True); __import__('sys').stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        end(process)


def end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()


def test_children_count_when_asked_for(child):
    assert child.pid in probes.child_pids(os.getpid())
    alone = MemoryProbe(children=False).read().process_bytes
    assert MemoryProbe().read().process_bytes > alone + 25_000_000


def test_children_are_found_without_the_kernel_s_list(child, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    assert child.pid in probes.child_pids(os.getpid())


def test_anonymous_memory_is_seen_in_a_child_too(child):
    for proportional in (False, True):
        held = probes.process_anonymous_bytes(child.pid, proportional=proportional)
        assert 30_000_000 < held < 80_000_000


def test_anonymous_memory_without_the_exact_count(monkeypatch):
    exact = probes.process_anonymous_bytes(os.getpid())
    read_file = probes.read_text
    hidden = {"smaps_rollup"}
    monkeypatch.setattr(
        probes, "read_text", lambda path: "" if path.name in hidden else read_file(path)
    )
    assert probes.process_anonymous_bytes(os.getpid()) == pytest.approx(exact, rel=0.2)
    hidden.add("status")
    assert probes.process_anonymous_bytes(os.getpid()) > 1_000_000


def test_a_process_that_has_ended_is_unknown(child):
    end(child)
    assert probes.child_pids(child.pid) == ()
    assert probes.process_anonymous_bytes(child.pid) is None
    assert probes.process_private_bytes(child.pid) is None


def test_this_machine_can_be_read():
    found = MemoryProbe().read()
    assert found.process_bytes > 1_000_000
    assert found.available_bytes > 0


def test_a_system_that_says_nothing_is_survived(monkeypatch):
    def refuse():
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert probes.system_available_bytes() is None
