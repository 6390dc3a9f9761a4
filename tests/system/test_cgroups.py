"""The texts of cgroups and PSI; what is made of the files is tested with the probe."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.system.cgroups import (
    UNLIMITED_BYTES,
    group_folders,
    parse_limit,
    parse_pressure,
    parse_stat,
)

PSI = "some avg10={} avg60=0.50 avg300=0.10 total=1\nfull avg10=99.00 avg60=0 avg300=0 total=1\n"
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNLIMITED_V1 = "9223372036854771712\n"

names = st.text(
    st.characters(exclude_characters="\n/: ", exclude_categories=("Cs", "Cc", "Z")), min_size=1
)
paths = st.lists(names.filter(lambda n: n not in {".", ".."}), max_size=4)


@given(path=paths, noise=st.text())
def test_every_group_from_the_innermost_to_the_mount_is_found(path, noise):
    places = f"0::/{'/'.join(path)}"
    groups = group_folders(places, V2_MOUNT, "memory")
    assert len(groups) == len(path) + 1
    folders = [folder for _, folder in groups]
    assert folders[-1] == "/sys/fs/cgroup"
    assert all(inner.rpartition("/")[0] == outer for inner, outer in pairwise(folders))
    group_folders(noise, noise, "memory")


@given(st.integers(0, UNLIMITED_BYTES - 1))
def test_limits_are_read_as_written(number):
    assert parse_limit(f"{number}\n") == number


@given(st.text())
def test_no_text_breaks_a_parser(text):
    limit = parse_limit(text)
    assert limit is None or 0 <= limit < UNLIMITED_BYTES
    assert parse_stat(text, "inactive_file") >= 0
    pressure = parse_pressure(text)
    assert pressure is None or 0 <= pressure <= 1


@given(st.floats(0, 100).map(lambda x: f"{x:.2f}"))
def test_pressure_is_read_as_a_share(percent):
    assert parse_pressure(PSI.format(percent)) == pytest.approx(float(percent) / 100)


@pytest.mark.parametrize("text", ["max\n", UNLIMITED_V1, "", "-1", "1.5", "٣"])
def test_no_limit(text):
    assert parse_limit(text) is None
