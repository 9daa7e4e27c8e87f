"""Wrong recordings: each error names the episode, the row and the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from action_heads.actions.rotations import from_matrix, to_matrix
from action_heads.data import find_arm
from action_heads.data.bounded_reads import BadData, BadEpisode
from action_heads.data.checks import check
from action_heads.data.known_schemas import SCHEMAS
from action_heads.data.motion import Raw
from action_heads.data.schema import ROTATION_WIDTHS, Schema
from action_heads.kinematics import PANDA, Arm, forward, synthetic_chunks
from action_heads.kinematics.panda import FRAMES

SCHEMA = Schema(joints="q", position="p", rotation="r", gripper="g", rotation_form="quaternion", frame="robosuite_eef")


def raw(schema: Schema = SCHEMA, steps: int = 50) -> Raw:
    """Return an episode with columns as the schema describes them."""
    chunks = synthetic_chunks(64, steps, generator=torch.Generator().manual_seed(1))[0]
    joints = chunks[chunks.diff(dim=1).abs().sum((1, 2)).argmax()].double()
    position, matrix = forward(joints, schema.frame)
    rotation = from_matrix(matrix, schema.rotation_form).reshape(steps, -1)
    return Raw("corpus", "demo_7", joints.numpy(), position.numpy(), rotation.numpy(), np.zeros(steps))


def refused(episode: Raw, problem: str, kind: type = BadData, schema: Schema = SCHEMA, base=None, arm=PANDA) -> None:
    with pytest.raises(kind, match=problem) as caught:
        check(episode, schema, arm, base, "lerobot:x")
    assert "lerobot:x, episode demo_7" in str(caught.value)
    assert type(caught.value) is kind


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("form", ROTATION_WIDTHS)
def test_what_is_declared_rightly_passes(form, frame):
    schema = replace(SCHEMA, rotation_form=form, frame=frame)
    check(raw(schema), schema, PANDA, None, "x")
    check(replace(raw(schema), joints=None), schema, PANDA, None, "x")
    check(raw(schema), schema, None, None, "x")


def test_a_world_frame_may_stand_anywhere():
    schema, episode = replace(SCHEMA, world=True), raw()
    base = np.array([-0.56, 0.0, 0.912])
    moved = replace(episode, position=episode.position + base)
    check(moved, schema, PANDA, None, "x")
    check(moved, schema, PANDA, base, "x")
    refused(moved, "No other rotation form, frame or unit fits", schema=schema, base=base + 0.1)
    refused(moved, "No other rotation form, frame or unit fits")


@pytest.mark.parametrize("part", ["joints", "position", "rotation"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_holes(part, value):
    values = getattr(raw(), part).copy()
    values[[13, 20], 1] = value
    refused(replace(raw(), **{part: values}), f"{part}: 2 of 50 rows.*first is row 13.*bad=skip", BadEpisode)


def test_degrees():
    episode = replace(raw(), joints=np.rad2deg(raw().joints))
    remedy = r"look like degrees.*Set \"joints_unit\": \"deg\" in a column map \(\?columns=MAP\.json\)"
    refused(episode, rf"row 0: joint \d is .* outside .*{remedy}")
    refused(episode, rf"joints reach \d+.* rad, more than two turns.*{remedy}", arm=None)
    check(episode, replace(SCHEMA, joints_unit="deg"), PANDA, None, "x")
    with pytest.raises(BadData, match=r"look like degrees.*no column map, so convert the values in the file"):
        check(episode, SCHEMA, PANDA, None, "npz:x.npz")


def test_millimetres():
    far = replace(raw(), position=1000 * raw().position)
    refused(far, r"look like millimetres.*\"position_unit\": \"mm\"")
    refused(replace(far, joints=None), "look like millimetres")
    check(far, replace(SCHEMA, position_unit="mm"), PANDA, None, "x")
    one = raw().position.copy()
    one[7] *= 1000
    refused(replace(raw(), position=one), "row 7: the hand is", BadEpisode)


@pytest.mark.parametrize(
    ("said", "truly", "fits"),
    [
        ({}, {"rotation_form": "quaternion_wxyz"}, '"rotation_form": "quaternion_wxyz"'),
        ({"rotation_form": "quaternion_wxyz"}, {}, '"rotation_form": "quaternion"'),
        ({"rotation_form": "euler_xyz"}, {"rotation_form": "axis_angle"}, '"rotation_form": "axis_angle"'),
        ({"frame": "grip_site"}, {}, '"frame": "robosuite_eef"'),
        ({"frame": "flange"}, {"frame": "tcp"}, '"frame": "tcp"'),
        (
            {},
            {"rotation_form": "quaternion_wxyz", "frame": "flange"},
            '"rotation_form": "quaternion_wxyz", "frame": "flange"',
        ),
    ],
)
def test_the_order_and_frame_that_fit_are_named(said, truly, fits):
    problem = f"They agree with {fits}. Set {fits} in a column map"
    refused(raw(replace(SCHEMA, **truly)), problem, schema=replace(SCHEMA, **said))


def test_another_arm_s_joints():
    elsewhere = replace(raw(), joints=raw().joints[::-1].copy())
    refused(elsewhere, "No other rotation form, frame or unit fits. Check that these are the joints of panda")
    refused(replace(raw(), joints=raw().joints[:, :6]), "6 joints, but the arm panda has 7")


def six(schema: Schema, tool: bool = True) -> tuple[Raw, Arm]:
    """Return an episode of another arm, recorded with a tool frame that the arm's file does not contain."""
    pytest.importorskip("pinocchio")
    arm = find_arm(str(Path(__file__).parents[1] / "kinematics" / "data" / "six.urdf"))
    chunks = synthetic_chunks(64, 50, generator=torch.Generator().manual_seed(1), arm=arm)[0]
    joints = chunks[chunks.diff(dim=1).abs().sum((1, 2)).argmax()].double()
    position, matrix = arm.forward(joints, arm.frame)
    if tool:
        position = position + matrix @ torch.tensor([0.03, -0.02, 0.15]).double()
        matrix = matrix @ to_matrix(torch.tensor([0.7, 0.2, -2.0]).double(), "axis_angle")
    rotation = from_matrix(matrix, schema.rotation_form).reshape(50, -1)
    return Raw("corpus", "demo_7", joints.numpy(), position.numpy(), rotation.numpy(), np.zeros(50)), arm


