"""Damage files of arms at random, from a seed, and count how reading them ends.

python tests/kinematics/arm_fuzz.py 10000    # files of each format
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from robots import finger, hanging, mjcf, some_mjcf, urdf

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.model import read_arm

SLOW = 2.0  # s of this process, whatever else the machine does: what takes longer hangs
VALUES = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1e308",
    "1e-320",
    "",
    " ",
    "0",
    "-0",
    "0 0 0",
    "1 2",
    "1_0",
    "0x10",
    "١",
    "1,5",
)
VALUES += (
    "true",
    "1e5",
    "9" * 400,
    "0" * 50 + "1",
    "x" * 3000,
    "\t1\t",
    "1 0 0 0 0 0 0",
    "${pi}",
    "b1",
    "root",
    "1",
    "b5",
)
INSERTS = (
    "<!-- -->",
    "<body>" * 300,
    "<link name='q'/>",
    "<body name='q'/>" * 3000,
    "<include file='arm.xml'/>",
    "<include file='/dev/zero'/>",
    "<include file='/'/>",
    "<include file='../../../etc/passwd'/>",
    "<joint name='q' type='free'/>",
    "<frame/>",
    "<default class='q'><joint axis='1 0 0'/></default>",
    "<equality><joint joint1='2' joint2='3'/></equality>",
    "<keyframe><key qpos='1 2 3'/></keyframe>",
    "<mimic joint='2'/>",
    "<compiler angle='degree'/>",
    "<replicate count='1000000000'><body><joint/></body></replicate>",
    "&lol;",
    "]]>",
    "\0",
)
HEADS = (
    '<!DOCTYPE a [<!ENTITY lol "' + "lol" * 99 + '">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///dev/zero">%p;]>',
    '<?xml version="1.0" encoding="rot13"?>',
    '<?xml version="1.0" encoding="utf-7"?>',
    '<?xml version="1.0" encoding="idna"?>',
    '<?xml version="1.0" encoding="hex"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="9.0"?>',
    "\ufeff",
    "\n" * 5000,
)


def sound(kind: str, rng: random.Random, folder: Path) -> str:
    """Return the text of a valid file."""
    jaw = rng.choice([("jaw", "gripper", "-0.1 1.7"), ("link6", "joint6", "-2 2.1")])
    if kind == "urdf":
        mimic = '<mimic joint="2" multiplier="-0.5" offset="0.1"/>'
        more = rng.choice(["", hanging(jaw[0], jaw[1], *jaw[2].split(), inside=rng.choice(["", mimic]))])
        return rng.choice([urdf(more), (Path(__file__).parent / "data" / "six.urdf").read_text()])
    key = '<keyframe><key name="home" qpos="0.1 0.2 -0.3 0.1 0.2 0.3"/></keyframe>'
    coupled = '<equality><joint joint1="3" joint2="2" polycoef="0.1 -0.5"/></equality>'
    made = mjcf(finger(*jaw), tail=rng.choice(["", key, coupled]))
    return rng.choice([made, some_mjcf(rng.randrange(10**6), folder).read_text()])


def damaged(text: str, rng: random.Random) -> bytes:
    """Return the bytes of a file after one to three random changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = rng.choice(ACCIDENTS)(text, rng)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.25 and data:
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([0, 1, 1])] = bytes([rng.randrange(256)])
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data) + 1)]
    return bytes(data)


def _span(pattern: str, text: str, rng: random.Random) -> tuple[int, int]:
    found = [match.span() for match in re.finditer(pattern, text)]
    return rng.choice(found) if found else (0, 0)


def _value(text: str, rng: random.Random) -> str:
    begin, end = _span(r'(?<==")[^"]*(?=")', text, rng)
    own = text[begin:end].split()
    if own and rng.random() < 0.5:
        own[rng.randrange(len(own))] = rng.choice(VALUES)
        return text[:begin] + " ".join(own) + text[end:]
    return text[:begin] + rng.choice(VALUES) + text[end:]


def _scaled(text: str, rng: random.Random) -> str:
    begin, end = _span(r"(?<=[ \"])-?\d+\.?\d*(?=[ \"])", text, rng)
    if begin == end:
        return text
    return f"{text[:begin]}{float(text[begin:end]) * rng.choice([-1, 0, 10, 57.3, 1e3, 1e9, 1e-9])}{text[end:]}"


