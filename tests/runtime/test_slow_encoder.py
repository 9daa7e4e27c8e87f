"""An encoder in the background: the newest embedding and its age, bounds on the age, errors, and new episodes."""

from __future__ import annotations

import threading

import pytest
import torch
from small import COND_DIM, generator, tiny_head, trained_policy

from action_heads import Executor
from action_heads.adapters import AdaLNZero
from action_heads.runtime.slow_encoder import Ages, SlowEncoder, StaleEmbedding

SOON = 10.0  # seconds; a test that waits as long has failed


def number(observation: float) -> tuple[torch.Tensor, None]:
    return torch.full((1, 2), float(observation)), None


class Gate:
    """An encoder whose calls end when they are let through; it says when one has begun."""

    def __init__(self):
        self.begun, self.ends, self.asked = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, observation):
        self.asked.append(observation)
        self.begun.release()
        assert self.ends.acquire(timeout=SOON)
        if isinstance(observation, Exception):
            raise observation
        return number(observation)

    def let_through(self, slow: SlowEncoder) -> None:
        """End the call that runs, and wait until its result is there."""
        assert self.begun.acquire(timeout=SOON)
        call = slow._call
        assert call is not None
        self.ends.release()
        call.future.exception(timeout=SOON)


def seen(slow: SlowEncoder, observations) -> list[float]:
    return [float(slow(observation)[0][0, 0]) for observation in observations]


# ── simulated latency ────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_latency_is_a_plain_encoder():
    slow = SlowEncoder(number, latency=0)
    assert seen(slow, range(5)) == [0, 1, 2, 3, 4]
    assert (slow.ages.counts, slow.ages.mean, slow.waits) == ({0: 5}, 0, 0)


def test_a_refresh_every_few_ticks():
    slow, asked = SlowEncoder(lambda x: (asked.append(x), number(x))[1], every=3, latency=0), []
    assert seen(slow, range(7)) == [0, 0, 0, 3, 3, 3, 6]
    assert asked == [0, 3, 6]
    assert (slow.ages.counts, slow.ages.max) == ({0: 3, 1: 2, 2: 2}, 2)


def test_a_simulated_latency_shows_what_was_seen_then():
    """The first embedding is waited for; from then on the calls follow one another."""
    slow = SlowEncoder(number, latency=2)
    assert seen(slow, range(7)) == [0, 0, 0, 1, 1, 3, 3]
    assert (slow.waits, slow.ages.max) == (1, 3)


def test_a_call_that_raises_for_a_missing_embedding_does_not_wait():
    slow = SlowEncoder(number, latency=2, late="raise")
    for tick in range(2):
        with pytest.raises(StaleEmbedding, match="there is no embedding yet"):
            slow(tick)
    assert seen(slow, [2, 3]) == [0, 0]
    assert slow.ages.counts == {2: 1, 3: 1}


def test_fresh_marks_the_first_use_of_an_embedding():
    slow, fresh = SlowEncoder(number, every=2, latency=0), []
    for tick in range(4):
        slow(tick)
        fresh.append(slow.fresh)
    assert fresh == [True, False, True, False]


def test_an_embedding_that_was_looked_at_between_two_ticks_is_still_fresh():
    gate = Gate()
    with SlowEncoder(gate) as slow:
        slow.offer(0)
        gate.let_through(slow)
        assert seen(slow, [1]) == [0]
        gate.let_through(slow)
        newest = slow.latest()
        assert newest is not None
        assert newest.age == 0
        assert seen(slow, [2]) == [1]
        assert slow.fresh
        gate.let_through(slow)


# ── the background thread ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_newest_embedding_is_used_until_the_next_is_ready():
    gate = Gate()
    with SlowEncoder(gate) as slow:
        assert slow.offer(0)
        assert slow.latest() is None
        gate.let_through(slow)
        assert seen(slow, [1, 2]) == [0, 0]
        gate.let_through(slow)  # the call that began with observation 1; 2 was not encoded
        assert seen(slow, [3]) == [1]
        newest = slow.latest()
        assert newest is not None
        assert newest.age == 2
        assert newest.seconds > 0
        assert slow.ages.counts == {1: 1, 2: 2}
        assert slow.seconds.count == 3
        gate.let_through(slow)
        assert gate.asked == [0, 1, 3]