@pytest.mark.parametrize("tool", [True, False])
@pytest.mark.parametrize("form", ROTATION_WIDTHS)
def test_of_another_arm_any_frame_fixed_to_its_tip_passes(form, tool):
    schema = Schema("six", "q", "p", "r", "g", rotation_form=form, arm="six.urdf")
    episode, arm = six(schema, tool)
    check(episode, schema, arm, None, "x")
    glitch = episode.position.copy()
    glitch[0] += 1.0  # one row of those looked at
    check(replace(episode, position=glitch), schema, arm, None, "x")
    check(replace(episode, position=1000 * episode.position), replace(schema, position_unit="mm"), arm, None, "x")
    world = replace(schema, world=True)
    moved = replace(episode, position=episode.position + np.array([-0.56, 0.3, 0.912]))
    check(moved, world, arm, None, "x")
    check(moved, world, arm, np.array([-0.56, 0.3, 0.912]), "x")


def test_of_another_arm_what_fits_no_such_frame_is_refused():
    schema = Schema("six", "q", "p", "r", "g", rotation_form="quaternion", arm="six.urdf")
    wrong = replace(schema, rotation_form="quaternion_wxyz")
    episode, arm = six(schema)
    refused(episode, r'any frame fixed to hand .*agree with "rotation_form": "quaternion"', schema=wrong, arm=arm)
    nothing = "No other rotation form, frame or unit fits"
    for changes in ({"joints": episode.joints[::-1].copy()}, {"position": 1.3 * episode.position}):
        refused(replace(episode, **changes), f"{nothing}.*leave position and rotation out", schema=schema, arm=arm)
    elsewhere = replace(episode, position=episode.position + np.array([0.5, 0.0, 0.0]))
    refused(elsewhere, nothing, schema=schema, arm=arm)
    other = replace(episode, joints=episode.joints[::-1].copy())
    refused(other, nothing, schema=replace(schema, world=True), arm=arm)


def test_limits():
    joints = raw().joints.copy()
    joints[9, 3] = -0.01  # The elbow exceeds its limit by more than the tolerance.
    problem = r"row 9: joint 3 is -0.01, outside the limits \[-3.072, -0.0698\] \(rad\) of panda"
    refused(replace(raw(), joints=joints), problem, BadEpisode)
    joints[9, 3] = PANDA.upper[3] + 0.04
    check(replace(raw(), joints=joints), SCHEMA, PANDA, None, "x")