def _attribute(text: str, rng: random.Random) -> str:
    begin, end = _span(r'\s[a-z_0-9]+="[^"]*"', text, rng)
    other = _span(r'\s[a-z_0-9]+="[^"]*"', text, rng)
    return rng.choice([text[:begin] + text[end:], text[: other[1]] + text[begin:end] + text[other[1] :]])


def _name(text: str, rng: random.Random) -> str:
    begin, end = _span(r"(?<=[ <])[a-z]{3,}(?=[ =/>])", text, rng)
    name = list(text[begin:end])
    if name:
        name[rng.randrange(len(name))] = rng.choice("abcxyz")
    return text[:begin] + "".join(name) + text[end:]


def _element(text: str, rng: random.Random) -> str:
    begin, end = _span(r"<[a-z][^<>]*/>", text, rng)
    to = _span(r">", text, rng)[1]
    part = text[begin:end]
    return rng.choice([text[:begin] + text[end:], text[:end] + part + text[end:], text[:to] + part + text[to:]])


def _moved(text: str, rng: random.Random) -> str:
    """Move a closing tag elsewhere, which changes the nesting."""
    begin, end = _span(r"</[a-z]+>", text, rng)
    rest, part = text[:begin] + text[end:], text[begin:end]
    to = _span(r">", rest, rng)[1]
    return rest[:to] + part + rest[to:]


def _insert(text: str, rng: random.Random) -> str:
    to = _span(r">", text, rng)[1]
    return text[:to] + rng.choice(INSERTS) + text[to:]


def _head(text: str, rng: random.Random) -> str:
    return rng.choice(HEADS) + re.sub(r"^<\?xml.*?\?>", "", text.lstrip())


ACCIDENTS = (_value, _value, _scaled, _attribute, _name, _element, _moved, _insert, _head)


def outcome(path: Path) -> tuple[str, str]:
    """Return the kind of outcome of reading a file, and the reason.

    "refused" is the documented error, "same" the result of MuJoCo or Pinocchio, "alone" a file that only they refuse.
    Anything else is a fault.
    """
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arm = read_arm(path)
    except ValueError as error:
        named = str(error).startswith(str(path.parent))
        result = ("refused", "") if named else ("raw", f"not named: {error}")
    except Exception as error:
        result = "raw", f"{type(error).__name__}: {error}"
    else:
        result = judged(arm, path)
    seconds = time.process_time() - began
    return result if seconds < SLOW else ("hang", f"{seconds:.1f} s")


def judged(arm: Arm, path: Path) -> tuple[str, str]:
    lower, upper, speed = (values.double() for values in (arm.lower, arm.upper, arm.velocity))
    sane = (lower < upper).all() and (speed > 0).all() and arm.within_limits(arm.home).all()
    joints = torch.lerp(lower, upper, torch.rand(2, len(arm), dtype=torch.float64))
    position, matrix = arm.forward(joints, arm.frame)
    eye = torch.eye(3, dtype=torch.float64)
    if not (sane and torch.isfinite(position).all() and torch.allclose(matrix @ matrix.mT, eye, atol=1e-6)):
        return "other", f"not an arm: {arm.lower}, {arm.upper}, {arm.home}, {position}"
    theirs = (_by_pinocchio if path.suffix == ".urdf" else _by_mujoco)(arm, path, joints)
    if isinstance(theirs, str):
        return ("other" if theirs.startswith("!") else "alone"), theirs
    off = max(np.abs(position.numpy() - theirs[0]).max(), np.abs(matrix.numpy() - theirs[1]).max())
    return ("same", "") if off < 1e-5 else ("other", f"off by {off:.3g}")


