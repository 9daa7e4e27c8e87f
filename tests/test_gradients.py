"""Tests that one backward pass gives every trainable parameter a gradient, as plain DDP needs."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from child import environment
from forked import needs_fork
from small import actions, generator, tiny_head
from torch import nn

from action_heads import ActionSpace, Normalizer
from action_heads.adapters import ADAPTERS, AdaLNZero
from action_heads.adapters.condition_reader import POOLS
from action_heads.adapters.config import THROUGH
from action_heads.backbones import BACKBONES
from action_heads.policy import ConditionedHead

WIDTHS = {"tokens": 6, "state": 3, "text": 5}
# The kinds of conditions for adapters of these widths: vectors, tokens, with and without masks, and mixed.
KINDS = {
    "a vector": (6, {"cond": (6,)}),
    "tokens": (6, {"cond": (4, 6)}),
    "masked tokens": (6, {"cond": (4, 6), "mask": ()}),
    "one token": (6, {"cond": (1, 6)}),
    "only vectors": (WIDTHS, {"tokens": (6,), "state": (3,), "text": (5,)}),
    "tokens and vectors": (WIDTHS, {"tokens": (4, 6), "state": (3,), "text": (2, 5)}),
}


def condition(kind: str, batch: int = 2):
    """Return a condition of one kind, and its mask."""
    shapes = dict(KINDS[kind][1])
    masked = shapes.pop("mask", None) is not None
    cond = {name: torch.randn(batch, *shape, generator=generator(1)) for name, shape in shapes.items()}
    mask = torch.ones(batch, 4, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[0, 2:] = False
    return cond.get("cond", cond), mask


def without_gradient(policy: ConditionedHead, kind: str) -> list[str]:
    cond, mask = condition(kind)
    chunk = torch.rand(2, policy.head.config.horizon, policy.head.config.space.dim, generator=generator()) / 2
    policy.loss(chunk, cond, mask=mask).backward()
    return missing(policy)


def missing(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", POOLS)
def test_whatever_is_read(kind, pool):
    assert not without_gradient(tiny_head().attach(AdaLNZero(KINDS[kind][0], pool=pool)), kind)


@pytest.mark.parametrize("through", THROUGH)
def test_whatever_it_acts_through(mechanism, through):
    backbone = next(name for name in BACKBONES if mechanism in BACKBONES[name].mechanisms)
    for relearn_step, frozen in itertools.product((False, True), repeat=2):
        adapter = ADAPTERS[mechanism](WIDTHS, pool="attention", through=through, relearn_step=relearn_step)
        head = tiny_head(backbone)
        policy = (head if frozen else head.in_mode("normal")).attach(adapter)
        assert not without_gradient(policy, "tokens and vectors")
        assert policy.num_trainable == sum(p.numel() for p in policy.trainable_parameters())


def test_whatever_it_acts_on(backbone, mechanism):
    adapter = ADAPTERS[mechanism](6, relearn_step=True)
    assert not without_gradient(tiny_head(backbone).attach(adapter), "a vector")


@pytest.mark.parametrize("through", ["code", "both"])
def test_a_code_for_every_step(through):
    adapter = AdaLNZero(6, per_step=True, through=through)
    assert not without_gradient(tiny_head("mixer").attach(adapter), "a vector")


def test_whatever_trains_of_the_head(backbone, mechanism):
    """The whole head gets gradients in normal training, and the projections of a reshaped head do."""
    head = tiny_head(backbone)
    assert not without_gradient(head.in_mode("normal").attach(ADAPTERS[mechanism](6)), "a vector")
    space = ActionSpace((("joint", 7), ("gripper", 1)))
    normalizer = Normalizer.fit(torch.rand(8, 16, 8) / 2, space)
    reshaped = head.reshape(space=space).attach(ADAPTERS[mechanism](6), normalizer=normalizer)
    assert not without_gradient(reshaped, "a vector")


def test_queries_that_choose_nothing_change_nothing():
    """For a vector the queries get a zero gradient, and the result is that of any other pooling, bit for bit."""
    adapter = tiny_head().attach(AdaLNZero(WIDTHS, pool="attention")).adapter
    with torch.no_grad():
        for pool in adapter.pool.values():
            pool.query.normal_()
    state = torch.randn(2, 3, requires_grad=True)
    pooled = adapter.pool["state"](state, None)
    assert torch.equal(pooled, state)
    pooled.square().sum().backward()
    assert torch.equal(state.grad, 2 * state)
    assert torch.equal(adapter.pool["state"].query.grad, torch.zeros(4, 3))


# Two processes


def train_under_ddp(rank: int, port: int) -> None:
    """Train each pooling with each kind of condition for two steps, since DDP misses a gradient one step later."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        head = tiny_head()
        for pool, kind in [*zip(POOLS, KINDS, strict=False), *zip(itertools.repeat("attention"), KINDS, strict=False)]:
            policy = head.attach(AdaLNZero(KINDS[kind][0], pool=pool))
            wrapped = nn.parallel.DistributedDataParallel(policy)
            optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=1e-2)
            cond, mask = condition(kind)
            for step in range(2):
                optimizer.zero_grad()
                wrapped(actions(2, seed=2 * step + rank), cond, mask=mask, generator=generator(rank)).backward()
                optimizer.step()
            for p in policy.trainable_parameters():
                other = p.detach().clone()
                dist.broadcast(other, src=0)
                assert torch.equal(p, other), (pool, kind)
        dist.barrier()
    except BaseException:
        dist.destroy_process_group()
        raise
    os._exit(0)  # In an orderly exit gloo's threads may wait for each other forever.


def train_in_two() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    both = torch.multiprocessing.start_processes(train_under_ddp, (port,), nprocs=2, join=False, start_method="fork")
    began = time.monotonic()
    while not both.join(timeout=5):  # True when both have ended; raises the error of either.
        if time.monotonic() - began > 300:
            for process in both.processes:
                process.kill()
            raise TimeoutError("the two processes wait for each other")


@needs_fork
def test_two_processes_train_in_plain_ddp():
    """Two processes train in plain DDP, forked from a new process, since autograd may refuse a fork after backward."""
    code = "import torch._dynamo; from test_gradients import train_in_two; train_in_two()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(Path(__file__).parent), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
