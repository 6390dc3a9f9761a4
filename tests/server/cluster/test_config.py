"""The cluster's TOML file: every mistake is told with its place, and an empty file will do."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_detect.cli import main
from hybrid_detect.errors import ConfigurationError
from hybrid_detect.server.cluster.config import ClusterConfig, read_cluster_file


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_has_every_default(tmp_path: Path) -> None:
    assert read_cluster_file(written(tmp_path, "# all as it is\n")) == ClusterConfig()


def test_the_documentation_tells_the_defaults(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/cluster.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert read_cluster_file(written(tmp_path, text)) == ClusterConfig()
    told = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
    assert told == {field.name for field in fields(ClusterConfig)}


def test_what_the_file_says_is_taken(tmp_path: Path) -> None:
    text = """
        address = "10.0.0.5:6379"
        min_replicas = 2
        max_replicas = 40
        detectors_per_replica = 4
        streams_per_replica = 500
        work_per_replica = 8
        target_latency_s = 0.15
        haproxy = "/usr/sbin/haproxy"
    """
    assert read_cluster_file(written(tmp_path, text)) == ClusterConfig(
        address="10.0.0.5:6379",
        min_replicas=2,
        max_replicas=40,
        detectors_per_replica=4,
        streams_per_replica=500,
        work_per_replica=8.0,
        target_latency_s=0.15,
        haproxy=Path("/usr/sbin/haproxy"),
    )


def test_a_ray_of_ones_own_is_the_default() -> None:
    assert ClusterConfig().is_local
    assert not ClusterConfig(address="auto").is_local


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_replicas = 0", "min_replicas: expected at least 1, got 0"),
        ("min_replicas = 5\nmax_replicas = 2", "max_replicas: expected 5 (min_replicas) to 1000"),
        ("max_replicas = 1001", "max_replicas: expected 1"),
        ("max_replicas = 2.5", "max_replicas: expected int, got float"),
        ("max_replicas = true", "max_replicas: expected int, got bool"),
        ('queue_per_replica = "32"', "queue_per_replica: expected int, got str"),
        ("work_per_replica = 0", "work_per_replica: expected more than 0, got 0"),
        ("target_latency_s = nan", "target_latency_s: expected more than 0, got nan"),
        ("target_latency_s = inf", "target_latency_s: expected more than 0, got inf"),
        ("upscale_delay_s = -1", "upscale_delay_s: expected 0 or more, got -1"),
        ("object_store_mib = 10", "object_store_mib: expected at least 75, got 10"),
        ('address = ""', "address: expected 'local', 'auto' or an address, got nothing"),
        ("address = 5", "address: expected str, got int"),
        ("haproxy = 5", "haproxy: expected Path | None, got int"),
        ("replicas = 3", "unknown setting 'replicas'; there are address, "),
        ("[replicas]\nmin = 3", "unknown setting 'replicas'"),
        ("min_replicas = ", "is no TOML"),
        ("a" * 70_000, "expected at most 65536 bytes"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        read_cluster_file(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_a_typed_error(data: bytes) -> None:
    class InMemory(type(Path())):  # type: ignore[misc]  # hundreds of files would be slow
        def open(self, *_: object, **__: object) -> io.BytesIO:
            return io.BytesIO(data)

    with contextlib.suppress(ConfigurationError):
        read_cluster_file(InMemory("given.toml"))


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.toml"
    assert main(["serve", "--cluster", str(missing)]) == 1
    assert f"cannot read the cluster's settings in {missing}" in capsys.readouterr().err