def _by_mujoco(arm: Arm, path: Path, joints: torch.Tensor) -> tuple[np.ndarray, np.ndarray] | str:
    import mujoco

    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        return str(error)
    number = arm.frame.removeprefix("unnamed body ")
    data, tip = mujoco.MjData(model), int(number) if number != arm.frame else model.body(arm.frame).id
    chain, own = [tip], []
    while model.body_parentid[chain[0]]:
        chain.insert(0, model.body_parentid[chain[0]])
    for body in chain:
        own += range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])
    joints_of = [i for i in range(model.neq) if model.eq_type[i] == 2 and model.eq_active0[i]]
    coupled = {model.eq_obj1id[i]: i for i in joints_of if model.eq_obj2id[i] in (*own, -1)}
    free = [joint for joint in own if joint not in coupled]
    if len(free) != len(arm):
        return f"!{len(arm)} joints, MuJoCo has {len(free)}"
    for low, high, endless, joint in zip(arm.lower, arm.upper, arm.continuous, free, strict=True):
        if endless == bool(model.jnt_limited[joint]) and abs(model.jnt_range[joint]).max() < 1e6:
            return f"!limits of {model.joint(joint).name}"
        if not endless and not joints_of and np.abs(model.jnt_range[joint] - [low, high]).max() > 1e-4:
            return f"!limits of {model.joint(joint).name}"
    poses = []
    for posture in joints.numpy():
        data.qpos[:] = model.qpos0
        data.qpos[[model.jnt_qposadr[joint] for joint in free]] = posture
        for joint, i in coupled.items():
            other, zero = model.eq_obj2id[i], model.qpos0
            at, polynomial = model.jnt_qposadr[joint], model.eq_data[i]
            moved = data.qpos[model.jnt_qposadr[other]] - zero[model.jnt_qposadr[other]] if other >= 0 else 0.0
            data.qpos[at] = zero[at] + polynomial[0] + polynomial[1] * moved
        mujoco.mj_kinematics(model, data)
        # Of the root body without its own joints: where the file puts it.
        root = chain[0]
        base = np.zeros(9)
        mujoco.mju_quat2Mat(base, model.body_quat[root])
        base = base.reshape(3, 3)
        poses.append((base.T @ (data.xpos[tip] - model.body_pos[root]), base.T @ data.xmat[tip].reshape(3, 3)))
    return np.stack([at for at, _ in poses]), np.stack([matrix for _, matrix in poses])


def _by_pinocchio(arm: Arm, path: Path, joints: torch.Tensor) -> tuple[np.ndarray, np.ndarray] | str:
    import pinocchio as pin

    try:
        model = pin.buildModelFromUrdf(str(path), mimic=True)
    except Exception as error:
        return str(error)
    data, body = model.createData(), pin.FrameType.BODY
    if not model.existFrame(arm.frame, body):
        return "!no such link"
    tip, poses = model.getFrameId(arm.frame, body), []
    chain = [
        j
        for j in list(model.supports[model.frames[tip].parentJoint])[1:]
        if model.joints[j].shortname() != "JointModelMimic"
    ]
    if len(chain) != len(arm):
        return f"!{len(arm)} joints, Pinocchio has {len(chain)}"
    for posture in joints.numpy():
        full = pin.neutral(model)
        for joint, value in zip(chain, posture, strict=True):
            at = model.joints[joint].idx_q
            if model.joints[joint].nq == 2:
                full[at : at + 2] = np.cos(value), np.sin(value)
            else:
                full[at] = value
        pin.framesForwardKinematics(model, data, full)
        poses.append((data.oMf[tip].translation.copy(), data.oMf[tip].rotation.copy()))
    return np.stack([at for at, _ in poses]), np.stack([matrix for _, matrix in poses])


def run(kind: str, seeds: range, folder: Path) -> tuple[Counter[str], list[tuple[int, str, str]]]:
    """Return the number of files by outcome, and each fault with its seed and reason."""
    counts: Counter[str] = Counter()
    told: list[tuple[int, str, str]] = []
    path = folder / ("arm.urdf" if kind == "urdf" else "arm.xml")
    for seed in seeds:
        rng = random.Random(f"{kind} {seed}")
        torch.manual_seed(seed)
        path.write_bytes(damaged(sound(kind, rng, folder), rng))
        what, why = outcome(path)
        counts[what] += 1
        if why:
            told.append((seed, what, why))
    return counts, told


if __name__ == "__main__":
    import os

    first, last = int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # MuJoCo leaves its log where it stands
        for kind in sys.argv[3:] or ("urdf", "mjcf"):
            counts, told = run(kind, range(first, first + last), Path(folder))
            print(kind, dict(counts))
            for line in [line for line in told if line[1] != "alone"][:20]:
                print("   ", line)
            reasons = Counter(re.sub(r"'.*?'|\d+|\n", "", why)[:90] for _, what, why in told if what == "alone")
            for reason, number in reasons.most_common(25):
                print("    alone", number, reason)