def test_no_unit_quaternions():
    rotation = raw().rotation.copy()
    rotation[5] *= 0.9
    refused(replace(raw(), rotation=rotation), r"row 5: .* is not a unit quaternion. Repair", BadEpisode)
    most = "row 0: .* neither are most rows. Check the columns, and that rotation_form is 'quaternion'"
    refused(replace(raw(), rotation=0.9 * raw().rotation), most)
    rotation[5] = 0
    refused(replace(raw(), rotation=rotation), r"row 5: \[0.0, 0.0, 0.0, 0.0\]", BadEpisode)


def test_no_rotation_matrices_and_vectors():
    schema = replace(SCHEMA, rotation_form="matrix")
    refused(replace(raw(schema), rotation=1.1 * raw(schema).rotation), "not a rotation matrix", schema=schema)
    schema = replace(SCHEMA, rotation_form="axis_angle")
    degrees = replace(raw(schema), rotation=np.rad2deg(raw(schema).rotation))
    refused(degrees, "not a rotation vector in rad, of at most one full turn", schema=schema)


def test_gripper_of_another_range():
    wide = replace(raw(), gripper=np.linspace(0, 255, 50))
    refused(wide, 'the gripper is .* 0 is declared as open and 1 as closed. Set "gripper_open" and "gripper_closed"')
    check(replace(raw(), gripper=np.full(50, np.nan)), SCHEMA, PANDA, None, "x")


def test_arms_with_the_fr3_s_limits_are_taken_where_the_schema_says_so():
    """An episode of a schema with `fr3` may keep to the Panda's or the FR3's limits, but not mix them."""
    droid = replace(SCHEMA, fr3=True)
    episode = raw()
    fr3 = episode.joints.copy()
    fr3[:, 5], fr3[:, 6] = 4.31, -3.0168
    alone = replace(episode, joints=fr3, position=None, rotation=None)
    check(alone, droid, PANDA, None, "x")
    refused(alone, r"joint 5 is 4.31, outside .* of panda\. Check that this is the right arm", BadEpisode)
    mixed = fr3.copy()
    mixed[3, 0] = 2.85  # the Panda's joint 1 goes there, the FR3's does not
    refused(replace(alone, joints=mixed), "does not fit the FR3's limits either", BadEpisode, droid)
    with pytest.raises(ValueError, match=r"fr3 widens the Panda's limits, but arm is 'six\.urdf'"):
        replace(SCHEMA, fr3=True, arm="six.urdf")
    assert [name for name, schema in SCHEMAS.items() if schema.fr3] == ["droid"]


def test_all_of_droid_s_statistics_are_within_the_limits_of_its_schema():
    """The extremes of each joint over DROID's 27 million frames, taken from its statistics, pass the check."""
    lowest = [-2.6723, -1.6590, -2.6782, -2.9410, -2.6706, 0.2399, -3.0169]
    highest = [2.6775, 1.5841, 2.6958, -0.2977, 2.6625, 4.3092, 2.7557]
    for extremes in (lowest, highest):
        for joint, value in enumerate(extremes):
            joints = np.tile([0, -0.785, 0, -2.356, 0, 1.571, 0.785], (5, 1))
            joints[:, joint] = value
            check(Raw("c", "n", joints, None, None, None), SCHEMAS["droid"], PANDA, None, "x")


def normalised(top: float = 100.0) -> np.ndarray:
    """Return joints as LeRobot records an SO-101's, clipped to the calibrated range."""
    return np.clip(top * np.sin(np.linspace(0, 6, 60))[:, None] * np.linspace(0.2, 1, 7), -100, 100).round(4)


@pytest.mark.parametrize("arm", [None, "wide"])
def test_normalised_joints_are_never_taken_for_degrees(arm):
    wide = Arm("wide", *(torch.full((7,), x) for x in (-3.2, 3.2, 2.0, 0.0)), "tcp", PANDA.forward)
    arm = wide if arm else None
    pose = raw(steps=60)
    episode = replace(pose, joints=normalised(130.0))
    degrees = replace(SCHEMA, joints_unit="deg", arm="wide.urdf")
    refused(episode, r"LeRobot's normalised joints, not degrees.*use_degrees=true", schema=degrees, arm=arm)
    either = "look like degrees or like LeRobot's normalised joints.*use_degrees=true"
    refused(episode, either, schema=replace(SCHEMA, arm="wide.urdf"), arm=arm)


def test_an_episode_without_steps():
    empty = Raw("corpus", "demo_7", np.zeros((0, 7)), None, None, None)
    refused(empty, r"no time steps\. .*\?short=skip or \?bad=skip", BadEpisode)