def test_the_encoder_runs_in_one_other_thread_and_without_gradients():
    ran = []

    def embed(observation):
        ran.append((threading.current_thread(), torch.is_grad_enabled()))
        return number(observation)

    with SlowEncoder(embed, max_age=0) as slow:
        assert seen(slow, range(3)) == [0, 1, 2]
    assert len({thread for thread, _ in ran}) == 1
    assert ran[0][0] is not threading.current_thread()
    assert not any(grad for _, grad in ran)


def test_an_age_that_is_too_high_is_waited_for():
    """A call in flight that is too old as well is followed by one of this tick's observation."""
    gate = Gate()
    with SlowEncoder(gate, max_age=1) as slow:
        slow.offer(0)
        gate.let_through(slow)
        assert seen(slow, [1]) == [0]  # and the call of observation 1 begins
        slow.offer(2)
        gate.ends.release(2)
        assert seen(slow, [3]) == [3]
        assert gate.asked == [0, 1, 3]
        assert slow.waits == 1


def test_an_age_that_is_too_high_is_raised():
    gate = Gate()
    with SlowEncoder(gate, max_age=1, late="raise") as slow:
        with pytest.raises(StaleEmbedding, match="no embedding yet: hold still"):
            slow(0)
        gate.let_through(slow)
        assert seen(slow, [1]) == [0]
        with pytest.raises(StaleEmbedding, match="2 ticks old, more than max_age=1"):
            slow(2)
        gate.let_through(slow)
        with pytest.raises(StaleEmbedding, match="2 ticks old"):
            slow(3)
        gate.let_through(slow)
        assert seen(slow, [4]) == [3]
        gate.let_through(slow)


def test_a_wait_ends_with_its_timeout():
    gate = Gate()
    with SlowEncoder(gate, timeout=0.02) as slow:
        with pytest.raises(StaleEmbedding, match=r"no embedding within 0\.02 s: there is no embedding yet"):
            slow(0)
        gate.let_through(slow)
        assert seen(slow, [1]) == [0]
        gate.let_through(slow)


def test_errors_of_the_encoder_reach_the_caller():
    """The embedding before stays, and a later tick starts again."""
    gate = Gate()
    with SlowEncoder(gate) as slow:
        slow.offer(0)
        gate.let_through(slow)
        assert seen(slow, [KeyError("camera")]) == [0]
        gate.let_through(slow)
        with pytest.raises(KeyError, match="camera"):
            slow(2)
        assert seen(slow, [3]) == [0]
        gate.let_through(slow)
        assert seen(slow, [4]) == [3]
        gate.let_through(slow)


@pytest.mark.parametrize("latency", [None, 0])
def test_the_first_error_is_raised_whatever_the_thread(latency):
    def embed(_):
        raise TimeoutError("the VLM's own")

    with SlowEncoder(embed, latency=latency) as slow:
        for tick in range(2):
            with pytest.raises(TimeoutError, match="the VLM's own"):
                slow(tick)


def test_a_new_episode_discards_the_call_in_flight():
    gate = Gate()
    with SlowEncoder(gate) as slow:
        slow.offer(0)
        gate.let_through(slow)
        slow.offer(1)
        assert gate.begun.acquire(timeout=SOON)
        slow.reset()
        assert slow.latest() is None
        slow.offer(100)
        gate.ends.release()  # the old episode's call ends
        gate.let_through(slow)
        newest = slow.latest()
        assert newest is not None
        assert isinstance(newest.cond, torch.Tensor)
        assert (float(newest.cond[0, 0]), newest.age) == (100, 0)
        assert gate.asked == [0, 1, 100]


def test_an_error_of_the_last_episode_is_dropped():
    gate = Gate()
    with SlowEncoder(gate) as slow:
        slow.offer(ValueError("old"))
        assert gate.begun.acquire(timeout=SOON)
        slow.reset()
        gate.ends.release(2)
        assert seen(slow, [5]) == [5]


def test_closed_twice_and_used_again():
    slow = SlowEncoder(number)
    assert seen(slow, [1]) == [1]
    slow.close()
    slow.close()
    assert seen(slow, [2]) == [2]
    slow.close()


