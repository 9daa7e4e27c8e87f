"""The sources of Stage 1 mix by their weights, and their chunks become actions of the head's space."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from action_heads import EE_ABSOLUTE, EE_DELTA
from action_heads.pretrain import data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["synthetic:panda", "recorded:panda"])
def test_sources(name):
    actions, signal = data.chunks(data.source(name, 16)(32, generator()), EE_ABSOLUTE)
    EE_ABSOLUTE.validate(actions, 16)
    assert signal.shape == (32, 16 * 8)
    assert actions[..., :3].abs().max() < 1.3  # the Panda's reach, m
    again, _ = data.chunks(data.source(name, 16)(32, generator()), EE_ABSOLUTE)
    assert torch.equal(actions, again)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_mixture_gives_what_was_asked(n):
    motion = data.Mixture(["synthetic:panda", "recorded:panda"], 16)(n, generator())
    assert motion.joints.shape == (n, 16, 7)
    assert motion.poses.shape == (n, 16, 10)


@pytest.mark.parametrize("n", [1, 3, 10, 97, 256])
def test_shares_follow_the_weights(n):
    names = ["synthetic:panda@3", "recorded:panda", "synthetic:panda?rate=15@0.5"]
    mixed = data.Mixture(names, 16)
    counts = mixed.split(n)
    assert sum(counts) == n
    for count, weight in zip(counts, (3, 1, 0.5), strict=True):
        assert abs(count - n * weight / 4.5) < 1
    assert [line["share"] for line in mixed.record] == [0.6667, 0.2222, 0.1111]


def test_a_share_of_nothing_is_refused():
    names = ["synthetic:panda@400", "recorded:panda@2"]
    data.check_shares(names, 256)
    with pytest.raises(
        ValueError, match=r"recorded:panda@2 would never be .*is 2 of 402 .*64 chunks that a process.*--batch"
    ):
        data.check_shares(names, 64)


def test_mixture_follows_the_generator():
    mixed = data.Mixture(["synthetic:panda@2", "recorded:panda"], 16)
    first, again, other = (mixed(33, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.poses, again.poses)
    assert torch.equal(first.joints, again.joints)
    assert not torch.equal(first.poses, other.poses)


def test_mixture_knows_what_it_is_made_of():
    mixed = data.Mixture(["synthetic:panda", "recorded:panda"], 16, "held_out")
    assert (mixed.joints, mixed.rate_hz) == (7, 15.0)
    assert mixed.record[0] == {"source": "synthetic:panda", "share": 0.5}
    assert mixed.record[1]["episodes"] == 19
    assert mixed.record[1]["held_out_hash"] == "ffdfd499d86ed2b4"
    assert data.Mixture(["recorded:panda"], 16).record[0]["held_out_hash"] == "ffdfd499d86ed2b4"
    assert mixed.record[1]["hours"] == pytest.approx(0.1, abs=0.05)


def test_arms_with_other_joints_mix_by_their_poses_alone():
    pytest.importorskip("pinocchio")
    six = Path(__file__).parents[1] / "kinematics" / "data" / "six.urdf"
    motion = data.source(f"synthetic:{six}", 16)(8, generator())
    assert motion.joints.shape == (8, 16, 6)
    _, signal = data.chunks(motion, EE_ABSOLUTE)
    assert signal.shape == (8, 16 * 7)
    mixed = data.Mixture([f"synthetic:{six}?tip=hand", "synthetic:panda"], 16)
    assert mixed.joints is None
    motion = mixed(8, generator())
    assert motion.joints is None
    EE_ABSOLUTE.validate(motion.poses, 16)


def test_sources_that_do_not_mix():
    with pytest.raises(ValueError, match=r"panda at 15 Hz, synthetic:panda\?rate=20 at 20 Hz. Give all of them"):
        data.Mixture(["recorded:panda", "synthetic:panda?rate=20"], 16)
    with pytest.raises(ValueError, match="tip=flange was given for panda"):
        data.Mixture(["synthetic:panda?tip=flange"], 16)
    with pytest.raises(ValueError, match="at least one"):
        data.Mixture([], 16)


def test_unknown_source():
    with pytest.raises(ValueError, match=r"choose from synthetic:panda, .*recorded:panda"):
        data.Mixture(["droid"], 16)


def test_deltas_lead_from_pose_to_pose():
    motion = data.source("synthetic:panda", data.window(EE_DELTA, 16))(32, generator())
    actions, signal = data.chunks(motion, EE_DELTA)
    assert signal.shape == (32, 16 * 8)
    poses = EE_DELTA.to_absolute(actions, motion.poses[:, 0, :9])
    torch.testing.assert_close(poses, motion.poses[:, 1:], rtol=0, atol=1e-5)


def test_through_a_task_only_scales_and_shifts_positions():
    actions, _ = data.chunks(data.source("synthetic:panda", 16)(256, generator()), EE_ABSOLUTE)
    seen = data.through_a_task(actions, EE_ABSOLUTE, generator(1))
    assert torch.equal(seen[..., 3:], actions[..., 3:])
    assert seen[..., :3].abs().max() <= 1 + 1e-5
    # one scale for all three axes of a chunk: shapes are kept
    before, after = (x[..., :3] - x[:, :1, :3] for x in (actions, seen))
    moving = before.norm(dim=-1).amax(1) > 0.02
    scale = after[moving].norm(dim=-1).amax(1) / before[moving].norm(dim=-1).amax(1)
    torch.testing.assert_close(after[moving], before[moving] * scale[:, None, None], rtol=1e-3, atol=1e-4)
    assert scale.max() / scale.min() > 3


def test_through_a_task_scales_deltas_about_standing_still():
    motion = data.source("synthetic:panda", data.window(EE_DELTA, 16))(256, generator())
    actions, _ = data.chunks(motion, EE_DELTA)
    seen = data.through_a_task(actions, EE_DELTA, generator(1))
    assert torch.equal(seen[..., 3:], actions[..., 3:])
    assert seen[..., :3].abs().max() <= 1 + 1e-6
    actions, seen = (x[actions[..., :3].norm(dim=-1).amax(1) > 1e-3] for x in (actions, seen))  # the rest stand still
    ratio = seen[..., :3].norm(dim=-1).amax(1) / actions[..., :3].norm(dim=-1).amax(1)
    torch.testing.assert_close(seen[..., :3], actions[..., :3] * ratio[:, None, None], rtol=1e-3, atol=1e-4)
    assert ratio.max() / ratio.min() > 5
