"""The other files of `examples/deploy`: their own formats' validators, and what they promise."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid_detect.backends.device.models import MODELS
from hybrid_detect.cli import serve
from hybrid_detect.exchange.wire import HEALTH_PATH
from hybrid_detect.server.cluster.config import read_cluster_file
from hybrid_detect.server.listening import GRACE_S

from .gateways import EXAMPLES

yaml = pytest.importorskip("yaml", reason="pyyaml comes with the validators")

CONTAINERFILE = EXAMPLES / "Containerfile"
COMPOSE = EXAMPLES / "compose.yaml"
KUBERNETES = EXAMPLES / "kubernetes.yaml"
KUBERAY = EXAMPLES / "kuberay.yaml"
UNIT = EXAMPLES / "hybrid-detect-server.service"
CAMERA_UNIT = EXAMPLES / "hybrid-detect-camera.service"


def checked(*command: str | Path) -> None:
    """Run a validator, of this environment or the system; skip where it is not installed."""
    name = str(command[0])
    program = shutil.which(str(Path(sys.executable).parent / name)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [program, *map(str, command[1:])], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def documents(path: Path) -> dict[str, Any]:
    """The documents of a file of manifests by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile's last stage."""
    text = CONTAINERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and line[0] not in "# "]
    last = max(index for index, (name, *_) in enumerate(lines) if name == "FROM")
    return [(name, rest) for name, rest in lines[last:]]


def entry_point() -> list[str]:
    return next(json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT")


def test_the_containerfile_is_clean() -> None:
    checked("hadolint", CONTAINERFILE)


def test_the_compose_file_is_valid() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_manifests_are_valid() -> None:
    checked("kubernetes-validate", "--strict", "--kubernetes-version", "1.30", KUBERNETES)


def ray_pods() -> dict[str, Any]:
    """The pods that KubeRay makes, by their part."""
    spec = documents(KUBERAY)["RayCluster"]["spec"]
    [workers] = spec["workerGroupSpecs"]
    return {"head": spec["headGroupSpec"]["template"], "detectors": workers["template"]}


def test_the_manifests_for_kuberay_are_valid(tmp_path: Path) -> None:
    """By Kubernetes' own types; KubeRay's, of 20,000 lines, are not at hand."""
    known = [one for kind, one in documents(KUBERAY).items() if kind != "RayCluster"]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": part}}
        for part, pod in ray_pods().items()
    ]
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all([*known, *pods]))
    checked("kubernetes-validate", "--strict", "--kubernetes-version", "1.30", path)


def test_the_cluster_on_kubernetes_is_one_that_starts(tmp_path: Path) -> None:
    found = documents(KUBERAY)
    (tmp_path / "cluster.toml").write_text(found["ConfigMap"]["data"]["cluster.toml"])
    cluster = read_cluster_file(tmp_path / "cluster.toml")
    spec = found["RayCluster"]["spec"]
    [workers] = spec["workerGroupSpecs"]
    # There is room for as many replicas as there may be, and for the first at once.
    cores = int(workers["rayStartParams"]["num-cpus"]) // cluster.detectors_per_replica
    assert workers["maxReplicas"] * cores >= cluster.max_replicas
    assert workers["minReplicas"] * cores >= cluster.min_replicas
    _, gateway = ray_pods()["head"]["spec"]["containers"]
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args([*gateway["command"][1:], *gateway["args"]])
    mounted = {each["name"]: each["mountPath"] for each in gateway["volumeMounts"]}
    assert str(options.cluster) == f"{mounted['settings']}/cluster.toml"
    assert str(options.api_keys) == f"{mounted['api-keys']}/api-keys.json"
    # What a file option names has to be at the same place for every replica.
    for pod in ray_pods().values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["volumeMounts"] == gateway["volumeMounts"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    pinned = re.search(r"rayproject/ray:([\d.]+)-", KUBERAY.read_text(encoding="utf-8"))
    assert pinned is not None
    assert spec["rayVersion"] == pinned.group(1)
    assert found["Service"]["spec"]["selector"] == {"app": "hybrid-detect", "part": "head"}


def test_the_unit_exposes_little() -> None:
    checked("systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT)


@pytest.mark.parametrize("path", [UNIT, CAMERA_UNIT], ids=["server", "camera"])
def test_the_unit_has_no_unknown_line(path: Path, tmp_path: Path) -> None:
    unit = tmp_path / path.name
    text = path.read_text(encoding="utf-8")
    unit.write_text(re.sub(r"/opt/hybrid-detect/bin/[\w-]+", sys.executable, text))
    checked("systemd-analyze", "verify", "--man=no", unit)


def commands() -> dict[str, list[str]]:
    """How each file starts the server, without the program's name."""
    container = documents(KUBERNETES)["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    composed = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["server"]
    unit = next(
        line for line in UNIT.read_text(encoding="utf-8").splitlines() if "ExecStart=" in line
    )
    return {
        "container": entry_point()[1:],
        "compose": [*entry_point()[1:], *composed["command"]],
        "kubernetes": [*entry_point()[1:], *container["args"]],
        "systemd": shlex.split(unit.partition("=")[2])[1:],
    }


@pytest.mark.parametrize("where", ["container", "compose", "kubernetes", "systemd"])
def test_the_server_takes_the_options_it_is_started_with(where: str) -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(commands()[where])
    if where != "container":
        assert options.api_keys is not None


@pytest.mark.parametrize("where", ["compose", "kubernetes", "systemd"])
def test_where_memory_is_limited_so_are_the_detectors(where: str) -> None:
    # One for each core, the default, would not fit into 1 GiB on a machine of eight.
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers(required=True))
    detectors = parser.parse_args(commands()[where]).detectors
    levels = (MODELS["full_range"], MODELS["centerface"])
    each_bytes = sum(model.input().needed_bytes for model in levels)
    assert detectors * each_bytes < 2**30


@pytest.mark.parametrize("path", [CONTAINERFILE, UNIT], ids=["container", "systemd"])
def test_what_is_installed_can_look_on_the_default_level(path: Path) -> None:
    extras = re.findall(r"hybrid-detect\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
    assert extras
    assert all({"server", "device-lite", "centerface"} <= set(each.split(",")) for each in extras)


def test_no_container_runs_as_root_or_writes_to_its_image() -> None:
    assert ("USER", "10001:10001") in instructions()
    pod = documents(KUBERNETES)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    for service in yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_the_end_is_given_longer_than_the_server_takes() -> None:
    pod = documents(KUBERNETES)["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    warned_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > warned_s + GRACE_S


def test_each_probe_asks_what_the_server_answers() -> None:
    [container] = documents(KUBERNETES)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == HEALTH_PATH
    assert container["readinessProbe"]["httpGet"]["path"] == HEALTH_PATH
    # A server that stops answers 503 there, and must not be killed for it.
    assert "httpGet" not in container["livenessProbe"]
    assert f"127.0.0.1:8000{HEALTH_PATH}" in CONTAINERFILE.read_text(encoding="utf-8")


def test_one_replica_is_left_while_a_node_is_emptied() -> None:
    found = documents(KUBERNETES)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == 1
    assert found["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
