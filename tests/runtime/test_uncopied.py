"""Objects with a thread or a connection say that they can't be copied, and how to make another one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from action_heads import BackgroundExecutor, Executor
from action_heads.runtime.remote import RemotePolicy
from action_heads.runtime.second_thread import SecondThread
from action_heads.runtime.slow_encoder import SlowEncoder


class Still:
    def sample(self, cond, **options):
        return torch.zeros(1, 16, 10)


def remote() -> RemotePolicy:
    return RemotePolicy.__new__(RemotePolicy)  # without a server, but with the type's way to be copied


MADE = {
    "BackgroundExecutor": lambda: BackgroundExecutor(Still(), delay=2),
    "SlowEncoder": lambda: SlowEncoder(lambda seen: (seen, None)),
    "SecondThread": lambda: SecondThread("one"),
    "RemotePolicy": remote,
}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("name", MADE)
def test_a_copy_is_refused_with_the_remedy(name, copied):
    with pytest.raises(TypeError, match=rf"{name} holds a (thread|connection), .*Make another one with {name}\("):
        copied(MADE[name]())


def test_one_that_runs_and_one_inside_something_else_are_refused_too():
    with BackgroundExecutor(Still(), delay=2) as executor:
        executor(torch.zeros(1, 3))
        with pytest.raises(TypeError, match=r"BackgroundExecutor\(policy"):
            copy.deepcopy(executor)
        executor()  # and the executor goes on
    with pytest.raises(TypeError, match=r"RemotePolicy\(url"):
        copy.deepcopy(Executor(remote()))


def test_an_executor_without_a_thread_is_copied_with_its_chunk():
    executor = Executor(Still(), execute=4, generator=torch.Generator().manual_seed(3))
    executor(torch.zeros(1, 3))
    other = copy.deepcopy(executor)
    assert not other.due
    assert torch.equal(other.sampling["generator"].get_state(), executor.sampling["generator"].get_state())
