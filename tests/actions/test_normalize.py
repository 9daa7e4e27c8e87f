"""Normalisation and its inverse round-trip, change only positions and joints, and keep their precision."""

import pytest
import torch

from action_heads.actions.normalize import ANY_UNIT, FLOOR, Normalizer, floored
from action_heads.actions.spaces import EE_ABSOLUTE, ActionSpace
from action_heads.adapters.condition_reader import Standardizer

JOINTS = ActionSpace((("joint", 2), ("gripper", 1)))
DROID = ((-0.229, -0.871, -0.308), (0.930, 0.863, 1.111))  # The range of the paper, in m.


def data(seed: int = 0) -> torch.Tensor:
    """Return random actions (50 16 10) whose positions have different centres and ranges."""
    actions = torch.randn(50, 16, 10, generator=torch.Generator().manual_seed(seed))
    actions[..., :3] *= torch.tensor([0.1, 0.5, 2.0])
    actions[..., :3] += torch.tensor([0.4, -3.0, 0.0])
    return actions


def test_fit_maps_the_range_to_one_and_leaves_the_rest() -> None:
    actions = data()
    normal = Normalizer.fit(actions, EE_ABSOLUTE).normalize(actions)
    torch.testing.assert_close(normal[..., :3].amin((0, 1)), -torch.ones(3))
    torch.testing.assert_close(normal[..., :3].amax((0, 1)), torch.ones(3))
    assert torch.equal(normal[..., 3:], actions[..., 3:])


def test_normalize_and_unnormalize_are_inverse() -> None:
    actions = data()
    normalizer = Normalizer.fit(actions, EE_ABSOLUTE, margin=0.1)
    torch.testing.assert_close(normalizer.unnormalize(normalizer.normalize(actions)), actions)
    torch.testing.assert_close(normalizer.normalize(normalizer.unnormalize(actions)), actions)
    double = actions.double()
    torch.testing.assert_close(normalizer.unnormalize(normalizer.normalize(double)), double, atol=1e-15, rtol=1e-15)


def test_margin_leaves_room() -> None:
    actions = data()
    normal = Normalizer.fit(actions, EE_ABSOLUTE, margin=0.25).normalize(actions)
    torch.testing.assert_close(normal[..., :3].amax((0, 1)), torch.full((3,), 1 / 1.25))


def test_a_constant_dimension_stays_small() -> None:
    actions = data()
    actions[..., 1] = 0.7
    normalizer = Normalizer.fit(actions, EE_ABSOLUTE)
    assert normalizer.scale[1] == torch.tensor(FLOOR)
    assert normalizer.normalize(actions)[..., 1].abs().max() < 1e-3
    torch.testing.assert_close(normalizer.unnormalize(torch.ones(10))[1], torch.tensor(0.7 + FLOOR))


def test_joints_are_normalised_and_identity_changes_nothing() -> None:
    normalizer = Normalizer.from_range((-2.0, 0.0), (2.0, 1.0), JOINTS)
    torch.testing.assert_close(normalizer.normalize(torch.tensor([2.0, 0.0, 1.0])), torch.tensor([1.0, -1.0, 1.0]))
    actions = data()
    assert torch.equal(Normalizer.identity(EE_ABSOLUTE).normalize(actions), actions)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16, torch.float64])
def test_statistics_stay_fp32(cast: torch.dtype) -> None:
    normalizer = Normalizer.from_range(*DROID, EE_ABSOLUTE)
    bits = normalizer.scale.clone()
    moved = torch.nn.Sequential(normalizer).to(cast)[0]
    assert moved is normalizer
    assert normalizer.scale.dtype == normalizer.offset.dtype == torch.float32
    assert torch.equal(normalizer.scale, bits)
    assert normalizer.unnormalize(torch.zeros(10, dtype=torch.bfloat16)).dtype == torch.float32


def test_state_travels() -> None:
    source, target = Normalizer.from_range(*DROID, EE_ABSOLUTE), Normalizer.identity(EE_ABSOLUTE)
    target.load_state_dict(source.state_dict())
    assert set(source.state_dict()) == {"offset", "scale"}
    assert torch.equal(target.normalize(data()), source.normalize(data()))
    assert not list(source.parameters())


