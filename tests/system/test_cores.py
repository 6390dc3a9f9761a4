"""The cores that may be used: of the machine, of the process, and of its cgroups' time."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.system.cores import parse_quota, usable_cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "33 23 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def on_64_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)


@pytest.mark.usefixtures("on_64_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("9999999 1000", 64),
        ("", 64),
    ],
)
def test_a_container_s_time_counts(quota: str, cores: int, tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": quota}
    assert usable_cores(written(tmp_path, files)) == cores


@pytest.mark.usefixtures("on_64_cores")
def test_the_group_around_counts_as_well(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/app",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/pod/cpu.max": "300000 100000",
        "sys/fs/cgroup/pod/app/cpu.max": "max 100000",
    }
    assert usable_cores(written(tmp_path, files)) == 3


@pytest.mark.usefixtures("on_64_cores")
@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 64)])
def test_version_1_is_read(quota: str, cores: int, tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/",
        "proc/self/mountinfo": V1,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert usable_cores(written(tmp_path, files)) == cores


def test_without_cgroups_the_cores_count_that_the_process_may_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    quota = parse_quota(text)
    assert quota is None or quota > 0
