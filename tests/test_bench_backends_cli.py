"""``hybrid-detect bench backends``: what it measures, tells and recommends."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid_detect.backends.base import Backend
from hybrid_detect.cli import backend_trials, main
from hybrid_detect.cli.backend_trials import CONTROL, Trial
from hybrid_detect.cli.recommendation import recommended
from hybrid_detect.config import ServiceConfig
from hybrid_detect.errors import BackendUnavailableError
from hybrid_detect.geometry import BoundingBox, Face
from hybrid_detect.testing import FakeBackend
from hybrid_detect.types import BackendKind

ENDPOINT = "https://faces.example.com"
FACE = Face(BoundingBox(1, 1, 9, 9), 0.9)


# ---- what is recommended


def trial(name: str, took_s: float = 0.05, *, faces: int = 0, **values: Any) -> Trial:
    return Trial(name, took_s=[took_s] * 20, faces_of={0: faces}, **values)


def choice(*trials: Trial, deadline_s: float = 1.0, endpoint: str | None = ENDPOINT) -> Any:
    config = ServiceConfig(endpoint=endpoint, deadline_s=deadline_s)
    return recommended([trial(CONTROL, 0.0), *trials], config)


@pytest.mark.parametrize(
    ("cloud", "device", "mode", "why"),
    [
        (trial("cloud", faces=9), trial("device", faces=4), "auto", "finds 9 faces"),
        (trial("cloud", faces=4), trial("device", faces=4), "prefer_on_device", "saves"),
        (trial("cloud", 2.0, faces=9), trial("device", faces=4), "prefer_on_device", "within 1 s"),
        (trial("cloud", faces=4), trial("device", 2.0, faces=9), "prefer_cloud", "within 1 s"),
        (trial("cloud", 3.0, faces=9), trial("device", 2.0), "prefer_on_device", "longer"),
        (trial("cloud", 2.0), trial("device", 3.0, faces=9), "prefer_cloud", "longer"),
        (trial("cloud", math.inf, error="gone"), trial("device"), "on_device", "cloud: gone"),
        (trial("cloud"), Trial("device", unusable="no model"), "cloud", "device: no model"),
    ],
)
def test_the_mode_follows_from_faces_and_times(
    cloud: Trial, device: Trial, mode: str, why: str
) -> None:
    chosen = choice(cloud, Trial("streaming", unusable="no server"), device)
    assert dict(chosen.settings)["mode"] == mode
    assert why in chosen.reason


def test_two_ways_to_a_server_stand_in_for_each_other() -> None:
    chosen = choice(trial("cloud", 0.2), trial("streaming", 0.1), Trial("device", unusable="no"))
    assert dict(chosen.settings) == {"mode": "auto", "endpoint": ENDPOINT}
    assert "streaming sooner" in chosen.reason


def test_a_deadline_that_none_meets_is_made_longer_and_any_other_is_left() -> None:
    chosen = choice(trial("cloud", 0.4), trial("device", 0.3), deadline_s=0.2)
    assert dict(chosen.settings)["deadline_s"] == 0.5  # 0.3 s and half as much, in tenths
    chosen = choice(trial("cloud"), trial("device"), deadline_s=0.2)
    assert dict(chosen.settings)["deadline_s"] == 0.2
    assert "deadline_s" not in dict(choice(trial("cloud"), trial("device")).settings)


def test_what_an_answer_costs_is_part_of_the_reason() -> None:
    paid = trial("cloud", faces=9, nanos=Counter({"USD": 20 * 1_500_000}))
    assert "1.50 USD for 1,000" in choice(paid, trial("device", faces=4)).reason


def test_it_is_told_as_python_and_as_variables() -> None:
    chosen = choice(trial("cloud", faces=9), trial("device"), deadline_s=0.5)
    names: dict[str, object] = {"ServiceConfig": ServiceConfig}
    exec(chosen.python, names)  # noqa: S102 - what a user would paste
    assert names["config"] == ServiceConfig(endpoint=ENDPOINT, mode="auto", deadline_s=0.5)
    assert chosen.environment == {
        "HYBRID_DETECT_MODE": "auto",
        "HYBRID_DETECT_ENDPOINT": ENDPOINT,
        "HYBRID_DETECT_DEADLINE_S": "0.5",
    }


def test_without_an_answer_nothing_is_recommended() -> None:
    assert choice(Trial("cloud", unusable="gone"), Trial("device", unusable="no model")) is None


# ---- what is measured


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeBackend]:
    """The backends that the command gets; a test puts others in their places."""
    for name in ("ENDPOINT", "AUTH_TOKEN", "MODE", "DEADLINE_S"):
        monkeypatch.delenv(f"HYBRID_DETECT_{name}", raising=False)
    made = {kind.value: FakeBackend(kind, faces=[FACE]) for kind in BackendKind}

    def create(kind: BackendKind, config: ServiceConfig) -> Backend:
        return made[kind.value]

    monkeypatch.setattr("hybrid_detect.service.backend_factory.create_backend", create)
    monkeypatch.setattr("hybrid_detect.cli.fetching.load_model", lambda *_, **__: b"")
    return made


def bench(*arguments: object) -> int:
    # A busy machine may miss the default deadline of a second, even with fakes.
    given = ["--deadline", "30", *map(str, arguments)]
    return main(["bench", "backends", *given])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    found["by_name"] = {row["backend"]: row for row in found["backends"]}
    return found


def test_all_look_at_the_same_pictures_in_turns(
    backends: dict[str, FakeBackend],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    order: list[str] = []
    look = backend_trials._look

    async def seen(trial: Trial, *others: Any) -> None:
        order.append(trial.name)
        await look(trial, *others)

    monkeypatch.setattr(backend_trials, "_look", seen)
    assert bench("--endpoint", ENDPOINT, "--looks", 6, "--json") == 0
    rounds = [order[start : start + 4] for start in range(0, 24, 4)]
    names = {CONTROL, "cloud", "streaming", "device"}
    assert all(set(each) == names for each in rounds)
    assert {each[0] for each in rounds} == names, "each is the first one in turn"
    found = told(capsys)
    assert [row["looks"] for row in found["backends"]] == [6] * 4
    assert found["by_name"]["device"]["faces"] == 5  # one in each of the pictures that are drawn
    assert found["by_name"][CONTROL]["faces"] is None
    assert found["recommended"]["environment"]["HYBRID_DETECT_MODE"] == "prefer_on_device"


def test_failures_are_told_and_counted(
    backends: dict[str, FakeBackend], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = BackendUnavailableError("the tunnel")
    backends["cloud"]._script = iter(["ok", "ok", gone, gone])  # the first is for warming up
    backends["streaming"].error = BackendUnavailableError("no server there")
    assert bench("--endpoint", ENDPOINT, "--looks", 5, "--json") == 0
    rows = told(capsys)["by_name"]
    assert rows["cloud"]["answered"] < rows["cloud"]["looks"] == 5
    assert "tunnel" in rows["cloud"]["last_error"]
    assert not rows["streaming"]["usable"]
    assert "no server there" in rows["streaming"]["unusable_reason"]
    assert rows["streaming"]["p50_s"] is None


def test_it_ends_in_time_with_the_looks_that_were_made(
    backends: dict[str, FakeBackend], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--looks", 1000, "--seconds", 1e-9, "--json") == 0
    assert told(capsys)["by_name"]["device"]["looks"] == 1


def test_where_no_backend_can_be_used_it_fails(
    backends: dict[str, FakeBackend], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, backend in backends.items():
        backend.error = BackendUnavailableError(f"{name} is gone")
    assert bench() == 1
    captured = capsys.readouterr()
    assert all(f"{name} is gone" in captured.out for name in backends)
    assert "doctor" in captured.err


def test_progress_is_shown_beside_the_figures(
    backends: dict[str, FakeBackend], capsys: pytest.CaptureFixture[str]
) -> None:
    backends["cloud"].error = backends["streaming"].error = BackendUnavailableError("gone")
    assert bench("--looks", 10) == 0
    captured = capsys.readouterr()
    assert "10 of 10 rounds" in captured.err
    assert "at 5 of 5 pictures" in captured.out
    assert "27 faces are drawn in them" in captured.out
    assert "Of fewer than 20 looks p95 is the slowest" in captured.out
    assert "ServiceConfig(mode='on_device', deadline_s=30.0)" in captured.out
    assert "HYBRID_DETECT_MODE=on_device" in captured.out


def test_a_picture_that_is_none_is_named_and_left_out(
    backends: dict[str, FakeBackend], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    assert bench(broken, tmp_path / "missing.png") == 1
    told_why = capsys.readouterr().err
    assert f"{broken} is left out: " in told_why
    assert "there is no picture to look at" in told_why
    Image.new("RGB", (64, 48)).save(tmp_path / "whole.png")
    assert bench(tmp_path, "--looks", 2) == 0
    captured = capsys.readouterr()
    assert f"{broken} is left out: " in captured.err
    assert "at 1 of 1 pictures" in captured.out


@pytest.mark.parametrize("option", [("--looks", "0"), ("--seconds", "-1"), ("--seconds", "inf")])
def test_bounds_that_are_none_are_refused(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(*option)
    assert ended.value.code == 2


def test_a_real_server_and_one_s_own_pictures(
    server: Any,
    astronaut: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HYBRID_DETECT_AUTH_TOKEN", "test-token")
    monkeypatch.setenv("HYBRID_DETECT_MODE", "on_device")  # all are compared, whatever the mode
    Image.fromarray(astronaut).save(tmp_path / "photo.jpg")
    assert bench(tmp_path, "--endpoint", server.url, "--looks", 2, "--json") == 0
    rows = told(capsys)["by_name"]
    for name in ("cloud", "streaming"):
        assert rows[name]["faces"] == 1
        assert rows[name]["bytes_per_look"] > 1000
        assert rows[name]["answered"] == 2
    assert rows[CONTROL]["bytes_per_look"] == 0
