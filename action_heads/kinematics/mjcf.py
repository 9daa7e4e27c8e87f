"""A reader of MJCF: nested bodies, joints, default classes, included files and couplings of joints.

Elements have the meaning that MuJoCo's XML reference gives them. Those that need its compiler raise a ValueError.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from action_heads.kinematics.markup import Document, Element
from action_heads.kinematics.mjcf_words import ELEMENTS, GENERATORS, ORIENTATIONS, READ
from action_heads.kinematics.skeleton import Link, Mover, Skeleton, turn, unit

WIDTHS = {"turns": 1, "slides": 1, "ball joint": 4, "free joint": 7}  # values of a joint in a keyframe
KINDS = {"hinge": "turns", "slide": "slides", "ball": "ball joint", "free": "free joint"}
COUNTS = {"axis": 3, "range": 2, "ref": 1}  # values of these attributes in a default class
MOST_LINKS, MOST_CLASSES = 2000, 1000
ANY = 1e300  # bound for limits; placeholders such as 1e16 mean that a joint is unlimited
FAR = 100.0  # m

Frame = tuple[np.ndarray, np.ndarray]  # offset (3,) and axes (3, 3)
Visit = tuple[Iterator[Element], "int | None", str, Frame]  # remaining children, their link, default class and frame


class Reader:
    """A reader of one file: its compiler settings, default classes, and the skeleton read so far."""

    def __init__(self, document: Document):
        if document.root.tag != "mujoco":
            raise document.root.error("an MJCF file begins with <mujoco>. If this is URDF, rename the file to .urdf.")
        self.root, self.skeleton = document.root, Skeleton([])
        self.numbers: dict[str, int] = {}  # of links, by name
        self.joints = 0
        _include(document)
        self._check()
        self.to_radians, self.sequence, self.auto = math.pi / 180, "xyz", True
        for compiler in self.root.all("compiler"):
            self._compiler(compiler)
        self.classes: dict[str, dict[str, dict[str, str]]] = {"main": {}}
        for default in self.root.all("default"):
            if default.attributes.get("class", "main") != "main":
                raise default.error("the outermost default class must be main. Put other classes inside it.")
            self._default(default, "main")

    def _check(self) -> None:
        """Check names of elements and attributes. A joint in <equality> has other attributes than one in a body."""
        self.root.check(ELEMENTS)
        for section in self.root.all("worldbody", "default", "equality", "keyframe", "compiler"):
            for element in section.walk():
                if section.tag == "equality" and element.tag in ("joint", "tendon"):
                    element.check(ELEMENTS, "coupling")
                elif element.tag in (("joint", "default") if section.tag == "default" else ELEMENTS):
                    element.check(ELEMENTS)

    def _compiler(self, compiler: Element) -> None:
        if "angle" in compiler.attributes:
            degrees = compiler.choice("angle", ("degree", "radian"), "degree") == "degree"
            self.to_radians = math.pi / 180 if degrees else 1.0
        if compiler.choice("coordinate", ("local", "global"), "local") == "global":
            raise compiler.error(
                "global coordinates are not supported, nor by MuJoCo since 2.3.4. Convert it with an older MuJoCo."
            )
        self.auto = compiler.choice("autolimits", ("true", "false"), str(self.auto).lower()) == "true"
        self.sequence = compiler.attributes.get("eulerseq", self.sequence)
        if len(self.sequence) != 3 or not set(self.sequence) <= set("xyzXYZ"):
            raise compiler.error(f"eulerseq={self.sequence[:20]!r} is unknown; expected three of x y z X Y Z.")

    def _default(self, default: Element, name: str) -> None:
        waiting = [(default, name)]
        while waiting:
            element, name = waiting.pop()
            for child in filter(None, map(element.one, READ)):
                self._placement(child)
                for key, count in COUNTS.items():
                    child.numbers(key, count, ANY)
                given = {key: child.attributes[key] for key in READ[child.tag] if key in child.attributes}
                self.classes[name][child.tag] = _over(self.classes[name].get(child.tag, {}), given)
            for child in element.all("default"):
                inner = child.text("class")
                if inner in self.classes or len(self.classes) == MOST_CLASSES:
                    raise child.error(
                        f"expected at most {MOST_CLASSES} default classes with different names. Rename or remove it."
                    )
                self.classes[inner] = {tag: dict(known) for tag, known in self.classes[name].items()}
                waiting.append((child, inner))

    def merged(self, element: Element, childclass: str, tag: str | None = None) -> Element:
        """Return an element with the defaults of its class."""
        name = self._class(element, childclass, "class")
        full = _over(self.classes[name].get(tag or element.tag, {}), element.attributes)
        return Element(element.tag, full, element.path, element.line)

    def _class(self, element: Element, childclass: str, attribute: str = "childclass") -> str:
        name = element.attributes.get(attribute, childclass)
        if name not in self.classes:
            raise element.error(f"there is no default class {name[:60]!r}. Define it, or give the file that does.")
        return name

    def bodies(self) -> None:
        """Read all bodies depth first, which is the order of a keyframe's values."""
        at_rest = (np.zeros(3), np.eye(3))
        for world in self.root.all("worldbody"):
            stack: list[Visit] = [(iter(world.children), None, "main", at_rest)]
            while stack:
                children, link, childclass, frame = stack[-1]
                child = next(children, None)
                if child is None:
                    stack.pop()
                elif child.tag == "body":
                    stack.append(
                        (iter(child.children), self._body(child, link, frame), self._class(child, childclass), at_rest)
                    )
                elif child.tag == "frame":
                    inner = self._class(child, childclass)
                    stack.append((iter(child.children), link, inner, _within(frame, self._placement(child))))
                else:
                    self._part(child, link, childclass, frame)

    def _body(self, body: Element, parent: int | None, frame: Frame) -> int:
        name = body.attributes.get("name") or f"unnamed body {len(self.numbers) + 1}"
        if name == "world" or name in self.numbers:
            raise body.error("there is another body of this name. Rename one of them.")
        if len(self.numbers) == MOST_LINKS:
            raise body.error(f"the file has more than {MOST_LINKS} bodies. Give the robot's own file.")
        offset, axes = _within(frame, self._placement(body))
        aside = body.choice("mocap", ("true", "false"), "false") == "true"
        self.numbers[name] = len(self.skeleton.links)
        self.skeleton.links.append(Link(name, parent, body, offset, axes, aside=aside))
        return self.numbers[name]

    def _part(self, part: Element, link: int | None, childclass: str, frame: Frame) -> None:
        if part.tag in GENERATORS and (part.tag != "replicate" or any(e.tag == "body" for e in part.walk())):
            raise part.error(
                f"<{part.tag}> creates bodies when MuJoCo compiles the file, which is not supported. Give the file "
                "that mujoco.mj_saveLastXML writes."
            )
        if part.tag in ("joint", "freejoint"):
            if link is None:
                raise part.error("the world cannot have a joint. Put the joint into a body.")
            merged = self.merged(part, childclass) if part.tag == "joint" else part
            self.skeleton.links[link].movers.append(self._mover(merged, frame))
        elif part.tag == "site" and link is not None and "name" in part.attributes:
            offset, axes = _within(frame, self._placement(self.merged(part, childclass)))
            self.skeleton.frames[part.attributes["name"]] = (link, offset, axes)
        elif part.tag == "geom" and link is not None and "mesh" in part.attributes:
            self.skeleton.links[link].meshes += (part.attributes["mesh"],)

    def _mover(self, joint: Element, frame: Frame) -> Mover:
        kind = "free joint"
        if joint.tag == "joint":
            kind = KINDS[joint.choice("type", tuple(KINDS), "hinge")]
        self.joints += 1
        name = joint.attributes.get("name") or f"unnamed joint {self.joints}"
        mover = Mover(name, kind, joint, hints=(joint.attributes.get("class", ""),))
        if WIDTHS[kind] > 1:
            return mover
        offset, axes = frame
        scale = self.to_radians if kind == "turns" else 1.0
        mover.axis = axes @ unit(joint.numbers("axis", 3) or [0.0, 0.0, 1.0], joint, "axis")
        mover.anchor = offset + axes @ np.array(joint.numbers("pos", 3, FAR) or [0.0, 0.0, 0.0])
        mover.reference = scale * joint.number("ref", 0.0)
        limited, limits = joint.choice("limited", ("auto", "true", "false"), "auto"), joint.numbers("range", 2, ANY)
        if limited == "auto" and limits is not None and not self.auto:
            raise joint.error('it has a range, but autolimits is false. Add limited="true" or limited="false".')
        # In MuJoCo, (0, 0) means that there is no range.
        if limited == "true" or (limited == "auto" and limits is not None and limits != [0.0, 0.0]):
            low, high = limits or (0.0, 0.0)
            mover.limits = (scale * low, scale * high)
        return mover

    def _placement(self, element: Element) -> Frame:
        """Return the position (3,) and axes (3, 3) of an element in its parent's frame."""
        given = [name for name in ORIENTATIONS if name in element.attributes]
        if len(given) > 1:
            raise element.error(f"it has {' and '.join(given)}; expected one of them.")
        offset = np.array(element.numbers("pos", 3, FAR) or [0.0, 0.0, 0.0])
        return offset, self._orientation(element, given[0]) if given else np.eye(3)

    def _orientation(self, element: Element, given: str) -> np.ndarray:
        values = element.numbers(given, {"quat": 4, "axisangle": 4, "euler": 3, "xyaxes": 6, "zaxis": 3}[given]) or []
        if given == "quat":
            w, *vector = unit(values, element, "quat")
            size = float(np.linalg.norm(vector))
            return turn(np.asarray(vector) / size, 2 * math.atan2(size, w)) if size > 1e-12 else np.eye(3)
        if given == "axisangle":
            return turn(unit(values[:3], element, "axis"), self.to_radians * values[3])
        if given == "euler":
            axes = np.eye(3)
            for letter, angle in zip(self.sequence, values, strict=True):
                one = turn(np.eye(3)["xyz".index(letter.lower())], self.to_radians * angle)
                axes = axes @ one if letter.islower() else one @ axes
            return axes
        if given == "xyaxes":
            x = unit(values[:3], element, "x axis")
            y = unit(values[3:] - x * (x @ values[3:]), element, "y axis")
            return np.stack([x, y, np.cross(x, y)], axis=1)
        z = unit(values, element, "z axis")
        across = np.array([-z[1], z[0], 0.0])  # axis of the shortest rotation from the z axis to `z`
        size = float(np.linalg.norm(across))
        if size < 1e-10:
            return np.eye(3) if z[2] > 0 else turn(np.array([1.0, 0.0, 0.0]), math.pi)
        return turn(across / size, math.atan2(size, z[2]))