# ── with a policy ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def policy():
    policy = trained_policy(tiny_head("mixer")).head.attach(AdaLNZero({"tokens": COND_DIM, "state": 3}, pool="mean"))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return policy.eval()


def tokens_of(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 4, COND_DIM, generator=generator(seed)), torch.ones(1, 4, dtype=torch.bool)


def test_the_head_acts_every_tick_on_the_newest_embedding_and_state(policy):
    """Each action is that of a policy that was given these two."""
    slow = SlowEncoder(tokens_of, every=3, latency=0)
    executor = Executor(policy, execute=1, steps=2, generator=generator())
    same = generator()
    for tick in range(6):
        state = torch.full((1, 3), 0.1 * tick)
        tokens, mask = slow(tick)
        action = executor({"tokens": tokens, "state": state}, mask={"tokens": mask})
        tokens, mask = tokens_of(3 * (tick // 3))
        cond = {"tokens": tokens, "state": state}
        assert torch.equal(action, policy.sample(cond, mask={"tokens": mask}, steps=2, generator=same)[:, 0])


def test_committed_actions_continue_across_a_new_embedding(policy):
    """An embedding that arrives in the middle of a chunk makes the next one at once, without a jump."""
    slow = SlowEncoder(tokens_of, every=3, latency=0)
    executor = Executor(policy, execute=8, delay=2, steps=2, generator=generator())
    chunks, actions = [], []
    for tick in range(7):
        tokens, mask = slow(tick)
        if slow.fresh:
            executor.renew()
        left = executor.chunks[-1] if executor.chunks else None
        actions.append(executor({"tokens": tokens, "state": torch.zeros(1, 3)}, mask={"tokens": mask}))
        if slow.fresh:
            chunks.append(tick)
            if left is not None:
                assert torch.equal(actions[-1], left[:, 0])
                assert torch.equal(executor.chunks[-1][:, 0], left[:, 1])
                assert not torch.equal(executor.chunks[-1][:, 1], left[:, 2])
    assert chunks == [0, 3, 6]


def test_a_renewed_executor_counts_from_the_new_chunk():
    class Clock:
        made = 0

        def sample(self, cond, **_):
            self.made += 1
            return (100.0 * self.made + torch.arange(8.0)).expand(1, -1)[..., None]

    executor, got = Executor(Clock(), execute=3), []
    for tick in range(7):
        if tick == 2:
            executor.renew()
            assert executor.due
        got.append(float(executor(torch.zeros(1, 3))))
    assert got == [100, 101, 200, 201, 202, 300, 301]


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1 tick, got 0"),
        ({"latency": -1}, "latency must be 0 ticks or more, or None"),
        ({"every": 8, "max_age": 3}, "every=8 and latency=None let embeddings become 7 ticks old, more than max_age=3"),
        ({"latency": 4, "max_age": 3}, "become 7 ticks old"),
        ({"max_age": -1}, "more than max_age=-1"),
        ({"late": "skip"}, "late must be one of wait, raise; got 'skip'"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        SlowEncoder(number, **options)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(1, 2), r"must return \(cond, mask\), .* returned a Tensor"),
        ([torch.zeros(1, 2), None], "returned a list"),
        (([[0.0]], None), "must return torch tensors, .* returned a list"),
        (({"a": 3.0}, None), "returned a float"),
        ((torch.zeros(1, 2, 2), [True]), "returned a list"),
        ((None, None), "returned a NoneType"),
    ],
)
@pytest.mark.parametrize("latency", [None, 0])
def test_what_is_no_embedding(result, message, latency):
    with SlowEncoder(lambda _: result, latency=latency) as slow, pytest.raises(TypeError, match=message):
        slow(0)


def test_ages_are_counted_by_bin():
    ages = Ages(bin=0.1)
    assert (ages.count, ages.mean, ages.max) == (0, 0, 0)
    for age in (0.0, 0.05, 0.31):
        ages.add(age)
    assert ages.counts == {0: 2, 3: 1}
    assert ages.mean == pytest.approx(0.12)
    assert (ages.count, ages.max) == (3, 0.31)
