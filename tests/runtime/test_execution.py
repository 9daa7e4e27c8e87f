"""The executor turns chunks into one action per tick."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy

from action_heads.runtime.background import BackgroundExecutor
from action_heads.runtime.execution import Executor


class Clock:
    """A policy whose n-th chunk holds 100·n + time step; it records its arguments."""

    def __init__(self, horizon: int = 16):
        self.horizon, self.asked = horizon, []

    def sample(self, cond, **options):
        self.asked.append(options)
        return (100.0 * len(self.asked) + torch.arange(self.horizon)).expand(len(cond), -1)[..., None]


def ticks(executor: Executor, n: int) -> list[float]:
    return [float(executor(torch.zeros(1, 3))[0, 0]) for _ in range(n)]


def test_receding_horizon_plays_the_first_steps_of_each_chunk():
    assert ticks(Executor(Clock(), execute=3), 7) == [100, 101, 102, 200, 201, 202, 300]


def test_reset_forgets():
    executor = Executor(Clock(), execute=8, delay=2)
    ticks(executor, 5)
    executor.reset()
    assert ticks(executor, 1) == [200]
    assert executor.policy.asked[-1] == {}


def test_ensembling_weights_the_oldest_most():
    m, executor = 0.5, Executor(Clock(4), execute=1, ensemble=0.5)
    got = ticks(executor, 6)
    weight = torch.exp(-m * torch.arange(4.0))
    # At the sixth tick chunks 3 to 6 speak of it: the oldest with its last step.
    said = torch.tensor([303.0, 402.0, 501.0, 600.0])
    assert got[5] == pytest.approx(float((weight * said).sum() / weight.sum()))
    assert got[0] == 100
    assert ticks(Executor(Clock(4), execute=1, ensemble=0.0), 2)[1] == pytest.approx((101 + 200) / 2)


def test_ensembling_with_sparse_chunks():
    assert ticks(Executor(Clock(8), execute=4, ensemble=0.0), 6)[5] == pytest.approx((105 + 201) / 2)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{"ensemble": 0.5}, {"warm_start": 0.5}, {"delay": 1}, {}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_chunks_of_every_dtype_make_actions_of_that_dtype(dtype, options, default):
    """The numbers are those of float32, up to the rounding of the dtype."""

    class Cast(Clock):
        def sample(self, cond, **options):
            return super().sample(cond, **options).to(dtype)

    expected = ticks(Executor(Clock(4), execute=1, **options), 6)
    was = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        executor = Executor(Cast(4), execute=1, **options)
        assert ticks(executor, 6) == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps + 1e-6)
    finally:
        torch.set_default_dtype(was)
    assert executor.last.dtype == dtype


def test_what_is_left_is_passed_on():
    policy = Clock()
    ticks(Executor(policy, execute=6, delay=4, warm_start=0.4, steps=3), 7)
    first, second = policy.asked
    assert first == {"steps": 3}
    assert second["previous"][0, :, 0].tolist() == list(range(106, 116))
    assert (second["committed"], second["start"], second["steps"]) == (4, 0.4, 3)


def test_an_ensemble_warm_starts_from_the_newest_chunk():
    policy = Clock(8)
    ticks(Executor(policy, execute=2, ensemble=0.0, warm_start=0.5), 5)
    assert [asked.get("previous", torch.zeros(1, 0, 1))[0, :, 0].tolist() for asked in policy.asked] == [
        [],
        list(range(102, 108)),
        list(range(202, 208)),
    ]


def test_due_says_when_a_condition_is_needed():
    policy, due = Clock(), []
    executor = Executor(policy, execute=3)
    for _ in range(5):
        due.append(executor.due)
        executor(torch.zeros(1, 3) if executor.due else None)
    assert due == [True, False, False, True, False]
    executor(None)
    with pytest.raises(ValueError, match=r"Tick 6 needs a new chunk\. Pass cond"):
        executor(None)


def test_options_of_the_moment_are_passed_on():
    policy = Clock()
    executor = Executor(policy, execute=2, steps=3)
    for mask in "abc":
        executor(torch.zeros(1, 3), mask=mask)
    assert policy.asked == [{"steps": 3, "mask": "a"}, {"steps": 3, "mask": "c"}]


def test_a_real_policy_continues_without_a_jump():
    policy = trained_policy(tiny_head("mixer"))
    executor = Executor(policy, execute=4, delay=2, steps=2, generator=generator())
    played = torch.stack([executor(conditions(2)) for _ in range(4)], dim=1)
    left = executor.chunks[-1]
    following = torch.stack([executor(conditions(2)) for _ in range(2)], dim=1)
    assert played.shape == (2, 4, 10)
    assert torch.equal(following, left[:, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"execute": 0}, "execute must be an integer of at least 1, got 0"),
        ({"execute": 2.5}, r"execute must be an integer of at least 1, got 2\.5"),
        ({"execute": True}, "execute must be an integer of at least 1, got True"),
        ({"execute": 4, "delay": 5}, "delay must be a whole number of ticks between 0 and execute"),
        ({"execute": 4, "delay": 1.5}, "delay must be a whole number of ticks between 0 and execute"),
        ({"ensemble": -0.1}, "ensemble must be 0 or more and finite"),
        ({"ensemble": float("inf")}, "ensemble must be 0 or more and finite"),
        ({"ensemble": float("nan")}, "ensemble must be 0 or more and finite"),
        ({"ensemble": 0.1, "delay": 1}, "without a delay"),
        ({"warm_start": 0.0}, "above 0 and at most 1"),
        ({"warm_start": 1.1}, "above 0 and at most 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Executor(Clock(), **options)


@pytest.mark.parametrize("kind", [Executor, partial(BackgroundExecutor, delay=1)])
@pytest.mark.parametrize("option", ["stepz", "previous", "start"])
def test_an_unknown_option_is_refused_before_the_first_tick(kind, option):
    policy = trained_policy(tiny_head())
    with pytest.raises(TypeError, match=f"does not take {option}; the options of policy.sample are .*steps"):
        kind(policy, execute=4, **{option: 3})


def test_an_action_that_is_not_finite_never_leaves():
    class Doubled(Executor):
        def _action(self, chunks):
            return 2 * super()._action(chunks)

    executor = Doubled(Sometimes(lambda chunk: chunk.fill_(3e38), at=1), execute=1)
    with pytest.raises(ValueError, match=r"The action of tick 0 is NaN or infinite: a row"):
        executor(torch.zeros(1, 3))
    assert executor.tick == 0


def test_chunks_that_run_out():
    with pytest.raises(ValueError, match="chunk has 4 time steps, but execute=8"):
        ticks(Executor(Clock(4), execute=8), 1)
    with pytest.raises(ValueError, match="leaves nothing for a warm start"):
        ticks(Executor(Clock(8), execute=8, warm_start=0.5), 1)


def test_too_many_steps_after_a_warm_start_name_both_remedies():
    policy = trained_policy(tiny_head())
    message = r"between 1 and 1, .*got 10\. Set steps=1 or fewer, or raise the share of noise: warm_start="
    with pytest.raises(ValueError, match=message):
        Executor(policy, warm_start=0.001, steps=10)
    Executor(policy, warm_start=0.001, steps=1)


def test_a_delay_asks_for_a_backbone_that_mixes_time():
    with pytest.raises(ValueError, match="mlp denoises every time step of a chunk independently"):
        Executor(trained_policy(tiny_head("mlp")), delay=1)


# ── what is not taken ────────────────────────────────────────────────────────────────────────────────────────────────


class Sometimes(Clock):
    """A `Clock` whose n-th chunk is damaged."""

    def __init__(self, spoil, at: int, horizon: int = 16):
        super().__init__(horizon)
        self.spoil, self.at = spoil, at

    def sample(self, cond, **options):
        chunk = super().sample(cond, **options).clone()
        return self.spoil(chunk) if len(self.asked) == self.at else chunk


def with_nan(chunk: torch.Tensor) -> torch.Tensor:
    chunk[0, 9, 0] = float("nan")  # of a step that would not even be executed
    return chunk


def with_infinity(chunk: torch.Tensor) -> torch.Tensor:
    return chunk.index_fill(1, torch.tensor([3]), -float("inf"))


SPOILT = {
    "NaN": (with_nan, "NaN or infinity, first for robot 0, time step 9, dimension 0"),
    "infinity": (with_infinity, "NaN or infinity, first for robot 0, time step 3"),
    "no batch": (lambda chunk: chunk[0], r"returned torch.float32 \(16, 1\)"),
    "another batch": (lambda chunk: torch.cat([chunk, chunk]), r"\(2, 16, 1\); expected floats \(1, steps, action\)"),
    "another width": (lambda chunk: torch.cat([chunk, chunk], -1), r"\(1, 16, 2\) after one .* 1 numbers"),
    "too short": (lambda chunk: chunk[:, :2], "chunk has 2 time steps"),
    "no step": (lambda chunk: chunk[:, :0], r"\(1, 0, 1\)"),
    "whole numbers": (lambda chunk: chunk.long(), "torch.int64"),
    "a list": (lambda chunk: chunk.tolist(), "a list"),
    "numpy": (lambda chunk: chunk.numpy(), "a ndarray"),
}


@pytest.mark.parametrize("options", [{}, {"delay": 2}, {"ensemble": 0.1}, {"warm_start": 0.5}], ids=str)
@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_chunk_is_refused_and_nothing_is_lost(name, options):
    """A bad chunk raises an error and leaves the executor unchanged, so that the next call asks again and goes on."""
    spoil, message = SPOILT[name]
    executor = Executor(Sometimes(spoil, at=2), execute=4, **options)
    undisturbed = Executor(Clock(), execute=4, **options)
    assert ticks(executor, 4) == ticks(undisturbed, 4)
    tick, chunks, last = executor.tick, list(executor.chunks), executor.last
    with pytest.raises(ValueError, match=message):
        executor(torch.zeros(1, 3))
    assert (executor.tick, executor.due, executor.last is last) == (tick, True, True)
    assert len(executor.chunks) == len(chunks)
    assert all(torch.equal(a, b) for a, b in zip(executor.chunks, chunks, strict=True))
    undisturbed.policy.asked.append({})  # the spoilt one counted
    assert ticks(executor, 6) == ticks(undisturbed, 6)


def test_a_policy_that_raises_leaves_the_executor_as_it_was():
    def fail(chunk):
        raise RuntimeError("the server is gone")

    executor = Executor(Sometimes(fail, at=2), execute=4)
    ticks(executor, 4)
    with pytest.raises(RuntimeError, match="gone"):
        executor(torch.zeros(1, 3))
    assert ticks(executor, 2) == [300, 301]


def test_an_action_without_a_value_is_refused():
    """An action that is not finite, such as the mean of two opposite rotations, raises an error."""
    executor = Executor(Clock(), execute=2, decode=lambda action, last: action / (action - 101))
    assert ticks(executor, 1) == [-100]
    with pytest.raises(ValueError, match="The action of tick 1 is NaN or infinite after decoding"):
        executor(None)
    assert executor.tick == 1
