"""Tests of `fit`."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head

from action_heads import Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.ema import EMA
from action_heads.fit import FitConfig, cosine, fit


@lru_cache
def run(seed: int = 0, **noise):
    torch.manual_seed(0)
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    losses = fit(policy, actions(64), conditions(64), config=FitConfig(steps=80, lr=1e-2, seed=seed, **noise))
    return policy, losses


def test_learns_and_keeps_the_head():
    before = tiny_head().fingerprint()
    policy, losses = run()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not policy.training
    assert policy.head.fingerprint() == before


def test_is_deterministic_by_seed():
    policies = [run(0)[0], run.__wrapped__(0)[0], run(1)[0]]
    samples = [policy.sample(conditions(), generator=generator()) for policy in policies]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("noise", [{"levels": "last"}, {"levels": "beta", "noise_samples": 4}])
def test_noise_is_an_option(noise):
    _, losses = run(**noise)
    assert losses != run()[1]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_rows_must_agree():
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    with pytest.raises(ValueError, match="same number of rows, one for each chunk; got 8, 4"):
        fit(policy, actions(8), conditions(4))


@pytest.mark.parametrize("cond_dim", [COND_DIM, {"state": COND_DIM}])
@pytest.mark.parametrize("name", ["actions", "cond"])
def test_data_with_gradients_is_refused(name, cond_dim):
    """The second training step had torch's error on a second backward pass through the encoder."""
    policy, scale = tiny_head().attach(AdaLNZero(cond_dim)), torch.ones((), requires_grad=True)

    def data(computed: str) -> dict:
        given = {"actions": actions(8), "cond": conditions(8)}
        given |= {computed: given[computed] * scale} if computed else {}
        return given if cond_dim == COND_DIM else given | {"cond": {"state": given["cond"]}}

    with pytest.raises(ValueError, match=rf"^{name} carries gradients, but `fit` .* Pass {name}\.detach\(\)"):
        fit(policy, **data(name), config=FitConfig(steps=2))
    fit(policy, **data(""), config=FitConfig(steps=2))


def test_chunks_of_padding_alone_are_named_before_training():
    """Such a chunk was drawn alone at some step, which ended the training there. Now the error comes at once."""
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    before = [p.clone() for p in policy.parameters()]
    pad = torch.zeros(64, 16, dtype=torch.bool)
    pad[:, 1:] = True  # one action is enough
    fit(policy, actions(64), conditions(64), is_pad=pad, config=FitConfig(steps=1, batch_size=1, ema=0.0))
    assert any(not torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))
    before = [p.clone() for p in policy.parameters()]
    pad[[3, 60]] = True
    with pytest.raises(ValueError, match=r"all 16 actions of 2 of 64 chunks as padding: rows 3, 60\. .*leave these"):
        fit(policy, actions(64), conditions(64), is_pad=pad)
    with pytest.raises(ValueError, match=r"of 64 of 64 chunks as padding: rows 0, 1, 2, 3, 4, \.\.\.\. Check"):
        fit(policy, actions(64), conditions(64), is_pad=torch.ones(64, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"is_pad is torch\.bool of shape \(64, 8\); expected .* \(64, 16\)"):
        fit(policy, actions(64), conditions(64), is_pad=pad[:, :8])
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))
    assert not policy.training


@pytest.mark.parametrize("wrong", [[0], [-1, 3], [3, 9, 12]])
def test_steps_that_training_never_reaches_are_not_kept(wrong):
    policy, kept = tiny_head().attach(AdaLNZero(COND_DIM)), []
    beyond = [step for step in wrong if step != 3]
    with pytest.raises(ValueError, match=rf"keep_at has the steps \{str(beyond)[:-1]}\], but .* the steps 1 to 8"):
        fit(policy, actions(8), conditions(8), config=FitConfig(steps=8), keep=kept.append, keep_at=wrong)
    assert not kept
    fit(policy, actions(8), conditions(8), config=FitConfig(steps=8), keep=kept.append, keep_at=(1, 3, 8))
    assert kept == [1, 3, 8]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("moment", ["keep", "loss", "backward", "average"])
@pytest.mark.parametrize("kind", ["adapter", "reshaped", "normal"])
def test_training_that_is_cut_short_leaves_the_average(kind, moment, error, monkeypatch):
    """Whatever fails in the sixth step: the policy is that of five steps, or of six once they are taken."""
    at = {"steps": 8, "lr": 1e-2, "batch_size": 8}
    policies = [made(kind) for _ in range(2)]
    taken: dict[int, list[torch.Tensor]] = {}

    def record(step: int) -> None:
        taken[step] = [p.detach().clone() for p in policies[0].parameters()]

    fit(policies[0], actions(8), conditions(8), config=FitConfig(**at), keep=record, keep_at=(5, 6))
    policy, calls = policies[1], []

    def fails(call):
        def instead(*args, **options):
            calls.append(1)
            if len(calls) == 6 or moment == "keep":
                raise error
            return call(*args, **options)

        return instead

    owner, name = {"loss": (policy, "loss"), "backward": (torch.Tensor, "backward"), "average": (EMA, "update")}.get(
        moment, (None, "")
    )
    if owner:
        monkeypatch.setattr(owner, name, fails(getattr(owner, name)))
    keep = fails(record) if moment == "keep" else None
    with pytest.raises(error):
        fit(policy, actions(8), conditions(8), config=FitConfig(**at), keep=keep, keep_at=(6,) if keep else ())
    expected = taken[6 if moment == "keep" else 5]
    assert all(torch.equal(p, kept) for p, kept in zip(policy.parameters(), expected, strict=True))
    assert not torch.equal(torch.cat([p.flatten() for p in taken[5]]), torch.cat([p.flatten() for p in taken[6]]))
    assert all(p.grad is None for p in policy.parameters())
    assert not any(module.training for module in policy.modules())


def made(kind: str, dtype: torch.dtype = torch.float32):
    head = tiny_head().to(dtype)
    head = {"adapter": lambda: head, "reshaped": head.reshape, "normal": lambda: head.in_mode("normal")}[kind]()
    normalizer = Normalizer.identity(head.config.space) if kind == "reshaped" else None
    torch.manual_seed(0)
    return head.attach(AdaLNZero(COND_DIM), normalizer=normalizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["adapter", "reshaped", "normal"])
def test_what_trains_is_in_32_bits(kind, dtype):
    """The frozen head may be rounded. What trains may not, since small updates would be rounded away."""
    policy = made(kind).to(dtype)
    with pytest.raises(
        ValueError, match=r"\d+ parameters that train are in 16 bits, first .* Load the policy again, or cast"
    ):
        fit(policy, actions(8), conditions(8), config=FitConfig(steps=1))
    if (kind, dtype) in (("adapter", torch.bfloat16), ("reshaped", torch.bfloat16)):
        fit(made(kind, dtype), actions(8), conditions(8), config=FitConfig(steps=1))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"warmup": 0}, {"batch_size": 0}, {"precision": "fp8"}, {"levels": "all"}, {"noise_samples": 0}],
)
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FitConfig(**wrong)


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [cosine(step, steps=1000, lr=1.0, warmup=10) for step in range(1000)]
    assert rates[0] < 0.11
    assert rates[10] > 0.99
    assert rates[999] < 1e-5
