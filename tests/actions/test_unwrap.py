"""Decoded rotations of every form do not jump, along chunks and from the last action on.

Axes: `b` batch, `h` horizon, 3 x 3 matrices.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from action_heads import EE_ABSOLUTE, EE_DELTA
from action_heads.actions.layouts import FORMS, ActionLayout
from action_heads.actions.rotations import SHAPES, from_matrix, to_matrix
from action_heads.actions.unwrap import GUESSES, nearest, unwrapped
from action_heads.runtime.execution import Executor

TURN = 2 * torch.pi


def smooth(seed: int, steps: int = 200) -> np.ndarray:
    """Return a tumbling motion as matrices (h 3 3), with at most 0.15 rad between time steps."""
    rng = np.random.default_rng(seed)
    turn, rotation, found = rng.normal(size=3), Rotation.from_quat(rng.normal(size=4)), []
    for _ in range(steps):
        turn = turn + 0.3 * rng.normal(size=3)
        rotation = Rotation.from_rotvec(0.15 * turn / max(1, np.linalg.norm(turn))) * rotation
        found.append(rotation.as_matrix())
    return np.stack(found)


def motions() -> dict[str, np.ndarray]:
    """Return motions along which canonical numbers jump: through half turns, angles beyond pi and gimbal lock."""
    past = np.linspace(0, 14, 113)[:, None]
    through = np.linspace(1.2, 2.0, 33)
    through[16] = np.pi / 2
    still = np.full_like(through, 0.4)
    axis = np.array([[0.6, -0.48, 0.64]])
    locked = np.stack([np.linspace(-3, 3, 33), np.full(33, np.pi / 2), np.full(33, 1.0)], -1)
    return {
        "tumbling": np.concatenate([smooth(0), smooth(0)[::-1]]),
        "one axis, past two turns": Rotation.from_rotvec(past * axis).as_matrix(),
        "through gimbal lock": Rotation.from_euler("xyz", np.stack([still, through, -still], -1)).as_matrix(),
        "back through the other": Rotation.from_euler("xyz", np.stack([still, -through, still], -1)).as_matrix(),
        "within gimbal lock": Rotation.from_euler("xyz", locked).as_matrix(),
        "at pi": Rotation.from_rotvec(np.linspace(3.0, 3.3, 31)[:, None] * axis).as_matrix(),
        "random": Rotation.random(64, rng=np.random.default_rng(1)).as_matrix(),
    }


def equivalents(numbers: Tensor, form: str) -> Tensor:
    """Return other representations (e ... n) of rotations (... n), without those of gimbal lock."""
    if form.startswith("quaternion"):
        return torch.stack([numbers, -numbers])
    if form == "axis_angle":
        axis = numbers / numbers.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return torch.stack([numbers + TURN * k * axis for k in range(-3, 4)])
    if form == "euler_xyz":
        x, y, z = numbers.unbind(-1)
        both = (numbers, torch.stack([x + torch.pi, torch.pi - y, z + torch.pi], -1))
        turns = [TURN * torch.tensor(k, dtype=numbers.dtype) for k in itertools.product(range(-2, 3), repeat=3)]
        return torch.stack([each + turn for each in both for turn in turns])
    return numbers[None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("motion", motions())
@pytest.mark.parametrize("form", SHAPES)
def test_each_is_the_same_rotation_and_the_nearest_to_the_one_before(form, motion, dtype):
    matrices = torch.tensor(motions()[motion], dtype=dtype)
    found = unwrapped(from_matrix(matrices, form), form, 0)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(to_matrix(found, form), matrices, atol=tolerance, rtol=0)
    if form in ("matrix", "6d"):
        assert torch.equal(found, from_matrix(matrices, form))
        return
    gap = (found[1:] - found[:-1]).norm(dim=-1)
    others = (equivalents(found[1:], form) - found[:-1]).norm(dim=-1)
    assert (gap <= others.amin(0) + 1e-3).all()


SMOOTH = [
    (form, motion) for form in ("quaternion", "quaternion_wxyz", "6d") for motion in motions() if motion != "random"
]


@pytest.mark.parametrize(
    ("form", "motion"), [*SMOOTH, ("axis_angle", "one axis, past two turns"), ("axis_angle", "at pi")]
)
def test_a_smooth_motion_has_smooth_numbers(form, motion):
    """Rotation vectors are continuous beyond 2 pi only if the axis stays, since all axes meet there."""
    matrices = torch.tensor(motions()[motion])
    found = unwrapped(from_matrix(matrices, form), form, 0).flatten(1)
    assert (found[1:] - found[:-1]).norm(dim=-1).max() < 0.4


@pytest.mark.parametrize(
    "motion", ["one axis, past two turns", "through gimbal lock", "back through the other", "at pi"]
)
def test_euler_angles_pass_their_ends(motion):
    matrices = torch.tensor(motions()[motion])
    canonical, found = from_matrix(matrices, "euler_xyz"), unwrapped(from_matrix(matrices, "euler_xyz"), "euler_xyz", 0)
    step = lambda angles: (angles[1:] - angles[:-1]).abs().max()  # noqa: E731
    assert step(found) < SWING["euler_xyz"]
    if motion != "at pi":
        assert step(canonical) > 3


# ── all time steps at once, as one by one ────────────────────────────────────────────────────────────────────────────


def one_by_one(rotations: Tensor, form: str, before: Tensor | None) -> Tensor:
    """Return rotations (h ... n), each written closest to the one before: the definition of `unwrapped`."""
    found = []
    for rotation in rotations:
        before = rotation if before is None else nearest(rotation, before, form)
        found.append(before)
    return torch.stack(found)


def adversarial() -> dict[str, np.ndarray]:
    """Return motions (h 3 3) at the ends of every form, with noise from far below to far above rounding."""
    rng, found = np.random.default_rng(2), {}
    for noise in (0, 1e-8, 1e-6, 1e-3, 0.1):
        about_pi = np.pi * np.array([[0.6, -0.48, 0.64]]) + noise * rng.normal(size=(60, 3))
        found[f"about pi, {noise}"] = Rotation.from_rotvec(about_pi).as_matrix()
        about_lock = [[0.4, np.pi / 2, -0.4]] + noise * rng.normal(size=(60, 3))
        found[f"about gimbal lock, {noise}"] = Rotation.from_euler("xyz", about_lock).as_matrix()
        about_none = noise * rng.normal(size=(60, 3))
        found[f"about the identity, {noise}"] = Rotation.from_rotvec(about_none).as_matrix()
    lost = found["about pi, 0.1"].copy()
    lost[[0, 7, 8, 30]] = np.nan
    half = Rotation.from_rotvec(np.pi * np.eye(3)[np.arange(60) % 3]).as_matrix()
    return motions() | found | {"some unknown": lost, "half turns about x, y and z": half}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_all_at_once_are_bit_for_bit_those_one_by_one(form, dtype):
    every = {name: from_matrix(torch.tensor(m), form).to(dtype) for name, m in adversarial().items()}
    every["a batch"] = torch.stack([numbers[:30] for numbers in every.values()], 1)
    for name, numbers in every.items():
        for before in (None, numbers[0], -numbers[3], numbers[0] + 40, numbers[0] * torch.nan):
            dim = numbers.dim() - 2
            found = unwrapped(numbers.movedim(0, dim), form, dim, before).movedim(dim, 0)
            assert torch.equal(found.nan_to_num(99), one_by_one(numbers, form, before).nan_to_num(99)), name
    assert unwrapped(numbers[:0], form, 0).shape == numbers[:0].shape


@pytest.mark.parametrize("form", GUESSES)
def test_a_smooth_chunk_is_guessed_right_at_once(form, monkeypatch):
    """So its cost does not grow with its length: one by one, Euler angles took 7 ms for 50 time steps."""
    guesses = []
    monkeypatch.setitem(GUESSES, form, lambda known, guess=GUESSES[form]: guesses.append(len(known)) or guess(known))
    for motion in ("tumbling", "one axis, past two turns", "at pi", "back through the other"):
        matrices = torch.tensor(motions()[motion])[:50]
        unwrapped(from_matrix(matrices, form), form, 0)
        assert guesses[0] == len(matrices)
        assert len(guesses) <= 2, motion
        guesses.clear()


@pytest.mark.parametrize("form", FORMS)
def test_decoding_can_be_exported(form):
    class Decoding(torch.nn.Module):
        def forward(self, actions):
            return ActionLayout.parse(f"position {form} gripper").decode(actions)

    chunk = head_actions(motions()["random"][:6])
    found = torch.export.export(Decoding(), (chunk,), strict=False).module()(chunk)
    torch.testing.assert_close(found, Decoding()(chunk))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_pass(form):
    numbers = from_matrix(torch.tensor(motions()["tumbling"][:40]), form).requires_grad_()
    found, expected = (
        torch.autograd.grad(unwrap.square().sum(), numbers)[0]
        for unwrap in (unwrapped(numbers, form, 0), one_by_one(numbers, form, None))
    )
    torch.testing.assert_close(found, expected)


def test_in_gimbal_lock_what_is_free_stays():
    """Only x - z is determined at y = pi/2, and x and z move as little as possible."""
    before = torch.tensor([2.0, torch.pi / 2, 1.5], dtype=torch.float64)
    now = from_matrix(to_matrix(torch.tensor([0.6, torch.pi / 2, 0.0], dtype=torch.float64), "euler_xyz"), "euler_xyz")
    found = nearest(now, before, "euler_xyz")
    torch.testing.assert_close(found, torch.tensor([2.05, torch.pi / 2, 1.45], dtype=torch.float64))


def test_no_turn_after_a_whole_one_keeps_its_axis():
    before = torch.tensor([0.0, TURN, 0.0])
    assert torch.allclose(nearest(torch.zeros(3), before, "axis_angle"), before)
    assert torch.equal(nearest(torch.zeros(3), torch.zeros(3), "axis_angle"), torch.zeros(3))


@pytest.mark.parametrize("form", FORMS)
def test_what_came_before_may_be_unknown_or_of_another_shape(form):
    now = from_matrix(torch.tensor(motions()["random"][:2]), form)
    assert torch.equal(nearest(now, torch.full_like(now, torch.nan), form), now)
    with pytest.raises(ValueError, match=form):
        nearest(now, now[0], form)


# ── in layouts, spaces and the executor ──────────────────────────────────────────────────────────────────────────────


def head_actions(matrices: np.ndarray, space=EE_ABSOLUTE) -> Tensor:
    """Return a chunk (1 h 10) with these rotations."""
    turns = torch.tensor(matrices, dtype=torch.float32)[None]
    return space.encode(torch.zeros(1, len(matrices), 3), turns, torch.ones(1, len(matrices)))


SWING = {"euler_xyz": 2.0}  # Euler angles are fast near gimbal lock, but none jumps by half a turn.


def jump(numbers: Tensor) -> float:
    return float((numbers[..., 1:, :] - numbers[..., :-1, :]).abs().max())


@pytest.mark.parametrize("form", FORMS)
def test_chunks_of_layouts_and_spaces_go_on_from_the_last_action(form):
    layout, turning = ActionLayout.parse(f"position {form} gripper"), motions()["one axis, past two turns"]
    whole, first, second = (head_actions(m) for m in (turning, turning[:40], turning[40:]))
    begin = layout.decode(first)
    rest = layout.decode(second, begin[:, -1])
    together = torch.cat([begin, rest], 1)
    torch.testing.assert_close(together, layout.decode(whole))
    assert jump(together) < SWING.get(form, 0.3)
    torch.testing.assert_close(layout.encode(together), whole, atol=1e-5, rtol=0)
    parts = EE_ABSOLUTE.decode(first, form)
    last = parts._replace(rotation=parts.rotation[:, -1], position=None, gripper=None)
    torch.testing.assert_close(EE_ABSOLUTE.decode(second, form, last).rotation, rest[..., 3:-1])
    one = layout.decode(second[:, 0], begin[:, -1])  # One action (b a) at a time.
    torch.testing.assert_close(one, rest[:, 0])


@pytest.mark.parametrize("form", ["quaternion", "axis_angle", "euler_xyz"])
def test_canonical_numbers_are_an_option(form):
    layout, chunk = ActionLayout.parse(f"position {form} gripper"), head_actions(motions()["one axis, past two turns"])
    canonical = layout.decode(chunk, canonical=True)
    torch.testing.assert_close(canonical[..., 3:-1], from_matrix(to_matrix(chunk[..., 3:9], "6d"), form))
    torch.testing.assert_close(EE_ABSOLUTE.decode(chunk, form, canonical=True).rotation, canonical[..., 3:-1])
    assert jump(layout.decode(chunk)) < SWING.get(form, 0.3)
    assert jump(canonical) > (1 if form == "quaternion" else 3)


def test_rows_of_a_batch_do_not_see_each_other():
    chunk = torch.cat([head_actions(m[:40]) for m in (motions()["tumbling"], motions()["random"])])
    layout = ActionLayout.parse("pose_quaternion")
    both = layout.decode(chunk)
    for i in range(2):
        assert torch.equal(both[i], layout.decode(chunk[i : i + 1])[0])
    assert torch.equal(layout.decode(chunk[:, 0]), both[:, 0])  # Actions (b a) of two robots.


def test_two_arms_each_go_on():
    arms = [motions()["one axis, past two turns"][:30], motions()["at pi"][:30]]
    chunk = torch.cat([head_actions(m) for m in arms], -1)
    layout = ActionLayout.parse("position quaternion gripper position axis_angle gripper")
    found = layout.decode(chunk)
    assert jump(found) < 0.5
    torch.testing.assert_close(layout.encode(found), chunk, atol=1e-5, rtol=0)


def test_a_delta_is_always_its_shortest_turn():
    """A rotation by 190 degrees is decoded as one by 170 degrees in the other direction."""
    turns = Rotation.from_rotvec([[2.96, 0, 0], [-2.96, 0, 0]]).as_matrix()
    chunk = head_actions(turns, EE_DELTA)
    found = ActionLayout.parse("delta").decode(chunk, torch.zeros(1, 7))
    assert found[0, :, 3].tolist() == pytest.approx([2.96, -2.96], abs=1e-4)
    assert EE_DELTA.decode(chunk, "axis_angle").rotation[0, :, 0].tolist() == pytest.approx([2.96, -2.96], abs=1e-4)


class Turning:
    """A policy that continues one motion."""

    def __init__(self, horizon: int = 8):
        self.at, self.actions = 0, head_actions(motions()["one axis, past two turns"])
        self.horizon = horizon

    def sample(self, cond, **options):
        self.at += self.horizon
        return self.actions[:, self.at - self.horizon : self.at]


@pytest.mark.parametrize("form", FORMS)
def test_the_executor_goes_on_over_chunks(form):
    layout = ActionLayout.parse(f"position {form} gripper")
    executor = Executor(Turning(), execute=8, decode=layout.decode)
    played = torch.stack([executor(torch.zeros(1, 3)) for _ in range(112)], 1)
    assert jump(played) < SWING.get(form, 0.3)
    torch.testing.assert_close(layout.encode(played), executor.policy.actions[:, :112], atol=1e-5, rtol=0)
    executor.reset()
    assert executor.last is None
