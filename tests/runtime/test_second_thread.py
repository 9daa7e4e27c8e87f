"""The thread behind `SlowEncoder`, `BackgroundExecutor` and the streams of a server."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from action_heads.runtime.second_thread import SecondThread

HANGS = {
    "slow encoder": """
from action_heads.runtime.slow_encoder import SlowEncoder
encoder = SlowEncoder(lambda seen: threading.Event().wait(), timeout=0.1)
encoder(None)
""",
    "executor": """
from action_heads import BackgroundExecutor
class Never:
    def sample(self, cond, **options):
        threading.Event().wait()
executor = BackgroundExecutor(Never(), delay=2, timeout=0.1)
executor(torch.zeros(1, 3))
""",
}


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("what", HANGS)
def test_a_call_that_never_returns_does_not_keep_the_program(what):
    began = time.monotonic()
    program = f"import threading, torch\n{HANGS[what]}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "within 0.1 s" in done.stderr, done.stderr
    assert time.monotonic() - began < 100


def test_calls_are_made_in_order_and_errors_are_kept():
    thread, made = SecondThread("in order"), []
    futures = [thread.submit(made.append, i) for i in range(20)]
    failed = thread.submit(int, "no number")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result(60)
    assert made == list(range(20))
    assert all(future.done() for future in futures)
    thread.close()
    assert thread.submit(lambda: 7).result(60) == 7, "it starts anew"


def test_a_call_that_has_not_begun_can_be_cancelled():
    thread, gate = SecondThread("cancelled"), threading.Event()
    first = thread.submit(gate.wait, 60)
    second = thread.submit(lambda: pytest.fail("it was cancelled"))
    assert second.cancel()
    gate.set()
    assert first.result(60)
    assert thread.submit(lambda: "next").result(60) == "next"


@pytest.mark.parametrize("how", ["close", "garbage"])
def test_the_thread_ends(how):
    thread = SecondThread(f"ends by {how}")
    assert thread.submit(lambda: threading.current_thread().name).result(60) == f"ends by {how}"
    if how == "close":
        thread.close()
    else:
        del thread
        gc.collect()
    ends = time.monotonic() + 60
    while f"ends by {how}" in names():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_it_has_as_many_threads_for_torch_as_its_caller():
    """Also if torch's number is lowered while it starts, as `native` does while it samples."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert SecondThread("threads").submit(torch.get_num_threads).result(60) == 3
    finally:
        torch.set_num_threads(before)


def test_a_call_has_the_autocast_of_its_caller():
    thread, x = SecondThread("autocast"), torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert thread.submit(lambda: (x @ x).dtype).result(60) == torch.bfloat16
    assert thread.submit(lambda: (x @ x).dtype).result(60) == torch.float32


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_starts_its_own():
    program = """
import os, torch
from action_heads.runtime.second_thread import SecondThread
thread = SecondThread("forked")
thread.submit(int).result(60)
child = os.fork()
if child == 0:
    os._exit(thread.submit(lambda: 7).result(60))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "7\n", done.stderr


ACTORS = {
    "executor": """
from action_heads import ActionHead, BackgroundExecutor
from action_heads.adapters import FiLM
policy = ActionHead.from_pretrained("dae/mixer-5m-fk").attach(FiLM(cond_dim=8))
actor = BackgroundExecutor(policy, encode=encode, execute=4, delay=2, steps=1)
for _ in range(5): actor(0)
pending = actor._coming
""",
    "encoder": """
from action_heads.runtime.slow_encoder import SlowEncoder
actor = SlowEncoder(lambda seen: (encode(seen), None), max_age=2)
for _ in range(2): actor(0)
pending = actor._call.future
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("reset", ["", "actor.reset()"])
@pytest.mark.parametrize("name", ACTORS)
def test_a_forked_process_does_not_wait_for_what_its_parent_computes(name, reset):
    program = f"""
import os, signal, time, torch
torch.set_num_threads(1)
def encode(seen):
    time.sleep(0.3)
    return torch.zeros(1, 8)
{ACTORS[name]}
assert not pending.done()
if (child := os.fork()) == 0:
    signal.alarm(60)
    {reset}
    for _ in range(8): actor(0)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "7\n", done.stderr