def test_repr_names_the_ranges() -> None:
    assert "10 dims, 0: [-0.229, 0.93], 1: [-0.871, 0.863]" in repr(Normalizer.from_range(*DROID, EE_ABSOLUTE))
    assert "identity" in repr(Normalizer.identity(EE_ABSOLUTE))


def test_errors_teach() -> None:
    normalizer = Normalizer.identity(EE_ABSOLUTE)
    with pytest.raises(ValueError, match=r"\(2, 7\).*\(..., 10\)"):
        normalizer.normalize(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(2, 7\).*\(..., 10\)"):
        normalizer.unnormalize(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"\(0, 10\).*at least one"):
        Normalizer.fit(torch.zeros(0, 10), EE_ABSOLUTE)
    with pytest.raises(ValueError, match=r"NaN.*validate"):
        Normalizer.fit(torch.full((4, 10), torch.nan), EE_ABSOLUTE)
    with pytest.raises(ValueError, match=r"margin must be 0 or more, got -0.1"):
        Normalizer.fit(data(), EE_ABSOLUTE, margin=-0.1)
    with pytest.raises(ValueError, match=r"\(10,\).*expected \(3,\) for both.*among the 10"):
        Normalizer.from_range(torch.zeros(10), torch.ones(10), EE_ABSOLUTE)
    with pytest.raises(ValueError, match=r"must not exceed"):
        Normalizer.from_range((1.0, 0, 0), (0.0, 1, 1), EE_ABSOLUTE)
    with pytest.raises(ValueError, match=r"scale finite and positive"):
        Normalizer(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"must both be \(a,\), got \(3,\) and \(4,\)"):
        Normalizer(torch.zeros(3), torch.ones(4))


# ── the floor under what is observed ─────────────────────────────────────────────────────────────────────────────────

NOISE = torch.tensor([0.0, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, FLOOR])


@pytest.mark.parametrize("least", [1.0, ANY_UNIT])
def test_a_column_that_moved_is_divided_by_its_spread(least: float) -> None:
    spread = torch.tensor([0.01, 0.02, 0.3, 3.0])
    assert torch.equal(floored(spread, torch.tensor([0.5, -1.0, 3.0, 0.0]), least), spread)


@pytest.mark.parametrize("centre", [0.0, 0.5, -3.0])
def test_a_state_that_hardly_moved_never_reaches_the_policy_as_thousands(centre: float) -> None:
    """A deviation of 1 mm or 1 mrad is at most one unit, and counts less the less the column moved."""
    columns = torch.cat([NOISE, torch.tensor([0.1, 0.5])])
    scale = floored(columns, torch.full_like(columns, centre))
    assert (1e-3 / scale <= 1.001).all()
    assert (1.0 / scale[: len(NOISE)][NOISE <= 1e-6] < 3).all()
    assert (scale[: len(NOISE)].diff() <= 0).all()
    assert floored(NOISE, torch.full_like(NOISE, centre)).isfinite().all()


@pytest.mark.parametrize("unit", [1e-2, 1.0, 100.0, 1e4])
def test_embeddings_are_scaled_alike_in_any_unit(unit: float) -> None:
    """A channel that is constant in training and active later stays in the range of the others."""
    generator = torch.Generator().manual_seed(0)
    cond = unit * torch.randn(256, 8, generator=generator)
    cond[:, 2] = 3 * unit
    cond[:, 5] = 1e-6 * unit * torch.randn(256, generator=generator)
    standard = Standardizer(8)
    standard.fit(cond)
    seen = standard(cond)
    alive = [0, 1, 3, 4, 6, 7]
    torch.testing.assert_close(seen[:, alive].std(0, correction=0), torch.ones(6))
    assert seen[:, [2, 5]].abs().max() < 1e-3
    assert standard(cond + unit)[:, [2, 5]].abs().max() < 2


def test_quiet_embeddings_are_no_noise() -> None:
    cond = 1e-4 * torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    standard = Standardizer(8)
    standard.fit(cond)
    torch.testing.assert_close(standard(cond).std(0, correction=0), torch.ones(8))


@pytest.mark.parametrize("tremble", [0.0, 1e-6, 1e-5])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_a_source_that_never_moved_at_all(centre: float, tremble: float) -> None:
    cond = centre + tremble * torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    standard = Standardizer(8)
    standard.fit(cond)
    assert standard(cond + 1e-4).abs().max() < 20  # A tenth of a millimetre, plus the noise of the column.
    assert standard(cond).isfinite().all()
