"""URDF: links, joints between them, and joints that mimic others."""

from __future__ import annotations

import numpy as np

from action_heads.kinematics.markup import Document, Element, Kinds
from action_heads.kinematics.skeleton import Coupling, Link, Mover, Skeleton, turn, unit

MOVES = {"revolute": "turns", "continuous": "turns", "prismatic": "slides"}
TYPES = (*MOVES, "fixed", "floating", "planar")
# Others of their children and attributes are passed over.
ELEMENTS: Kinds = {
    "robot": (("link", "joint", "material", "gazebo", "transmission", "sensor", "group"), ("name", "version")),
    "link": (("visual", "collision", "inertial", "contact", "self_collision_checking"), ("name", "type")),
    "joint": (
        ("parent", "child", "origin", "axis", "limit", "mimic", "dynamics", "calibration", "safety_controller"),
        ("name", "type"),
    ),
    "parent": ((), ("link",)),
    "child": ((), ("link",)),
    "origin": ((), ("xyz", "rpy", "quat_xyzw")),
    "axis": ((), ("xyz",)),
    "limit": ((), ("lower", "upper", "velocity", "effort", "acceleration", "deceleration", "jerk", "drive_velocity")),
    "mimic": ((), ("joint", "multiplier", "offset")),
}
MOST_LINKS = 2000
SLOWEST = 1e-4  # rad/s, m/s
ANY = 1e300  # of limits: what a joint without end is given, such as 1e16, is read as none


def read_urdf(document: Document) -> Skeleton:
    """Return the links of a <robot> in an order in which parents come first."""
    robot = document.root
    if robot.tag != "robot":
        raise robot.error("a URDF file begins with <robot>; give an MJCF file the ending .xml")
    for element in robot.walk():
        if element.tag.startswith("xacro:"):
            raise element.error("this is xacro, not URDF: expand it first, `xacro arm.urdf.xacro > arm.urdf`")
    joined = [part for joint in robot.all("joint") for part in joint.children]
    for element in (robot, *robot.all("link", "joint"), *joined):
        if element.tag in ELEMENTS:
            element.check(ELEMENTS)
    count = len(robot.all("link"))
    if count > MOST_LINKS:
        raise robot.error(f"it has {count} links; at most {MOST_LINKS} are read: give the robot's file alone")
    elements = _named(robot.all("link"))
    if not elements:
        raise robot.error("it has no <link>; give a file with the robot itself")
    joints = _named(robot.all("joint"))
    under: dict[str, Element] = {}  # a link -> the joint that carries it
    carries: dict[str, list[str]] = {name: [] for name in elements}
    for joint in joints.values():
        parent, child = (_end(joint, tag, elements) for tag in ("parent", "child"))
        if child in under:
            raise joint.error(f"link {child!r} is carried by joint {under[child].attributes['name']!r} already")
        under[child] = joint
        carries[parent].append(child)
    roots = [name for name in elements if name not in under]
    if len(roots) != 1:
        found = ", ".join(repr(name) for name in roots[:10]) or "none"
        raise robot.error(
            f"expected one link that no joint carries, the root; found {found}: join them by fixed joints"
        )
    skeleton, waiting = Skeleton([]), [(roots[0], None)]
    while waiting:
        name, parent = waiting.pop()
        joint = under.get(name)
        link = Link(name, parent, elements[name], meshes=_meshes(elements[name]))
        if joint is not None:
            link.offset, link.axes = _origin(joint)
            link.movers = _movers(joint)
            skeleton.frames[joint.attributes["name"]] = (len(skeleton.links), np.zeros(3), np.eye(3))
            if coupling := _mimic(joint, joints):
                skeleton.couplings[coupling.joint] = coupling
        waiting += [(child, len(skeleton.links)) for child in reversed(carries[name])]
        skeleton.links.append(link)
    if len(skeleton.links) != len(elements):
        lost = sorted(set(elements) - {link.name for link in skeleton.links})[0]
        raise elements[lost].error("it carries itself, by joints in a circle: cut the circle open")
    return skeleton


def _named(found: list[Element]) -> dict[str, Element]:
    by_name: dict[str, Element] = {}
    for element in found:
        name = element.text("name")
        if name in by_name:
            raise element.error(f"line {by_name[name].line} has another {element.tag} of this name. Rename one.")
        by_name[name] = element
    return by_name


def _end(joint: Element, tag: str, links: dict[str, Element]) -> str:
    end = joint.one(tag)
    if end is None:
        raise joint.error(f"it has no <{tag} link=...>; expected one")
    name = end.text("link")
    if name not in links:
        raise joint.error(f"its {tag} {name!r} is no link of this file")
    return name


def _origin(joint: Element) -> tuple[np.ndarray, np.ndarray]:
    origin = joint.one("origin")
    if origin is None:
        return np.zeros(3), np.eye(3)
    if "quat_xyzw" in origin.attributes:
        raise origin.error("quat_xyzw is not read; give the rotation as rpy")
    roll, pitch, yaw = origin.numbers("rpy", 3) or (0.0, 0.0, 0.0)
    x, y, z = np.eye(3)
    return np.array(origin.numbers("xyz", 3, 100) or (0.0, 0.0, 0.0)), turn(z, yaw) @ turn(y, pitch) @ turn(x, roll)


def _movers(joint: Element) -> list[Mover]:
    kind = joint.choice("type", TYPES, "")
    if kind == "fixed":
        return []
    mover = Mover(joint.attributes["name"], MOVES.get(kind, kind), joint)
    axis, limit = joint.one("axis"), joint.one("limit")
    if kind in MOVES:
        given = [1.0, 0.0, 0.0] if axis is None else axis.numbers("xyz", 3)
        if axis is not None and given is None:
            raise axis.error("it has no xyz; give it a direction, such as 0 0 1")
        mover.axis = unit(given or [], joint, "axis")
    if limit is not None:
        mover.speed = limit.number("velocity", 0.0, ANY) or None
        if mover.speed is not None and mover.speed < SLOWEST:
            raise limit.error(f"velocity={mover.speed:g} is negative or no speed at all; give the largest of {joint}")
    if kind in ("revolute", "prismatic"):
        if limit is None:
            raise joint.error("it has no <limit>; give it lower and upper, or make it continuous or fixed")
        mover.limits = (limit.number("lower", 0.0, ANY), limit.number("upper", 0.0, ANY))
    return [mover]


def _mimic(joint: Element, joints: dict[str, Element]) -> Coupling | None:
    mimic = joint.one("mimic")
    if mimic is None or joint.attributes.get("type") == "fixed":
        return None
    other = mimic.text("joint")
    if other not in joints:
        raise joint.error(f"it mimics {other!r}, which is no joint of this file")
    scale, shift = mimic.number("multiplier", 1.0), mimic.number("offset", 0.0)
    constant = scale == 0 or joints[other].attributes.get("type") == "fixed"
    return Coupling(joint.attributes["name"], None if constant else other, scale, shift, joint)


def _meshes(link: Element) -> tuple[str, ...]:
    return tuple(each.attributes.get("filename", "").rsplit("/", 1)[-1] for each in link.walk() if each.tag == "mesh")
