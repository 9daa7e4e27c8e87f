"""The surroundings of a call change neither later calls nor files: autocast, a default dtype or device, a mode."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from action_heads import ActionHead, ConditionedHead, HeadConfig, Normalizer
from action_heads.adapters import AdaLNZero, FiLM

HEAD = "dae/mlp-0.7m-fk"
DTYPES = (torch.bfloat16, torch.float16, torch.float64)


@contextmanager
def default_dtype(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "meta": lambda: torch.device("meta"),
    **{str(dtype): lambda dtype=dtype: default_dtype(dtype) for dtype in DTYPES},
}


def seeded() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)


def policy_of(head: ActionHead) -> ConditionedHead:
    torch.manual_seed(0)
    policy = head.attach(AdaLNZero(cond_dim=8, through="code", hidden_dim=16))
    torch.nn.init.normal_(policy.adapter.aim.weight, std=0.05)
    return policy


def use(policy: ConditionedHead, cond: torch.Tensor, actions: torch.Tensor) -> None:
    """Use all that keeps something: tables, plans, the noise path."""
    policy.sample(cond, generator=seeded())
    policy.sample(cond, sampler="dpmpp_2m", steps=4, spacing="leading", generator=seeded())
    policy.head.sample(1, generator=seeded())
    policy.loss(actions, cond, generator=seeded())
    policy.compile("packed").sample(cond, generator=seeded())


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_first_call_inside_leaves_nothing_for_calls_outside(name, tmp_path):
    cond, actions = torch.linspace(-1, 1, 16).view(2, 8), torch.zeros(2, 16, 10)
    expected = policy_of(ActionHead.from_pretrained(HEAD))
    wanted = expected.sample(cond, generator=seeded())
    policy = policy_of(ActionHead.from_pretrained(HEAD))
    with SURROUNDINGS[name]():
        use(policy, cond, actions)
    assert torch.equal(policy.sample(cond, generator=seeded()), wanted)
    assert torch.equal(policy.head.step_table("adaln_zero"), expected.head.step_table("adaln_zero"))
    assert torch.equal(policy.loss(actions, cond, generator=seeded()), expected.loss(actions, cond, generator=seeded()))
    loaded = ConditionedHead.from_pretrained(policy.save_adapter(tmp_path))
    assert torch.equal(loaded.sample(cond, generator=seeded()), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_default_dtype_does_not_change_heads_adapters_or_chunks(dtype, tmp_path):
    cond = torch.linspace(-1, 1, 16).view(2, 8)
    expected = policy_of(ActionHead.from_pretrained(HEAD))
    wanted = expected.sample(cond, generator=seeded())
    expected.save_adapter(tmp_path / "adapter")
    with default_dtype(dtype):
        new = ActionHead(HeadConfig(name="me/new", width=16, depth=2)).freeze()
        reshaped = new.reshape(horizon=8)
        normalizer = Normalizer.fit(torch.rand(4, 8, 10), reshaped.config.space)
        for policy in (new.attach(FiLM(cond_dim=8)), reshaped.attach(FiLM(cond_dim=8), normalizer=normalizer)):
            assert {tensor.dtype for tensor in policy.state_dict().values()} == {torch.float32}
            assert policy.sample(cond).dtype == torch.float32
        saved = new.save_pretrained(tmp_path / "head")
        assert {p.dtype for p in ActionHead.from_pretrained(saved).parameters()} == {torch.float32}
        loaded = ConditionedHead.from_pretrained(tmp_path / "adapter")
        assert torch.equal(loaded.sample(cond, generator=seeded()), wanted)
        assert torch.equal(expected.sample(cond, generator=seeded()), wanted)


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "flow"])
def test_a_head_without_memory_counts_its_parameters_and_spoils_nothing(prediction):
    from action_heads.diffusion.noise_schedule import noise_path
    from action_heads.diffusion.objectives import ObjectiveConfig

    noise_path.cache_clear()
    config = HeadConfig(name="me/x", width=32, depth=2, objective=ObjectiveConfig(prediction))
    with torch.device("meta"):
        empty = ActionHead(config)
    assert {tensor.device.type for tensor in (*empty.parameters(), *empty.buffers())} == {"meta"}
    head = ActionHead(config)
    assert sum(p.numel() for p in empty.parameters()) == sum(p.numel() for p in head.parameters())
    assert head.device == torch.device("cpu")
    assert head.sample(1).isfinite().all()
