"""The fused kernels under Triton's interpreter, against eager. test_fused.py runs this with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy

from action_heads.backbones import BACKBONES
from action_heads.diffusion.objectives import PREDICTIONS, ObjectiveConfig
from action_heads.runtime.fused import FusedHead, Tiles, why_not_fused

HEADS = {b: {"backbone": b, "depth": 2, "horizon": 5} for b in BACKBONES}  # a horizon that tiles must pad
FUSED = {b: heads for b, heads in HEADS.items() if b in ("mlp", "mixer")}
PAIRS = [(b, m) for b in FUSED for m in BACKBONES[b].mechanisms]
MANY = Tiles(rows=64, up=64, depth=32)  # several chunks a program, and a product in two parts


def check(policy, batch: int, dtype=torch.float32, tiles: Tiles | None = None, **options) -> None:
    """Compare with eager. Both round to bfloat16 in other places, so there the mean difference counts too."""
    fast, cond = policy.compile("fused", dtype=dtype), conditions(batch)
    assert fast.compiled[:2] == ("fused", dtype)
    fast.head.tiles = tiles
    chunks = [p.sample(cond, generator=generator(), **options) for p in (policy, fast)]
    assert (fast.head.launches > 0, fast.head.fell_back) == (True, "")
    apart = (chunks[0] - chunks[1]).abs()
    assert apart.max() < (2e-6 if dtype == torch.float32 else 0.05)
    assert apart.mean() < (1e-6 if dtype == torch.float32 else 0.01)
    assert dtype == torch.float32 or apart.max() > 0


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Let a CPU without instructions for bfloat16 interpret it."""
    monkeypatch.setattr("action_heads.runtime.compiled.bfloat16_is_faster", lambda device: True)


@pytest.mark.parametrize(("backbone", "mechanism"), PAIRS)
def test_every_modulation(backbone, mechanism):
    policy = trained_policy(tiny_head(**FUSED[backbone]), mechanism)
    check(policy, 17, tiles=MANY, steps=1)
    if mechanism in ("film", "adaln_zero"):  # together they have every slot
        check(policy, 3, torch.bfloat16, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize(("backbone", "mechanism"), PAIRS)
def test_every_modulation_at_every_batch(backbone, mechanism, batch, dtype):
    for horizon in (5, 16):
        policy = trained_policy(tiny_head(**FUSED[backbone] | {"horizon": horizon}), mechanism)
        for tiles in (None, MANY):
            check(policy, batch, dtype, tiles, steps=2)


@pytest.mark.parametrize("backbone", FUSED)
def test_several_steps_of_one_chunk(backbone):
    """Heun's method keeps a memory from step to step; here of a chunk whose time steps have codes of their own."""
    policy = trained_policy(tiny_head(**FUSED[backbone]), per_step=True)
    check(policy, 1, sampler="heun", steps=2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_objective_of_mlp(prediction):
    head = tiny_head(**FUSED["mlp"] | {"depth": 1, "objective": ObjectiveConfig(prediction, clip=0.9)})
    check(trained_policy(head), 1, steps=1)


def test_odd_widths_of_mixer():
    """Widths and action spaces need not be powers of two."""
    check(trained_policy(tiny_head(**FUSED["mixer"] | {"width": 20, "depth": 1})), 3, steps=1)


def test_mlp_is_interpreted():
    assert why_not_fused(tiny_head("mlp")) == ""
    assert FusedHead(tiny_head("mlp"), torch.float32).kernels.enter.__class__.__name__ == "InterpretedFunction"
