"""What must hold on CUDA; run by hand with `pytest -m gpu`."""

from __future__ import annotations

import copy

import pytest
import torch
from small import COND_DIM, actions, conditions, generator

from action_heads import ActionHead, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit

pytestmark = pytest.mark.gpu


def test_same_numbers_as_on_the_cpu(policy):
    """A CPU generator gives a head on CUDA the same noise."""
    expected = policy.sample(conditions(), generator=generator())
    loss = policy.loss(actions(), conditions(), generator=generator())
    there = copy.deepcopy(policy).to("cuda")
    got = there.sample(conditions().cuda(), generator=generator())
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
    on_cuda = there.loss(actions().cuda(), conditions().cuda(), generator=generator())
    torch.testing.assert_close(on_cuda.cpu(), loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_trains_on_a_shipped_head(dtype):
    head = ActionHead.from_pretrained("dae/mlp-5m-fk", device="cuda", dtype=dtype)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.fit(actions(64), head.config.space))
    losses = fit(policy, actions(64), conditions(64), config=FitConfig(steps=100))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
