"""The work of a chunk and of a training step stays within counted operations, operators and allocations.

Axes: b batch, h horizon, a action, c condition, w width, u hidden units, r code, P modulation values.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero, FiLM

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    work = import_module("work")

B, H, A, W, U, DEPTH, R = 4, 16, 10, 16, 64, 3, 4  # of tiny_head and its batches
PROJECTIONS = 2 * B * H * 2 * A * W  # from and to actions
BLOCKS = 2 * B * H * DEPTH * 2 * W * U
READ = 2 * B * (COND_DIM * W + W * W)  # the adapter's reading network, twice its multiplications


def sampling(policy, k: int):
    call = partial(policy.sample, conditions(B), steps=k)
    call()
    return work.count(call)


@pytest.mark.parametrize(("mechanism", "values"), [("adaln_zero", DEPTH * 3 * W), ("film", DEPTH * 2 * U)])
def test_a_chunk_costs_what_the_formula_says(mechanism, values):
    """A chunk costs K evaluations of the network and one of the modulation, which is planned before the loop."""
    policy = trained_policy(tiny_head(), mechanism)
    modulation = READ + 2 * B * (W * values + W * R + R * values)
    for k in (1, 10):
        assert sampling(policy, k).flops == k * (PROJECTIONS + BLOCKS) + modulation


# Operators and allocations of one denoising step. More is a regression; where fewer suffice, lower the number.
STEPS = {
    ("mlp", "adaln_zero"): (40, 48),
    ("mlp", "film"): (34, 42),
    ("mixer", "adaln_zero"): (49, 57),
    ("transformer", "adaln_zero"): (69, 86),
    ("unet", "film"): (140, 190),
}


# Other versions take operations apart in other ways. Products are the same in all.
counted_here = pytest.mark.skipif(torch.__version__ < "2.11", reason="operators were counted on torch 2.11")


@counted_here
@pytest.mark.parametrize(("backbone", "mechanism"), STEPS)
def test_operators_of_a_denoising_step(backbone, mechanism):
    policy = trained_policy(tiny_head(backbone), mechanism)
    step = sampling(policy, 10) - sampling(policy, 9)
    operators, allocations = STEPS[backbone, mechanism]
    assert step.operators <= operators
    assert step.allocations <= allocations


@counted_here
def test_a_chunk_of_the_shipped_head():
    """A chunk of ten steps costs 1.35 GFLOP, the floor in docs/results/speed-cpu.md."""
    policy = ActionHead.from_pretrained("dae/mlp-5m-fk").attach(AdaLNZero(1024)).eval()
    cond = torch.zeros(1, 1024)
    policy.sample(cond)
    found = work.count(lambda: policy.sample(cond))
    assert found.flops == 1_348_435_968
    assert found.operators <= 923  # 12 of them look whether condition, chunk and frozen head are sound
    assert found.bytes <= 19_690_000


def training(policy):
    def step() -> None:
        policy.zero_grad()
        policy.loss(actions(B), conditions(B), generator=generator()).backward()

    policy.train()
    step()
    return work.count(step)


def test_a_frozen_network_gets_no_weight_gradients():
    """Stage 2 computes the frozen network's gradients by inputs only, and the adapter's also by weights."""
    policy = trained_policy(tiny_head())
    values = policy.modulation.values
    forward = PROJECTIONS + BLOCKS
    by_inputs = PROJECTIONS // 2 + BLOCKS  # nothing asks for the gradient by noisy actions
    maps = 2 * B * W * (values + R)
    adapter = 3 * (READ + maps) - 2 * B * COND_DIM * W + 2 * (2 * B * R * values)  # nor by the condition
    assert training(policy).flops == forward + by_inputs + adapter
    assert all(p.grad is None for p in policy.head.parameters())
    assert all(p.grad is not None for p in policy.adapter.parameters())


def test_normal_training_costs_the_weight_gradients():
    head = tiny_head()
    policies = [mode.attach(AdaLNZero(COND_DIM)) for mode in (head, head.in_mode("normal"))]
    frozen, normal = (training(policy) for policy in policies)
    assert normal.flops - frozen.flops >= PROJECTIONS + BLOCKS
    assert frozen.operators < normal.operators


def test_noise_samples_share_the_adapters_work():
    policy = trained_policy(tiny_head())

    def loss(n: int):
        return policy.loss(actions(B), conditions(B), noise_samples=n)

    loss(1)
    one, eight = (work.count(partial(loss, n)) for n in (1, 8))
    assert eight.flops - one.flops == 7 * (PROJECTIONS + BLOCKS)


@counted_here
def test_operators_of_a_training_step():
    assert training(trained_policy(tiny_head())).operators <= 145
    assert training(tiny_head().attach(FiLM(COND_DIM))).operators <= 128
