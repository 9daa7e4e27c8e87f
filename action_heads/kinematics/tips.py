"""Find the end of an arm: a link that the user names, or else the only end that is not a finger.

Fingers and jaws are recognised by their names, as pairs, and by coupled joints. What only looks like one is not
decided here: the error says which tip takes it for a joint of the arm, and which for a jaw.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from action_heads.kinematics.skeleton import Mover, Skeleton

FINGER = 0.15  # m: a sliding joint with a longer way is none of a finger
JAW = 4.0  # rad: a joint that turns further is none of a jaw
OPENS = 2.7, 0.3  # rad: a jaw turns at most so far, and one of its limits is about zero, where it is closed
# What parts of a name begin with, or hold. Names are cut at capitals and at all that is no letter.
PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
WORDS = re.compile(r"jaw|finger|knuckle|claw|thumb|pincer|phalan")
GRIPPER = re.compile(r"grip")
OPENING = re.compile(r"^(mov|open|clos)")
STANDING = re.compile(r"^(fix|stat|base|palm|mount|frame|tcp)")
WRIST = re.compile(r"^(wrist|roll|pitch|yaw|rot|rota\w+|twist|pan|tilt|swivel|flex|elbow)$")
LISTED = 20  # ends in an error

Frame = tuple[int, str, np.ndarray, np.ndarray]  # of a link: its number, the name, offset (3,) and axes (3, 3)


def find_tip(skeleton: Skeleton, tip: str | None, path: Path) -> Frame:
    """Return the link that carries the arm's end, and the end's frame in it."""
    at_link = np.zeros(3), np.eye(3)
    if tip is not None:
        # A joint or site may have the name of a link: a tip is a link before all else.
        for number, link in enumerate(skeleton.links):
            if link.name == tip:
                return number, tip, *at_link
        if tip not in skeleton.frames:
            raise ValueError(
                f"{path} has no frame {tip!r}; its links are {_listed([one.name for one in skeleton.links])}"
            )
        number, *frame = skeleton.frames[tip]
        return number, tip, frame[0], frame[1]
    fingers = _Fingers(skeleton)
    ends = fingers.ends()
    if not ends:
        raise ValueError(f"{path} has no arm: {fingers.why_none()}")
    if len(ends) > 1:
        listed = _listed(sorted(f"{skeleton.links[end].name} ({len(skeleton.movers(end))} joints)" for end in ends))
        raise ValueError(f"{path} ends in {len(ends)} links: {listed}. Name the one to move, as in ?tip=NAME")
    if doubt := fingers.doubt(ends[0]):
        mover, why, before = doubt
        raise ValueError(
            f"{path}, line {mover.element.line}: joint {mover.name!r}, the last one, may be a jaw: {why}. If it is a "
            f"joint of the arm, say ?tip={skeleton.links[ends[0]].name}; if it is a jaw, ?tip={before}"
        )
    return ends[0], skeleton.links[ends[0]].name, *at_link


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name if len(name) <= 60 else f"{name[:60]}..." for name in names[:LISTED]) + more


class _Fingers:
    """Find the links that only fingers carry."""

    def __init__(self, skeleton: Skeleton):
        self.skeleton = skeleton
        count = len(skeleton.links)
        self.children: list[list[int]] = [[] for _ in range(count)]
        for number, link in enumerate(skeleton.links):
            if link.parent is not None:
                self.children[link.parent].append(number)
        # The nearest link that moves, itself or above: links that are fixed to each other have the same.
        self.moved: list[int] = []
        for number, link in enumerate(skeleton.links):
            still = link.parent is not None and not link.movers
            self.moved.append(self.moved[link.parent] if still and link.parent is not None else number)
        self.paired = self._pairs() | self._coupled()
        self.are = self._fingers()

    def _pairs(self) -> set[int]:
        """Return the links that slide a short way and are not the only ones that do so on what carries them."""
        on: dict[int, list[int]] = {}
        for number, link in enumerate(self.skeleton.links):
            if link.parent is not None and link.movers and all(map(_short_slide, link.movers)):
                on.setdefault(self.moved[link.parent], []).append(number)
        return {number for numbers in on.values() if len(numbers) > 1 for number in numbers}

    def _coupled(self) -> set[int]:
        """Return the links on one link whose joints are coupled, and those that a loop holds to one of them."""
        skeleton, found = self.skeleton, set[int]()
        where = {mover.name: number for number, link in enumerate(skeleton.links) for mover in link.movers}
        for coupling in skeleton.couplings.values():
            if coupling.other is not None:
                first, second = where[coupling.joint], where[coupling.other]
                above = [skeleton.links[link].parent for link in (first, second)]
                if (
                    first != second
                    and None not in above
                    and len({self.moved[at] for at in above if at is not None}) == 1
                ):
                    found |= {first, second}
        known = found | {n for n, link in enumerate(skeleton.links) if any(self._named(n, m) for m in link.movers)}
        for loop in skeleton.loops:
            if loop.first is not None and loop.second is not None:
                one, other = set(skeleton.up(loop.first)), set(skeleton.up(loop.second))
                sides = {link for link in one ^ other if skeleton.links[link].movers}
                if one & other and sides & known:
                    found |= sides
        return found

    def _fingers(self) -> set[int]:
        """Return the links moved by a finger's joint on which nothing but fingers hangs."""
        fingers: set[int] = set()
        only = [True] * len(self.skeleton.links)  # whether all joints below belong to fingers
        for number in reversed(range(len(self.skeleton.links))):
            link = self.skeleton.links[number]
            only[number] = all(only[child] for child in self.children[number])
            if link.movers:
                finger = only[number] and (number in self.paired or all(self._named(number, m) for m in link.movers))
                only[number] = finger
                if finger:
                    fingers.add(number)
        return fingers

    def _named(self, number: int, mover: Mover) -> bool:
        """Return whether the names of a joint, its class or its link say that it belongs to a finger or a jaw."""
        link = self.skeleton.links[number].name
        if mover.kind not in ("turns", "slides") or (mover.kind == "slides" and not _short_slide(mover)):
            return False
        if _has(WRIST, mover.name):
            return False
        if any(_has(WORDS, name) and not _has(STANDING, name) for name in (mover.name, *mover.hints, link)):
            return True
        gripper = any(_has(GRIPPER, name) and not _has(STANDING, name) for name in (mover.name, *mover.hints))
        return _way(mover) < JAW and (gripper or (_has(GRIPPER, link) and _has(OPENING, link)))

    def ends(self) -> list[int]:
        """Return the links that joints of an arm carry and from which nothing but fingers goes on."""
        behind: set[int] = set()
        for number, link in enumerate(self.skeleton.links):
            if number in self.are or link.parent in behind:
                behind.add(number)
        kept = [number for number in range(len(self.skeleton.links)) if number not in behind]
        ends = [number for number in kept if all(child in behind for child in self.children[number])]
        moved = [end for end in ends if self.skeleton.movers(end) and not self.skeleton.links[end].aside]
        serial = [end for end in moved if all(mover.kind in ("turns", "slides") for mover in self.skeleton.movers(end))]
        return serial or moved[:1]

    def why_none(self) -> str:
        if self.are:
            return "all its joints are of fingers. Name a link that one of them moves, as in ?tip=NAME"
        return "it has no joint that moves anything. Give the robot's own file"

    def doubt(self, end: int) -> tuple[Mover, str, str] | None:
        """Return the last joint, why it may be a jaw, and the link before it."""
        last = self.moved[end]
        link = self.skeleton.links[last]
        if link.parent is None or len(self.skeleton.movers(end)) < 2 or not link.movers:
            return None
        carried = [n for n in range(len(self.skeleton.links)) if self.moved[n] == last]
        if any(child in self.are for number in carried for child in self.children[number]):
            return None  # what carries fingers is a hand
        mover, before = link.movers[-1], self.skeleton.links[link.parent].name
        names = [mover.name, *mover.hints, link.name, *link.meshes]
        # A whole gripper may be fixed to a wrist; what is called a jaw or a finger there is more than that.
        names += [name for name in (self.skeleton.links[n].name for n in carried) if _has(WORDS, name)]
        telling = next((n for n in names if (_has(GRIPPER, n) or _has(WORDS, n)) and not _has(STANDING, n)), None)
        if _short_slide(mover):
            return mover, f"it slides {_way(mover):.2g} m", before
        if mover.kind != "turns" or mover.limits is None or _has(WRIST, mover.name):
            return None
        if telling is not None and _way(mover) < JAW:
            return mover, f"the name {telling[:60]!r} says so, and it turns {_way(mover):.2g} rad", before
        most, closed = OPENS
        low, high = mover.limits
        near, far = sorted((abs(low), abs(high)))
        if len(self.skeleton.movers(end)) >= 4 and _way(mover) <= most and near <= min(closed, far / 4):
            return mover, f"it turns from {low:.2g} to {high:.2g} rad, to one side alone", before
        return None


def _has(words: re.Pattern[str], name: str) -> bool:
    return any(words.search(part.lower()) for part in PARTS.findall(name))


def _short_slide(mover: Mover) -> bool:
    return mover.kind == "slides" and _way(mover) < FINGER


def _way(mover: Mover) -> float:
    return math.inf if mover.limits is None else mover.limits[1] - mover.limits[0]