def read_mjcf(document: Document) -> Skeleton:
    """Read all bodies of a <mujoco> element, in MuJoCo's order."""
    from action_heads.kinematics.mjcf_couplings import read_couplings

    reader = Reader(document)
    reader.bodies()
    movers: dict[str, Mover] = {}
    for mover in (mover for link in reader.skeleton.links for mover in link.movers):
        if mover.name in movers:
            other = movers[mover.name].element.line
            raise mover.element.error(f"line {other} has another joint of this name. Rename one of them.")
        movers[mover.name] = mover
    read_couplings(reader, movers)
    _keyframes(reader.root, reader.skeleton, movers.values())
    return reader.skeleton


def _over(defaults: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """Merge an element's attributes with those of its class. An own orientation replaces any form in the class."""
    turned = any(name in own for name in ORIENTATIONS)
    return {name: value for name, value in defaults.items() if not (turned and name in ORIENTATIONS)} | own


def _within(outer: Frame, inner: Frame) -> Frame:
    return outer[0] + outer[1] @ inner[0], outer[1] @ inner[1]


def _include(document: Document) -> None:
    """Replace every <include> by the content of its file."""
    waiting = [document.root]
    while waiting:
        element = waiting.pop()
        while any(child.tag == "include" for child in element.children):
            children: list[Element] = []
            for child in element.children:
                children += _included(document, child, element) if child.tag == "include" else [child]
            element.children = children
        waiting += element.children


def _included(document: Document, include: Element, within: Element) -> list[Element]:
    name = include.text("file")[:1000]
    beside = [Path(folder) / name for folder in (document.path.parent, include.path.parent)]
    found = next((path for path in beside if os.path.exists(path)), None)
    if found is None and within.tag in ("mujoco", "asset", "actuator", "sensor", "keyframe", "contact", "tendon"):
        warnings.warn(
            f"{include.path}, line {include.line}: the included file {name} is missing. The arm is read without its "
            "content, such as keyframes or defaults.",
            stacklevel=2,
        )
        return []
    if found is None:
        raise include.error(f"it includes {name}, which is not in {document.path.parent}. Put it there.")
    if found.resolve() in document.read_already:
        raise include.error(f"it includes {name} again, but each file can be included only once.")
    if not found.is_file():
        raise include.error(f"it includes {name}, which is not a regular file. Give an MJCF file.")
    return document.parse(found).children


def _keyframes(root: Element, skeleton: Skeleton, movers: Iterable[Mover]) -> None:
    """Read the keyframes that give a posture."""
    movers = list(movers)
    count = sum(WIDTHS[mover.kind] for mover in movers)
    for key in (key for keyframe in root.all("keyframe") for key in keyframe.all("key")):
        if "qpos" not in key.attributes:
            continue
        found = len(key.attributes["qpos"].split())
        if found != count:
            raise key.error(f"its qpos has {found} numbers, but the joints of the file have {count}.")
        values, posture, at = key.numbers("qpos", count, ANY) or [], {}, 0
        for mover in movers:
            if WIDTHS[mover.kind] == 1:
                posture[mover.name] = values[at]
            at += WIDTHS[mover.kind]
        name = key.attributes.get("name", "")
        if name and any(name == known for known, _, _ in skeleton.keyframes):
            raise key.error("there is another keyframe of this name. Rename one of them.")
        skeleton.keyframes.append((name, key, posture))
