"""What share of a scene's faces the device sees, from the faces that were seen last.

The device's model misses small faces: it is worth as much as the server on a selfie and nothing on
a crowd. The server's answers tell how high the faces are, and its model's and the device's recall
by height tell how many of those the device finds; the device's own answers then show which of them
it really finds.

Faces below the device's sight are seen by the server alone. So an answer of the device without a
face is no evidence of an empty scene, and what the server saw fades when the device sees another
scene, or sees so little that it would not notice a new one. `SceneConditions.server_look_due` then
asks for a probe.

Pure: frames are named by increasing numbers, and time comes in from outside.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid_detect.selection.conditions import SceneConditions

__all__ = ["PRIOR_SHARE", "Recall", "SceneEstimator", "recall_at"]

Recall = tuple[tuple[float, float], ...]
"""A model's recall by face height: pairs of the least height, as a share of the picture's longer
side, and the recall from there on; both ascending. Below the first pair it is 0."""

PRIOR_SHARE = 0.8
"""Before the server has looked, or once the scene is another one. Chosen: on the project's photos
in which the short-range model finds a face it finds 0.75 of the faces, and cameras of apps see
fewer crowds than those photos."""

EMPTY_SHARE = 0.5
"""The same where the device sees no face: the scene is empty (then it sees all there is) or its
faces are small (then it sees none). Chosen."""

SCENE_S = 20.0
"""Mean length of a scene. Chosen: between a call, which is one scene for minutes, and a walk."""

ALIKE_EMPTY, ALIKE_SEEN = 0.5, 0.05
"""Share of the new scenes that the device would not notice: where it sees no face, and where it
sees some, whose number and heights would have to be the same. Chosen."""

TABLE_LOOKS = 0.25
"""The table counts as so many looks beside the device's own. Less than one, because the table's
recall is mostly one of faces, not of looks: a face that was found is found again. Chosen."""

MOST_LOOKS = 40.0
"""Looks remembered, 4 s at 10 fps."""

FORGET_S = 4.0
"""Half-life of what was found while the device does not look: a face that it missed by bad luck is
given another look after some ten seconds. Chosen."""

MOST_FACES = 64
"""Faces of a look that are kept, the highest first."""

ALIKE_RATIO = 1.35
"""Two heights within this ratio may be one face's: boxes of two models differ by less."""

UNEXPLAINED, OTHER_SCENE = 0.03, 0.3
"""Likelihoods: of a face that the server did not see on this scene, and of a look at another
scene. Chosen."""

SPREAD_FLOOR = 0.1
"""Least variance of the number of faces the device finds on a scene. Chosen: one frame without the
face that was always found is a reason to look, not yet another scene."""

STALE = 0.03
"""The server is to look again when the chance of an unseen change is higher: after 12 s beside a
face, after 1.2 s where the device sees none. Chosen on half of the recorded networks."""

DEVICE_PAUSE_S = 0.1
"""Pause between two looks that are asked for, times the looks at those faces so far: the first few
tell most. Chosen."""

WORTH_A_LOOK, GOOD_LOOKS = 0.85, 3.0
"""The device is asked to look at what the server sees if three good looks would show such a share.
After a look that found nothing, this holds again about 3 s later. Chosen on half of the recorded
networks."""

ENOUGH_SHARE = 0.99
"""It is not asked any more once it is known to see such a share."""


def recall_at(recall: Recall, height: float) -> float:
    """Recall of a face of `height`, a share of the picture's longer side."""
    place = bisect_right(recall, (height, math.inf))
    return recall[place - 1][1] if place else 0.0


@dataclass(frozen=True, slots=True)
class _Look:
    """One answer: its frame, when that was captured, and its faces' heights, highest first."""

    frame: int
    at_s: float
    heights: tuple[float, ...]


class _Group(NamedTuple):
    """Faces that the device is as likely to find."""

    step: int
    """Of the device's table."""
    by_table: float
    """The device's recall of those that the server finds, by the tables alone."""
    faces: int


