"""Action spaces convert to JSON and back, and encode/decode and to_delta/to_absolute are inverse.

Axes: `b` batch, `h` horizon, `a` action width.
"""

import dataclasses
import json

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from action_heads.actions.rotations import SHAPES, convert, to_matrix
from action_heads.actions.spaces import EE_ABSOLUTE, EE_DELTA, ActionSpace

ARM = (("position", 3), ("rotation", 6), ("gripper", 1))
SPACES = {
    "one arm": EE_ABSOLUTE,
    "two arms": ActionSpace(ARM + ARM),
    "joints": ActionSpace((("joint", 7), ("gripper", 1))),
    "two arms in joints": ActionSpace((("joint", 7), ("gripper", 1), ("joint", 6), ("gripper", 1))),
    "gripper first, no rotation": ActionSpace((("gripper", 1), ("position", 3))),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))


def actions_of(space: ActionSpace, *lead: int, seed: int = 0) -> Tensor:
    """Return random actions (*lead a) with valid rotations."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(*lead, space.dim, dtype=torch.float64, generator=generator)
    for part in space.slices("rotation"):
        actions[..., part] = convert(actions[..., part], "6d", "matrix")[..., :2, :].flatten(-2)
    return actions


def pose_of(space: ActionSpace, actions: Tensor) -> Tensor:
    """Return actions (b a) without their grippers."""
    keep = torch.ones(space.dim, dtype=torch.bool)
    for part in space.slices("gripper"):
        keep[part] = False
    return actions[..., keep]


@every_space
def test_json_round_trip(space: ActionSpace) -> None:
    again = ActionSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)


def test_layout_of_the_paper() -> None:
    assert EE_ABSOLUTE.dim == EE_DELTA.dim == 10
    assert (EE_ABSOLUTE.mode, EE_DELTA.mode) == ("absolute", "delta")
    assert EE_ABSOLUTE.slices("rotation") == (slice(3, 9),)
    assert EE_ABSOLUTE.slices("joint") == ()
    assert EE_ABSOLUTE.normalized_mask.tolist() == [True] * 3 + [False] * 7
    joints = SPACES["two arms in joints"]
    assert joints.slices("joint") == (slice(0, 7), slice(8, 14))
    assert joints.normalized_mask.sum() == 13
    assert not joints.position_mask.any()


@pytest.mark.parametrize("form", SHAPES)
def test_encode_and_decode_are_inverse(form: str) -> None:
    truth = Rotation.from_quat(torch.randn(20, 4).numpy())
    matrix = torch.tensor(truth.as_matrix()).unflatten(0, (4, 5))
    position = torch.randn(4, 5, 3, dtype=torch.float64)
    gripper = torch.ones(4, 5, dtype=torch.float64)
    actions = EE_ABSOLUTE.encode(position, convert(matrix, "matrix", form), gripper, rotation_form=form)
    assert actions.shape == (4, 5, 10)
    torch.testing.assert_close(actions[..., 3:9], matrix[..., :2, :].flatten(-2))
    parts = EE_ABSOLUTE.decode(actions, form)
    assert parts.position is not None
    assert parts.rotation is not None
    assert parts.joint is None
    torch.testing.assert_close(parts.position, position)
    torch.testing.assert_close(parts.gripper, gripper)
    assert parts.rotation.shape == (4, 5, *SHAPES[form])
    torch.testing.assert_close(to_matrix(parts.rotation, form), matrix)


@every_space
@pytest.mark.parametrize("lead", [(), (3,), (2, 4)])
def test_decode_and_encode_are_inverse(space: ActionSpace, lead: tuple[int, ...]) -> None:
    actions = actions_of(space, *lead)
    parts = space.decode(actions, "quaternion")
    torch.testing.assert_close(space.encode(*parts, rotation_form="quaternion"), actions)


def test_two_arms_have_an_axis_of_their_own() -> None:
    space = SPACES["two arms"]
    actions = actions_of(space, 2, 4)
    parts = space.decode(actions)
    assert parts.position is not None
    assert parts.rotation is not None
    assert parts.gripper is not None
    assert (parts.position.shape, parts.rotation.shape) == ((2, 4, 2, 3), (2, 4, 2, 3, 3))
    torch.testing.assert_close(parts.position[..., 1, :], actions[..., 10:13])
    torch.testing.assert_close(parts.gripper, actions[..., [9, 19]])


@every_space
@pytest.mark.parametrize("relative_to", ["previous", "current"])
def test_delta_and_absolute_are_inverse(space: ActionSpace, relative_to: str) -> None:
    actions, pose = actions_of(space, 3, 16), pose_of(space, actions_of(space, 3, seed=1))
    deltas = space.to_delta(actions, pose, relative_to)
    assert deltas.shape == actions.shape
    assert not torch.allclose(deltas, actions)
    torch.testing.assert_close(space.to_absolute(deltas, pose, relative_to), actions)
    again = space.to_delta(space.to_absolute(actions, pose, relative_to), pose, relative_to)
    torch.testing.assert_close(again, actions)


@pytest.mark.parametrize("relative_to", ["previous", "current"])
def test_deltas_follow_the_osc_convention(relative_to: str) -> None:
    actions, pose = actions_of(EE_ABSOLUTE, 2, 6), actions_of(EE_ABSOLUTE, 2, seed=1)[:, :9]
    deltas = EE_DELTA.to_delta(actions, pose, relative_to)
    for row, step in [(0, 0), (1, 0), (0, 3), (1, 5)]:
        before = pose[row] if step == 0 or relative_to == "current" else actions[row, step - 1, :9]
        torch.testing.assert_close(deltas[row, step, :3], actions[row, step, :3] - before[:3])
        now, then = (Rotation.from_matrix(to_matrix(six, "6d")) for six in (actions[row, step, 3:9], before[3:9]))
        turn = convert(deltas[row, step, 3:9], "6d", "axis_angle")
        torch.testing.assert_close(turn, torch.tensor((now * then.inv()).as_rotvec()))
    torch.testing.assert_close(deltas[..., 9], actions[..., 9])


def test_a_turn_about_the_base_z_reads_so_whatever_the_hand_points_to() -> None:
    start = Rotation.from_euler("x", torch.pi)  # The hand points down.
    turned = Rotation.from_rotvec([0, 0, 0.1]) * start
    zero, one = torch.zeros(1, 1, 3).double(), torch.ones(1, 1).double()
    actions = EE_ABSOLUTE.encode(zero, torch.tensor(turned.as_matrix())[None, None], one)
    pose = EE_ABSOLUTE.encode(zero, torch.tensor(start.as_matrix())[None, None], one)[:, 0, :9]
    delta = EE_DELTA.decode(EE_DELTA.to_delta(actions, pose), "axis_angle").rotation
    torch.testing.assert_close(delta, torch.tensor([[[0, 0, 0.1]]]).double())


def test_validate_accepts_what_is_right() -> None:
    EE_ABSOLUTE.validate(torch.zeros(2, 16, 10), 16)
    EE_ABSOLUTE.validate(torch.zeros(1, 1, 10, dtype=torch.bfloat16), 1)
    EE_ABSOLUTE.validate(torch.full((2, 16, 10), torch.nan), 16, values=False)


def test_validate_names_row_and_step_of_the_first_bad_value() -> None:
    actions = torch.zeros(4, 16, 10)
    actions[2, 5, 4] = torch.nan
    actions[3, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"2 NaN or infinite.*batch row 2, time step 5, dimension 4 \(rotation\)"):
        EE_ABSOLUTE.validate(actions, 16)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(16, 10), r"\(16, 10\).*actions\[None\]"),
        (torch.zeros(2, 16, 7), r"\(2, 16, 7\), the wrong width.*position 3, rotation 6, gripper 1"),
        (torch.zeros(2, 8, 10), r"\(2, 8, 10\), the wrong horizon.*horizon 16"),
        (torch.zeros(0, 16, 10), r"an empty batch"),
        (torch.zeros(2, 16, 10, dtype=torch.int64), r"torch.int64.*actions.float\(\)"),
        ([[0.0]], r"list.*torch.as_tensor"),
    ],
)
def test_validate_teaches(actions: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EE_ABSOLUTE.validate(actions, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": (("postion", 3),)}, "'postion'.*'position', 'rotation', 'gripper', 'joint'"),
        ({"parts": (("rotation", 4),)}, "'rotation' has width 4; expected 6"),
        ({"parts": (("joint", 0),)}, "'joint' has width 0; expected a positive integer"),
        ({"parts": ()}, "needs parts"),
        ({"mode": "relative"}, "'relative'.*'absolute', 'delta'"),
        ({"version": 2}, "version 2"),
    ],
)
def test_a_wrong_space_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EE_ABSOLUTE, **change)


def test_unknown_and_missing_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['horizon'\].*'parts'"):
        ActionSpace.from_dict(EE_ABSOLUTE.to_dict() | {"horizon": 16})
    with pytest.raises(ValueError, match=r"\['frame', 'mode'\]"):
        ActionSpace.from_dict({"parts": ARM})


def test_other_errors_teach() -> None:
    position, rotation, gripper = torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"gripper was not given.*position 3, rotation 6, gripper 1"):
        EE_ABSOLUTE.encode(position, rotation)
    with pytest.raises(ValueError, match="joint was given"):
        EE_ABSOLUTE.encode(position, rotation, gripper, torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"leading axes of the parts differ.*'gripper': \(2, 1\)"):
        EE_ABSOLUTE.encode(position, rotation, gripper[:, None])
    with pytest.raises(ValueError, match=r"position has shape \(2, 2\); expected 3 values"):
        EE_ABSOLUTE.encode(position[:, :2], rotation, gripper)
    with pytest.raises(ValueError, match=r"axis of 2 arms"):
        SPACES["two arms"].encode(torch.zeros(5, 3), torch.zeros(5, 2, 3, 3), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"\(2, 7\); expected \(..., 10\)"):
        EE_ABSOLUTE.decode(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"pose \(2, 10\).*\(b, 9\)"):
        EE_ABSOLUTE.to_delta(torch.zeros(2, 4, 10), torch.zeros(2, 10))
    with pytest.raises(ValueError, match=r"'first'.*'previous', 'current'"):
        EE_ABSOLUTE.to_delta(torch.zeros(2, 4, 10), torch.zeros(2, 9), "first")
    with pytest.raises(ValueError, match="'hand'"):
        EE_ABSOLUTE.slices("hand")
