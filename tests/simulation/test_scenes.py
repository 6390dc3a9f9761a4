"""Scenes: drawn from labels, seen by models, and hidden from policies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybrid_detect.errors import ConfigurationError
from hybrid_detect.selection.auto import AutoPolicy
from hybrid_detect.selection.conditions import Conditions
from hybrid_detect.simulation.oracle import oracle
from hybrid_detect.simulation.scenes import KINDS, SceneDraws, Scenes, read_scenes
from hybrid_detect.simulation.simulator import Environment, simulate
from hybrid_detect.simulation.synthetic_traces import synthetic_traces
from hybrid_detect.types import Plan

DRIVE = synthetic_traces(seconds=40)[0]


def draws(kind: str, **changed: object) -> SceneDraws:
    scenes = replace(Scenes(kind=kind), **changed)
    return SceneDraws(scenes, frames=3000, fps=10, seed=1)


class Noting:
    """`AutoPolicy`, and what it was shown and decided."""

    def __init__(self) -> None:
        self.auto = AutoPolicy()
        self.seen: list[tuple[Conditions, Plan]] = []

    def decide(self, conditions: Conditions) -> Plan:
        self.seen.append((conditions, self.auto.decide(conditions)))
        return self.seen[-1][1]


# -- what is drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixed", *KINDS])
def test_each_frame_is_of_one_stretch(kind: str) -> None:
    scene = draws(kind)
    assert scene.of_frame.shape == (3000,)
    firsts = [each.first for each in scene.stretches]
    assert np.flatnonzero(np.diff(scene.of_frame)).tolist() == [first - 1 for first in firsts[1:]]
    assert len(firsts) > 5
    assert np.array_equal(scene.of_frame, draws(kind).of_frame)


def test_the_device_sees_selfies_and_no_crowds_and_the_server_sees_both() -> None:
    means = {kind: (draws(kind).share("device"), draws(kind).share("server")) for kind in KINDS}
    assert means["selfie"][0].mean() > 0.7
    assert means["crowd"][0].mean() < 0.1
    assert np.all(means["empty"][0] == 1.0)
    assert all(server.mean() > 0.85 for _, server in means.values())
    by_full_range = draws("crowd", server="full_range").share("server")
    assert by_full_range.mean() < means["crowd"][1].mean()


def test_answers_hold_what_is_seen_about_as_high_as_it_is() -> None:
    scene = draws("group")
    counts = [len(list(scene.found(frame, "server"))) for frame in range(200)]
    expected = [scene.stretches[at].server_sees.sum() for at in scene.of_frame[:200]]
    assert np.mean(counts) == pytest.approx(np.mean(expected), rel=0.05)
    assert scene.found(7, "device") == draws("group").found(7, "device")
    heights = scene.stretches[0].heights
    assert all(0.7 * min(heights) < one < 1.3 * max(heights) for one in scene.found(0, "server"))


def test_labels_become_scenes_of_their_category(tmp_path: Path) -> None:
    def image(category: str, *heights: int) -> dict[str, object]:
        boxes = [[0, 0, 9, height] for height in heights]
        return {"width": 640, "height": 480, "category": category, "boxes": boxes}

    images = {"a": image("portrait", 160), "b": image("large", 16, 32), "c": image("none")}
    images["d"] = image("portrait", 32)
    (tmp_path / "labels.json").write_text(json.dumps({"images": images}))
    photos = read_scenes(tmp_path)
    expected = {"selfie": [(0.25,)], "group": [(0.05,)], "crowd": [(0.025, 0.05)], "empty": [()]}
    assert photos == expected, "a portrait from afar is no selfie"
    assert read_scenes(tmp_path / "labels.json") == photos
    crowd = draws("crowd", photos=photos)
    assert all(each.heights.tolist() == [0.025, 0.05] for each in crowd.stretches)
    made_up = draws("group", photos={"crowd": [(0.1,)]})
    assert all(len(each.heights) > 1 for each in made_up.stretches)


@pytest.mark.parametrize("text", ["", "[]", '{"images": {"a": {}}}', '{"images": {"a": 1}}'])
def test_a_file_that_holds_no_labels_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ConfigurationError, match="expected labels of photos in"):
        read_scenes(tmp_path)
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        read_scenes(tmp_path / "none.json")


@pytest.mark.parametrize("wrong", [{"kind": "street"}, {"device": "eye"}, {"server": "eye"}])
def test_a_kind_or_model_that_there_is_not_is_told(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Scenes(**wrong)


# -- nothing leaks -------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [1, 40, 83, 150])
@pytest.mark.parametrize("device", ["phone", "pi5"])
def test_a_scene_is_not_seen_before_an_answer_to_it(frame: int, device: str) -> None:
    """From `frame` on everything filmed is otherwise: the decision about it is not."""
    runs = []
    for changed in (False, True):
        world = Environment(DRIVE, device, scenes=Scenes(kind="mixed"))
        assert world.draws is not None
        if changed:
            other = draws("crowd").stretches
            world.draws.stretches += other
            world.draws.of_frame[frame:] = len(world.draws.stretches) - len(other)
            world.see()
        policy = Noting()
        simulate(world, policy)
        runs.append(policy.seen)
    as_it_is, otherwise = runs
    assert otherwise[: frame + 1] == as_it_is[: frame + 1]
    assert otherwise != as_it_is, "the change would have been seen"


def test_what_an_unanswered_frame_shows_is_not_seen() -> None:
    """The heights of the frames whose answers never came change nothing."""
    runs = []
    for kind in ("selfie", "crowd"):
        world = Environment(DRIVE, "pi5", scenes=Scenes(kind=kind))
        world.capacity[:] = 0.0
        world.prepare()
        policy = Noting()
        policy.auto = AutoPolicy()
        world.device_s[:] = 1e6
        simulate(world, policy)
        runs.append([conditions.scene for conditions, _ in policy.seen])
    assert runs[0] == runs[1]


# -- what it is for ------------------------------------------------------------------------------


def test_without_scenes_nothing_is_said_of_any() -> None:
    policy = Noting()
    simulate(Environment(DRIVE, "pi5"), policy)
    assert {conditions.scene for conditions, _ in policy.seen} == {None}


def test_the_oracle_knows_the_scenes() -> None:
    crowd = oracle(Environment(DRIVE, "pi5", scenes=Scenes(kind="crowd")))
    empty = oracle(Environment(DRIVE, "pi5", scenes=Scenes(kind="empty")))
    assert crowd.device_share < 0.3
    assert empty.remote_share < 0.05


@pytest.mark.parametrize("device", ["pi5", "desktop"])
def test_nearly_nothing_is_sent_of_an_empty_scene_and_all_that_fits_of_a_crowd(device: str) -> None:
    """What may be sent of an empty scene are the looks that show it is one."""
    results = {
        kind: simulate(
            Environment(DRIVE, device, scenes=Scenes(kind=kind)), AutoPolicy(), receive_times=True
        )
        for kind in ("empty", "crowd")
    }
    world = Environment(DRIVE, device, scenes=Scenes(kind="crowd"))
    assert results["empty"].remote_share < 0.25
    assert results["crowd"].server_answers > 0.85 * oracle(world).server_answers


def test_a_selfie_stays_on_a_device_that_sees_it_and_a_crowd_is_sent() -> None:
    results = {
        kind: simulate(
            Environment(DRIVE, "desktop", scenes=Scenes(kind=kind, device="full_range")),
            AutoPolicy(),
            receive_times=True,
        )
        for kind in ("selfie", "crowd")
    }
    assert results["selfie"].remote_share < 0.05
    assert results["crowd"].remote_share > 0.9


@pytest.mark.parametrize("device", ["pi5", "desktop"])
def test_over_a_cellular_link_a_selfie_stays_on_a_device_that_sees_it(device: str) -> None:
    """Radio and data cost more than a look of the device. A crowd is sent all the same."""
    world = Environment(DRIVE, device, scenes=Scenes(kind="selfie", device="full_range"))
    policy = simulate(world, AutoPolicy(), receive_times=True)
    assert oracle(world).needless_share < 0.01
    assert policy.needless_share < 0.08, "looks that show that it is one"
    crowd = Environment(DRIVE, device, scenes=Scenes(kind="crowd"))
    assert oracle(crowd).remote_share > 0.9