@dataclass(slots=True)
class SceneEstimator:
    """Predicts the device's share of the faces of one stream's next frame.

    Args:
        device: Recall of the device's model; `None` while it is unknown, and then nothing is
            predicted.
        server: Recall of the server's model; `None` counts as finding every face.
        prior: The share before anything has been seen.
    """

    device: Recall | None = None
    server: Recall | None = None
    prior: float = PRIOR_SHARE
    _known: _Look | None = field(default=None, init=False)
    """The server's last look."""
    _looks: deque[_Look] = field(default_factory=lambda: deque(maxlen=32), init=False)
    """The device's last looks."""
    _doubt: float = field(default=0.0, init=False)
    """Probability, by what the device sees, that the scene is not `_known` any more."""
    _others: float = field(default=0.0, init=False)
    """Probability, by looks at the same frames as the server's, that `_found` is about others."""
    _compared_s: float = field(default=-math.inf, init=False)
    """When the scene was last seen to be `_known`, or not."""
    _settled: tuple[float, ...] = field(default=(), init=False)
    """The heights of the scene that `_found` is about."""
    _is_odd: bool = field(default=False, init=False)
    """Whether the server's last look was not at that scene, as far as it shows."""
    _found: dict[int, list[float]] = field(default_factory=dict, init=False)
    """By step of the device's table: looks at faces of it, and the share that was found, summed."""
    _counted_s: float = field(default=-math.inf, init=False)
    """When the last of those looks was."""
    _grouped: tuple[tuple[object, ...], tuple[_Group, ...]] = field(default=((), ()), init=False)
    """What `_groups` was asked last, and its answer."""

    def server_looked(self, heights: Iterable[float], *, frame: int, at_s: float) -> None:
        """Take in an answer of the server.

        Args:
            heights: Heights of the faces it found, as shares of the picture's longer side.
            frame: Number of the frame, higher for later ones.
            at_s: When the frame was captured, monotonic seconds.
        """
        look = _Look(frame, at_s, _kept(heights))
        if self._known is not None and frame < self._known.frame:
            return
        is_alike = self._known is None or _is_alike(self._settled, look.heights)
        # Faces as high as before may be others: the device has seen that they are.
        is_other = self._doubt >= 0.5 or (self._is_odd and not is_alike)
        if is_other:
            self._found.clear()
        if is_alike or is_other:
            self._settled, self._is_odd = look.heights, False
        else:  # the server misses a face now and then, too
            self._is_odd = True
        self._known, self._doubt, self._compared_s = look, 0.0, at_s
        # Answers of the device to this frame and later ones may have come before.
        for earlier in self._looks:
            if earlier.frame >= frame:
                self._compare(earlier)

    def device_looked(self, heights: Iterable[float], *, frame: int, at_s: float) -> None:
        """Take in an answer of the device; see `server_looked`."""
        look = _Look(frame, at_s, _kept(heights))
        self._looks.append(look)
        if self._known is not None and frame >= self._known.frame:
            self._compare(look)

    def conditions(self, *, now_s: float) -> SceneConditions | None:
        """What is believed about the scene; `None` while the device's recall is unknown."""
        if self.device is None:
            return None
        known, last = self._known, self._looks[-1] if self._looks else None
        unknown = self.prior if last is None or last.heights else EMPTY_SHARE
        if known is None:
            return SceneConditions(device_share=unknown, server_look_due=True)
        same = self._same(now_s, sees=bool(last and last.heights))
        share, at_best, looks = self._share(known.heights, self._kept_share(now_s))
        mixed = same * share + (1.0 - same) * unknown
        # Less is believed late: one odd frame is reason for a look, not for a switch.
        share = max(share, mixed) if same >= 0.5 else mixed
        looked_s = last.at_s if last else -math.inf
        return SceneConditions(
            device_share=min(max(share, 0.0), 1.0),
            faces=len(known.heights),
            is_doubtful=same < 0.5,
            server_look_due=same < 1.0 - STALE,
            device_look_due=same >= 0.5
            and share < ENOUGH_SHARE
            and at_best >= WORTH_A_LOOK
            and now_s - looked_s > DEVICE_PAUSE_S * looks,
        )

    def _same(self, now_s: float, *, sees: bool) -> float:
        """Probability that the scene is still the one that the server saw."""
        assert self._known is not None  # noqa: S101 - asked by the caller
        age_s = max(now_s - self._known.at_s, 0.0)
        # Between looks a change is seen by none; between the server's looks, one that the device
        # would not notice.
        unseen_s = max(now_s - max(self._compared_s, self._known.at_s), 0.0)
        alike = ALIKE_SEEN if sees else ALIKE_EMPTY
        unnoticed_s = max(age_s - unseen_s, 0.0)
        return (1.0 - self._doubt) * math.exp(-(unnoticed_s * alike + unseen_s) / SCENE_S)

    def _share(self, heights: tuple[float, ...], kept: float) -> tuple[float, float, float]:
        """The device's share of faces that the server saw.

        Returns:
            The share; the same if the next looks went well; how many looks there were at those
            faces that have had the fewest.
        """
        if not heights:
            return 1.0, 1.0, 0.0
        share = at_best = 0.0
        least = math.inf
        for group in self._groups(heights):
            mean, looks = self._recall(group, kept)
            share += mean * group.faces
            if mean > 0.0:  # not below the device's sight
                seen = mean * (TABLE_LOOKS + looks) + GOOD_LOOKS
                at_best += seen / (TABLE_LOOKS + looks + GOOD_LOOKS) * group.faces
            least = min(least, looks)
        return share / len(heights), at_best / len(heights), least

    def _kept_share(self, now_s: float) -> float:
        """How much of `_found` still counts."""
        return float(0.5 ** (max(now_s - self._counted_s, 0.0) / FORGET_S))

    def _groups(self, heights: tuple[float, ...]) -> tuple[_Group, ...]:
        """The faces of a look by what the tables say of them: a crowd has a few such groups.

        A camera asks about the same look with every frame, so the last answer is kept.
        """
        asked, known = (heights, self.device, self.server), self._grouped
        if len(known[0]) == len(asked) and all(map(operator.is_, known[0], asked)):
            return known[1]
        counts = Counter((self._step(height), self._by_table(height)) for height in heights)
        groups = tuple(_Group(*key, faces) for key, faces in counts.items())
        self._grouped = asked, groups
        return groups

    def _by_table(self, height: float) -> float:
        assert self.device is not None  # noqa: S101 - asked by the callers
        by_server = 1.0 if self.server is None else recall_at(self.server, height)
        # Of the faces that the server finds: what it misses is mostly missed by the device, too.
        return min(recall_at(self.device, height) / max(by_server, 0.05), 1.0)

    def _recall(self, group: _Group, kept: float) -> tuple[float, float]:
        """The device's recall of a face that the server saw, and the looks behind it."""
        looks, found = self._found.get(group.step, (0.0, 0.0))
        looks, found = looks * kept, found * kept
        return (TABLE_LOOKS * group.by_table + found) / (TABLE_LOOKS + looks), looks

    def _step(self, height: float) -> int:
        assert self.device is not None  # noqa: S101 - asked by the callers
        return bisect_right(self.device, (height, math.inf))

    def _compare(self, look: _Look) -> None:
        """Take in what the device found of what the server had seen."""
        if self.device is None or self._known is None:
            return
        heights = self._known.heights
        is_found, surplus = _matched(heights, look.heights)
        if look.frame != self._known.frame:
            unseen_s = look.at_s - self._compared_s
            self._doubt = self._doubted(self._doubt, unseen_s, look, sum(is_found), surplus)
        else:  # the scene is known; whether these are the faces that were found is not
            unseen_s = look.at_s - self._counted_s
            self._others = self._doubted(self._others, unseen_s, look, sum(is_found), 0)
            if self._others >= 0.5:
                self._found.clear()
                self._others = 0.0
        self._compared_s = max(self._compared_s, look.at_s)
        certainty = 1.0 - self._doubt
        if certainty < 0.5:
            return
        kept, self._counted_s = self._kept_share(look.at_s), max(look.at_s, self._counted_s)
        for counts in self._found.values():
            counts[:] = counts[0] * kept, counts[1] * kept
        steps: dict[int, list[bool]] = {}
        for height, found in zip(heights, is_found, strict=True):
            steps.setdefault(self._step(height), []).append(found)
        for step, each in steps.items():
            counts = self._found.setdefault(step, [0.0, 0.0])
            keep = min(1.0, MOST_LOOKS / (counts[0] + certainty))
            counts[0] = (counts[0] + certainty) * keep
            counts[1] = (counts[1] + certainty * sum(each) / len(each)) * keep

    def _doubted(
        self, before: float, unseen_s: float, look: _Look, found: int, surplus: int
    ) -> float:
        """Probability of other faces after a look that found `found` of the known ones, and more.

        It was `before` at the look that came `unseen_s` earlier.
        """
        assert self._known is not None  # noqa: S101 - asked by the caller
        mean = spread = 0.0
        kept = self._kept_share(look.at_s)
        for group in self._groups(self._known.heights):
            recall, _ = self._recall(group, kept)
            mean += recall * group.faces
            spread += recall * (1.0 - recall) * group.faces
        surprise = (found - mean) ** 2 / max(spread, SPREAD_FLOOR)
        same = max(math.exp(-0.5 * surprise), 1e-6) * UNEXPLAINED ** min(surplus, 3)
        change = 1.0 - math.exp(-max(unseen_s, 0.0) / SCENE_S)
        doubt = before + (1.0 - before) * change
        other = doubt * OTHER_SCENE
        return other / (other + (1.0 - doubt) * same)


def _kept(heights: Iterable[float]) -> tuple[float, ...]:
    """Usable heights, the highest first."""
    usable = (height for height in heights if math.isfinite(height) and height > 0.0)
    return tuple(sorted(usable, reverse=True)[:MOST_FACES])


def _matched(heights: tuple[float, ...], found: tuple[float, ...]) -> tuple[list[bool], int]:
    """Whether each of `heights` is among `found`, and how many of `found` are none of them."""
    is_found = [False] * len(heights)
    at = other = surplus = 0
    while at < len(heights) and other < len(found):
        if found[other] > heights[at] * ALIKE_RATIO:
            surplus, other = surplus + 1, other + 1
        else:
            if heights[at] <= found[other] * ALIKE_RATIO:
                is_found[at], other = True, other + 1
            at += 1
    return is_found, surplus + len(found) - other


def _is_alike(before: tuple[float, ...], after: tuple[float, ...]) -> bool:
    """Whether two looks of the server may be at one scene."""
    is_found, _ = _matched(before, after)
    return sum(is_found) >= 0.5 * max(len(before), len(after))
