"""One action a tick, from chunks."""

from __future__ import annotations

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy

from action_heads.execution import Executor


class Clock:
    """A policy whose n-th chunk says 100·n + step; it remembers what it was asked."""

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
    with pytest.raises(ValueError, match="tick 6 asks for a chunk: pass cond"):
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
        ({"execute": 0}, "execute must be at least 1"),
        ({"execute": 4, "delay": 5}, "delay must be between 0 and execute"),
        ({"ensemble": -0.1}, "ensemble is a rate"),
        ({"ensemble": 0.1, "delay": 1}, "without a delay"),
        ({"warm_start": 0.0}, "above 0 and at most 1"),
        ({"warm_start": 1.1}, "above 0 and at most 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Executor(Clock(), **options)


def test_chunks_that_run_out():
    with pytest.raises(ValueError, match="chunks of 4 steps run out"):
        ticks(Executor(Clock(4), execute=8), 1)
    with pytest.raises(ValueError, match="leaves nothing for a warm start"):
        ticks(Executor(Clock(8), execute=8, warm_start=0.5), 1)


def test_a_delay_asks_for_a_backbone_that_mixes_time():
    with pytest.raises(ValueError, match="mlp denoises every step of a chunk alone"):
        Executor(trained_policy(tiny_head("mlp")), delay=1)
