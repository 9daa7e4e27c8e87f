"""A reader of MJCF's <equality>: couplings of joints, and loops that the tree of bodies cannot express."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action_heads.kinematics.markup import Element
from action_heads.kinematics.skeleton import Coupling, Loop, Mover

if TYPE_CHECKING:
    from action_heads.kinematics.mjcf import Reader


def read_couplings(reader: Reader, movers: dict[str, Mover]) -> None:
    """Read couplings of joints, and loops, into the reader's skeleton."""
    for element in (child for equality in reader.root.all("equality") for child in equality.children):
        element = reader.merged(element, "main", "equality")
        if element.choice("active", ("true", "false"), "true") == "false":
            continue
        if element.tag == "joint":
            _couple(reader, _of_joints(element, movers))
        elif element.tag == "tendon":
            for joint in _of_tendons(reader.root, element):
                if joint in movers:
                    _couple(reader, Coupling(joint, None, 0.0, 0.0, element, "a tendon of constant length holds it"))
        elif element.tag in ("connect", "weld"):
            first, second = (_link(reader, element, end) for end in "12")
            reader.skeleton.loops.append(Loop(first, second, element))


def _couple(reader: Reader, coupling: Coupling) -> None:
    known = reader.skeleton.couplings.get(coupling.joint)
    if known is not None:
        coupling = Coupling(coupling.joint, None, 0.0, 0.0, coupling.element, "it is coupled twice")
    reader.skeleton.couplings[coupling.joint] = coupling


def _of_joints(element: Element, movers: dict[str, Mover]) -> Coupling:
    """Read the coupling joint1 - ref1 = a0 + a1 (joint2 - ref2) + ..."""
    follower, other = element.text("joint1"), element.attributes.get("joint2")
    for name in (follower, other):
        if name is not None and (name not in movers or movers[name].kind not in ("turns", "slides")):
            raise element.error(f"it couples {name!r}, which is not a hinge or slide joint of this file.")
    if follower == other:
        raise element.error(f"it couples {follower!r} to itself. Name another joint2.")
    given = element.numbers("polycoef", (1, 2, 3, 4, 5)) or []
    shift, scale, *higher = given + [0.0, 1.0, 0.0, 0.0, 0.0][len(given) :]
    if other is None:
        return Coupling(follower, None, 0.0, movers[follower].reference + shift, element)
    trouble = f"it follows {other!r} along a curve, not a straight line" if any(higher) else ""
    shift += movers[follower].reference - scale * movers[other].reference
    return Coupling(follower, other if scale else None, scale, shift, element, trouble)


def _of_tendons(root: Element, element: Element) -> set[str]:
    """Return the joints of the tendons that an <equality> <tendon> names."""
    names = {element.attributes.get("tendon1"), element.attributes.get("tendon2")}
    tendons = [each for section in root.all("tendon") for each in section.children]
    chosen = [each for each in tendons if each.attributes.get("name") in names]
    return {joint.attributes.get("joint", "") for tendon in chosen for joint in tendon.all("joint")}


def _link(reader: Reader, element: Element, end: str) -> int | None:
    """Return the link of body1 or site1, body2 or site2; None for the world."""
    body, site = element.attributes.get(f"body{end}"), element.attributes.get(f"site{end}")
    if body in (None, "world") and site is None:
        return None
    if site is not None:
        return reader.skeleton.frames[site][0] if site in reader.skeleton.frames else None
    if body not in reader.numbers:
        raise element.error(f"its body{end} {body!r} is not a body of this file.")
    return reader.numbers[body]
