"""Chunks that a second thread computes: the actions of `Executor`, without waiting for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy

from action_heads import BackgroundExecutor, Executor

HORIZON = 16


class Gate:
    """A policy whose n-th chunk holds 100 n + the tick of each action, and comes when the test opens the gate."""

    def __init__(self):
        self.asked, self.opened, self.error = [], threading.Semaphore(0), None

    def sample(self, cond, **options):
        self.asked.append(options)
        assert self.opened.acquire(timeout=60)
        if self.error is not None:
            raise self.error
        return (100.0 * len(self.asked) + float(cond[0, 0]) + torch.arange(HORIZON)).expand(len(cond), -1)[..., None]


def cond(tick: int) -> torch.Tensor:
    return torch.full((1, 3), float(tick))


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def finished(executor: BackgroundExecutor) -> None:
    """Wait until the coming chunk is there."""
    until(lambda: executor._coming is None or executor._coming.done())


def asked(policy: Gate, chunks: int) -> None:
    """Wait until the thread has begun so many chunks."""
    until(lambda: len(policy.asked) >= chunks)


def act(executor: BackgroundExecutor, ticks: range) -> list[float]:
    return [float(executor(cond(tick) if executor.due else None)[0, 0]) for tick in ticks]


@pytest.mark.parametrize("delay", [1, 2, 3])
@pytest.mark.parametrize("backbone", ["mixer", "transformer", "unet"])
@pytest.mark.parametrize("warm_start", [None, 0.5])
def test_the_actions_are_those_of_an_executor(backbone, delay, warm_start):
    """The old chunk goes on for `delay` ticks, which are the committed actions of the new one."""
    policy = trained_policy(tiny_head(backbone))
    options = {"execute": 4, "delay": delay, "steps": 2, "warm_start": warm_start}
    seen = [conditions(2) + tick for tick in range(18)]
    within = Executor(policy, **options, generator=generator())
    expected = [within(each) for each in seen]
    with BackgroundExecutor(policy, **options, generator=generator()) as executor:
        found = [executor(each) for each in seen]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_ticks_do_not_wait_for_a_chunk_that_is_not_due_yet():
    policy = Gate()
    policy.opened.release()
    with BackgroundExecutor(policy, execute=4, delay=3) as executor:
        assert act(executor, range(7)) == [100, 101, 102, 103, 104, 105, 106]  # the second chunk is not there yet
        asked(policy, 2)
        assert not executor.due
        policy.opened.release()
        finished(executor)
        assert act(executor, range(7, 9)) == [207, 208]  # asked for in tick 4, and used from its fourth action on
        assert policy.asked[1]["previous"][0, :, 0].tolist() == list(range(104, 116))
        assert policy.asked[1]["committed"] == 3
        assert (executor.seconds.count, executor.late_chunks) == (2, 0)
        policy.opened.release(9)


def test_waiting_for_a_late_chunk():
    policy = Gate()
    policy.opened.release()
    with BackgroundExecutor(policy, execute=4, delay=2) as executor:
        act(executor, range(6))
        threading.Timer(0.05, policy.opened.release).start()
        assert act(executor, range(6, 8)) == [206, 207]
        assert executor.late_chunks == 1


def test_keeping_the_old_chunk_until_it_is_used_up():
    policy = Gate()
    policy.opened.release()
    with BackgroundExecutor(policy, execute=4, delay=2, late="keep") as executor:
        assert act(executor, range(9)) == list(range(100, 109))
        policy.opened.release()
        finished(executor)
        assert act(executor, range(9, 10)) == [209]  # late by three ticks, and in step
        assert executor.due
        assert act(executor, range(10, 16)) == list(range(210, 216))  # the second chunk lasts until tick 19
        assert act(executor, range(16, 20)) == list(range(216, 220))
        threading.Timer(0.05, policy.opened.release).start()
        assert act(executor, range(20, 21)) == [320]  # nothing was left, so this tick waited
        assert executor.late_chunks == 2
        policy.opened.release(9)


def test_fewer_actions_are_committed_where_fewer_are_left():
    policy = Gate()
    policy.opened.release()
    with BackgroundExecutor(policy, execute=8, delay=7) as executor:
        act(executor, range(15))
        policy.error = RuntimeError("the camera is gone")
        policy.opened.release()
        with pytest.raises(RuntimeError, match="the camera is gone"):
            executor()
        policy.error = None
        policy.opened.release()
        assert act(executor, range(15, 17)) == [115, 300 + 15 + 1]  # the last action, then one that is waited for
        assert [asked.get("committed") for asked in policy.asked] == [None, 7, 1]


def test_the_encoder_runs_in_the_thread_and_may_give_a_mask():
    threads, masks = [], []

    class Masked(Gate):
        def sample(self, cond, **options):
            masks.append(options["mask"])
            return super().sample(cond, **options)

    def encode(observation):
        threads.append(threading.current_thread())
        assert not torch.is_grad_enabled()
        return cond(observation["tick"]), "a mask"

    policy = Masked()
    policy.opened.release(9)
    with BackgroundExecutor(policy, encode=encode, execute=2, delay=1) as executor:
        for tick in range(4):
            executor({"tick": tick} if executor.due else None)
        finished(executor)
    assert threads[0] is not threading.current_thread()
    assert masks == ["a mask", "a mask"]
    threads[0].join(60)
    assert not threads[0].is_alive()


def test_an_error_is_raised_in_the_tick_that_needs_the_chunk_and_the_next_call_asks_again():
    policy = Gate()
    policy.opened.release(1)
    with BackgroundExecutor(policy, execute=4, delay=2) as executor:
        act(executor, range(4))
        policy.error = RuntimeError("the camera is gone")
        policy.opened.release()
        act(executor, range(4, 6))
        with pytest.raises(RuntimeError, match="the camera is gone"):
            executor()
        policy.error = None
        assert executor.due
        assert act(executor, range(6, 7)) == [106]  # still of the old chunk
        policy.opened.release(9)


def test_a_chunk_with_nan_is_dropped():
    policy = Gate()
    policy.opened.release(9)
    with BackgroundExecutor(policy, execute=4, delay=1) as executor:
        act(executor, range(4))
        executor(cond(float("nan")))
        with pytest.raises(ValueError, match="NaN or infinity"):
            executor()
        assert act(executor, range(5, 7)) == [105, 305 + 1]


def test_a_chunk_that_hangs_times_out_and_is_waited_for_again():
    policy = Gate()
    with BackgroundExecutor(policy, execute=4, delay=2, timeout=0.01) as executor:
        with pytest.raises(TimeoutError, match=r"No chunk within 0\.01 s in tick 0"):
            executor(cond(0))
        policy.opened.release()
        finished(executor)
        assert float(executor()[0, 0]) == 100
        assert len(policy.asked) == 1


def test_reset_discards_the_coming_chunk():
    policy = Gate()
    policy.opened.release()
    with BackgroundExecutor(policy, execute=4, delay=2) as executor:
        act(executor, range(5))
        asked(policy, 2)
        executor.reset()
        assert executor.due
        policy.opened.release(2)
        assert act(executor, range(1)) == [300]
        assert policy.asked[2] == {}


def test_a_discarded_chunk_draws_no_noise():
    """A seed gives an episode the same chunks, whatever the thread was doing before."""
    policy, noise, firsts = trained_policy(tiny_head("mixer")), generator(), []
    begun, opened = threading.Semaphore(0), threading.Semaphore(0)

    def encode(cond):
        begun.release()
        assert opened.acquire(timeout=60)
        return cond

    with BackgroundExecutor(policy, encode=encode, execute=4, delay=2, steps=2, generator=noise) as executor:
        for _ in range(2):
            executor.reset()
            noise.manual_seed(3)
            opened.release()
            firsts.append(executor(conditions(1)))
            while not executor.due:
                executor()
            executor(conditions(1))  # Its chunk is computed while the episode ends.
            for _ in range(2):
                assert begun.acquire(timeout=60)
            executor.reset()
            opened.release()
    assert torch.equal(*firsts)


@pytest.mark.parametrize("kind", [Executor, BackgroundExecutor])
def test_an_action_may_be_changed_in_place(kind):
    """A clamp of the returned action changes neither later actions nor the chunk that continues them."""
    policy, acted = trained_policy(tiny_head("mixer")), []
    for changed in (False, True):
        executor = kind(policy, execute=4, delay=2, steps=2, generator=generator())
        actions = []
        for _ in range(12):
            action = executor(conditions(1) if executor.due else None)
            actions.append(action.clone())
            if changed:
                action.zero_()
        acted.append(torch.stack(actions))
    assert torch.equal(*acted)


def test_renewing_while_a_chunk_is_computed_asks_for_another_after_it():
    policy = Gate()
    policy.opened.release(9)
    with BackgroundExecutor(policy, execute=6, delay=2) as executor:
        act(executor, range(1))
        executor.renew()
        act(executor, range(1, 2))
        executor.renew()
        assert not executor.due
        finished(executor)
        act(executor, range(2, 4))
        assert executor.due
        finished(executor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 0}, "use Executor"),
        ({"delay": 8}, "fewer than execute"),
        ({"delay": 2.5}, "whole number of ticks"),
        ({"delay": 2, "execute": "8"}, "execute must be an integer"),
        ({"delay": 2, "timeout": "1"}, "timeout must be a number of seconds above 0"),
        ({"delay": 2, "late": "never"}, "late must be one of wait, keep; got 'never'"),
        ({"delay": 2, "timeout": 0}, "timeout must be a number of seconds above 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        BackgroundExecutor(Gate(), **options)


def test_a_head_that_does_not_mix_time_steps_is_refused():
    with pytest.raises(ValueError, match="mlp"):
        BackgroundExecutor(trained_policy(tiny_head("mlp")), delay=2)


def test_a_missing_observation():
    with BackgroundExecutor(Gate(), delay=2) as executor, pytest.raises(ValueError, match="Pass the observation"):
        executor()
