"""Small robots for the tests, random or written by hand."""

from __future__ import annotations

import random
import re
from pathlib import Path

LIMB = [
    ("0 0 1", "-2.6 2.6"),
    ("0 1 0", "-1.9 1.2"),
    ("0 1 0", "-2.4 0.9"),
    ("1 0 0", "-2.8 2.8"),
    ("0 1 0", "-1.7 1.7"),
]


def mjcf(*inside: str, names: str = "", head: str = '<compiler angle="radian"/>', tail: str = "") -> str:
    """Return an MJCF arm: joints `{names}1` to `{names}5`, bodies `{names}b1` to `{names}b5`, and then `inside`."""
    begin = "".join(
        f'<body name="{names}b{i}" pos="0.1 0 0.2"><joint name="{names}{i}" axis="{axis}" range="{limits}"/>'
        '<geom size="0.02"/>'
        for i, (axis, limits) in enumerate(LIMB, 1)
    )
    body = f'<body name="{names}root">{begin}{"".join(inside)}{"</body>" * 6}'
    return f"<mujoco>{head}<worldbody>{body}</worldbody>{tail}</mujoco>"


def finger(body: str, joint: str, limits: str, kind: str = "hinge", inside: str = "") -> str:
    """Return an MJCF body that is attached by one joint."""
    moved = f'<joint name="{joint}" type="{kind}" axis="0 1 0" range="{limits}"/>'
    return f'<body name="{body}" pos="0 0.02 0.1">{moved}<geom size="0.01"/>{inside}</body>'


def urdf(*extra: str) -> str:
    """Return a URDF arm with the same five joints `1` to `5` on links `b1` to `b5`."""
    parts = ['<link name="root"/>']
    for i, (axis, limits) in enumerate(LIMB, 1):
        lower, upper = limits.split()
        parts.append(f'<link name="b{i}"/>')
        parts.append(jointed(str(i), "root" if i == 1 else f"b{i - 1}", f"b{i}", axis, lower, upper))
    return f'<robot name="r">{"".join([*parts, *extra])}</robot>'


def jointed(
    name: str, parent: str, child: str, axis: str, lower: str, upper: str, kind: str = "revolute", inside: str = ""
) -> str:
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="0.1 0 0.2" rpy="0.1 0.2 -0.3"/><axis xyz="{axis}"/>'
        f'<limit lower="{lower}" upper="{upper}" velocity="2" effort="9"/>{inside}</joint>'
    )


def hanging(link: str, joint: str, lower: str, upper: str, kind: str = "revolute", inside: str = "", on: str = "b5"):
    """Return a URDF link that is attached by one joint."""
    return f'<link name="{link}"/>' + jointed(joint, on, link, "0 1 0", lower, upper, kind, inside)


def some_mjcf(seed: int, folder: Path) -> Path:
    """Write a random chain of bodies with every notation of MJCF, whose tip is the body `tip`."""
    rng = random.Random(seed)

    def numbers(n: int, most: float = 1.0) -> str:
        return " ".join(f"{rng.uniform(-most, most):.4f}" for _ in range(n))

    degrees = rng.random() < 0.5
    angle = 180.0 if degrees else 3.1

    def turned() -> str:
        return rng.choice(
            [
                "",
                f'quat="{numbers(4)}"',
                f'euler="{numbers(3, angle)}"',
                f'axisangle="{numbers(3)} {rng.uniform(-angle, angle):.3f}"',
                f'xyaxes="1 {numbers(2, 0.5)} {rng.uniform(-0.5, 0.5):.3f} 1 0.3"',
                f'zaxis="{numbers(3)}"',
            ]
        )

    def joint(i: int) -> str:
        slides = rng.random() < 0.25
        low, high = (-0.3, 0.4) if slides else (-angle * 0.6, angle * 0.8)
        parts = [f'<joint name="q{i}"', rng.choice(['class="special"', "", "", 'class="main"'])]
        parts.append('type="slide"' if slides else rng.choice(["", 'type="hinge"']))
        parts.append(rng.choice([f'axis="{numbers(3)}"', 'axis="0 0 2"', ""]))
        parts.append(f'range="{low} {high}"' if slides or rng.random() < 0.7 else "")
        parts += [rng.choice([f'pos="{numbers(3)}"', ""]), rng.choice([f'ref="{rng.uniform(0, high):.3f}"', ""])]
        return " ".join(parts) + "/>"

    text, count, bodies = "", 0, rng.randint(2, 6)
    for i in range(bodies):
        name, childclass = "tip" if i == bodies - 1 else f"body{i}", rng.choice(['childclass="other"', "", ""])
        joints = ""
        for _ in range(rng.choice([0, 1, 1, 2]) if i not in (0, bodies - 1) else int(i > 0)):
            one, count = joint(count), count + 1
            framed = rng.random() < 0.2
            joints += f'<frame pos="{numbers(3)}" {turned()}>{one}</frame>' if framed else one
        inner = f'<body name="{name}" pos="{numbers(3)}" {turned()} {childclass}>{joints}<geom size="0.1"/>'
        text += f"<frame {turned()}>{inner}" if rng.random() < 0.2 and i else inner
        text += "<!-- -->" if not text.endswith(">") else ""
    # Close what was opened, in the opposite order.
    opened = [part for part in re.findall(r"<(body|frame)\b|</(frame)>", text)]
    stack: list[str] = []
    for begins, ends in opened:
        stack.pop() if ends else stack.append(begins)
    text += "".join(f"</{tag}>" for tag in reversed(stack))
    sequence = "".join(rng.choice("xyzXYZ") for _ in range(3))
    compiler = f'<compiler angle="{"degree" if degrees else "radian"}" eulerseq="{sequence}"/>'
    limits = f'range="{-angle * 0.5} {angle * 0.5}"'
    default = (
        f'<default><joint axis="1 0 0"/><default class="other"><joint axis="0 1 0" {limits}/>'
        '<default class="special"><joint pos="0 0.1 0"/></default></default></default>'
    )
    path = folder / f"some{seed}.xml"
    path.write_text(f"<mujoco>{compiler}{default}<worldbody>{text}</worldbody></mujoco>")
    return path
