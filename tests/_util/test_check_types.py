"""Tests of the checks of arguments."""

from __future__ import annotations

import pytest
import torch
from small import COND_DIM, actions, conditions, tiny_head

from action_heads import ActionHead, AdapterBank, BackgroundExecutor, Executor
from action_heads.adapters import AdaLNZero
from action_heads.fit import fit
from action_heads.policy import ConditionedHead

HEAD = tiny_head()
POLICY = HEAD.attach(AdaLNZero(COND_DIM))
NOISE = torch.randn(100, 16, 10)


@pytest.mark.parametrize(
    ("call", "said"),
    {
        "head of a name": (lambda: ActionHead("dae/mlp-5m-fk"), "config must be a HeadConfig, got 'dae/mlp-5m-fk'"),
        "count in quotes": (lambda: HEAD.sample("2"), "batch must be an integer of at least 1, got '2'"),
        "tensor as a count": (lambda: HEAD.sample(NOISE), "batch must be an integer of at least 1, got a Tensor"),
        "tensor as a generator": (
            lambda: HEAD.sample(1, generator=NOISE),
            "generator must be a torch.Generator, got a Tensor",
        ),
        "normalizer": (
            lambda: HEAD.attach(AdaLNZero(COND_DIM), normalizer="x"),
            "normalizer must be a Normalizer, got 'x'",
        ),
        "adapter": (lambda: HEAD.attach(NOISE), "attach needs an adapter object, got a Tensor"),
        "bank of a name": (lambda: AdapterBank("dae/mlp-5m-fk"), "head must be an ActionHead, got 'dae/mlp-5m-fk'"),
        "bank of a policy": (lambda: AdapterBank(POLICY), "head must be an ActionHead, got a ConditionedHead"),
        "executor of a head": (lambda: Executor(HEAD), r"head.attach\(adapter\) returns; got an ActionHead"),
        "executor of a name": (lambda: Executor("x"), r"sample\(cond\), .*; got 'x'"),
        "background executor": (lambda: BackgroundExecutor(HEAD, delay=2), "; got an ActionHead"),
        "fit of a head": (
            lambda: fit(HEAD, actions(), conditions()),
            "policy must be a ConditionedHead, got an ActionHead",
        ),
        "fit with a dict": (
            lambda: fit(POLICY, actions(), conditions(), config={}),
            "config must be a FitConfig, got a dict",
        ),
        "fit to an encoder": (
            lambda: fit(POLICY, actions(), torch.nn.Linear(3, COND_DIM)),
            "cond must be a Tensor or an Embeddings, got a Linear",
        ),
        "fit without cond": (lambda: fit(POLICY, actions(), None), "cond must be a Tensor or .*, got None"),
        "policy of a name": (
            lambda: ConditionedHead("dae/mlp-5m-fk", AdaLNZero(COND_DIM)),
            "head must be an ActionHead, got 'dae/mlp-5m-fk'",
        ),
    }.values(),
)
def test_other_objects_are_named_at_once(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert len(str(error.value)) < 500  # A tensor is named, not printed.


def test_executors_and_policies_describe_themselves():
    policy = f"ConditionedHead(test/tiny + AdaLNZero, cond_dim={COND_DIM}"
    assert repr(Executor(POLICY, execute=4)).startswith(f"Executor({policy}")
    with BackgroundExecutor(tiny_head("mixer").attach(AdaLNZero(COND_DIM)), execute=4, delay=2) as background:
        assert repr(background).startswith(f"BackgroundExecutor({policy}")
        assert repr(background).endswith("execute=4, delay=2)")
    fast = POLICY.compile("eager")
    assert (POLICY.device, fast.device) == (HEAD.device, HEAD.device)
    assert (POLICY.dtype, fast.dtype) == (torch.float32, torch.float32)
