"""The kinematic content of a robot's file: links, the joints that move them, and couplings of joints.

Axes: 3 metres along x y z. Units: rad, m. Angles and axes are in the frame of the link that is moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from action_heads.kinematics.markup import Element


@dataclass
class Mover:
    """A joint: it turns its link about an axis, or slides it along one. What else it may do is named in `kind`."""

    name: str
    kind: str  # turns, slides, or what the file calls it
    element: Element
    axis: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))  # (3,) of length one
    anchor: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,) a point of the axis
    reference: float = 0.0  # the value at which the link stands where the file puts it
    limits: tuple[float, float] | None = None  # None: it has no end
    speed: float | None = None
    hints: tuple[str, ...] = ()  # other names that tell what it is


@dataclass
class Link:
    """A rigid body. It stands in its parent's frame by offset and axes, and its movers move it from there, in order."""

    name: str
    parent: int | None
    element: Element
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))  # (3,)
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))  # (3, 3)
    movers: list[Mover] = field(default_factory=list)
    meshes: tuple[str, ...] = ()
    aside: bool = False  # it is moved by a program (mocap), so it is no arm


@dataclass(frozen=True)
class Coupling:
    """A joint's value is `shift + scale * other's`, a constant without another; `trouble` is what this leaves out."""

    joint: str
    other: str | None
    scale: float
    shift: float
    element: Element
    trouble: str = ""


@dataclass(frozen=True)
class Loop:
    """Two links are held together in another way than by joints from the one to the other."""

    first: int | None  # None: the world
    second: int | None
    element: Element


@dataclass
class Skeleton:
    """All of a file. A link's parent stands before it."""

    links: list[Link]
    couplings: dict[str, Coupling] = field(default_factory=dict)  # by the joint that follows
    loops: list[Loop] = field(default_factory=list)
    # Frames fixed to a link that may be a tip too: name -> link, offset (3,), axes (3, 3)
    frames: dict[str, tuple[int, np.ndarray, np.ndarray]] = field(default_factory=dict)
    keyframes: list[tuple[str, Element, dict[str, float]]] = field(default_factory=list)

    def up(self, link: int) -> Iterator[int]:
        """Return the link and all that carry it, up to the root."""
        at: int | None = link
        while at is not None:
            yield at
            at = self.links[at].parent

    def chain(self, link: int) -> list[int]:
        return list(self.up(link))[::-1]

    def movers(self, link: int) -> list[Mover]:
        """Return the joints that move a link, from the root on."""
        return [mover for at in self.chain(link) for mover in self.links[at].movers]


def unit(vector: list[float] | np.ndarray, element: Element, what: str) -> np.ndarray:
    """Return a direction, which must be one."""
    length = float(np.linalg.norm(vector))
    if length < 1e-8:
        raise element.error(f"its {what} is zero; give it a direction, such as 0 0 1")
    return np.asarray(vector, float) / length


def turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about an axis (3,) of length one."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
