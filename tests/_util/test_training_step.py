"""Tests of the training step: the numbers of a plain loop, and nothing in it that waits for a device."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from captured import Captured
from no_waiting import NoWaiting, without_checks
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads._util import training_step
from action_heads._util.training_step import KEPT, WARM_UP, TrainingStep, adamw, put_on_device, set_learning_rate
from action_heads.adapters import AdaLNZero
from action_heads.diffusion.levels import LEVELS
from action_heads.fit import FitConfig, cosine, fit


@pytest.mark.parametrize(
    "waits",
    [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: torch.tensor([1.0]), lambda x: bool(x.any())],
    ids=["item", "mask", "constant", "bool"],
)
def test_the_check_finds_what_waits(waits):
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        waits(torch.randn(4))


def step_of(policy, *, graph: bool = False, **options) -> TrainingStep:
    drawn = generator()

    def loss(actions, cond, mask, is_pad):
        return policy.loss(actions, cond, mask=mask, is_pad=is_pad, generator=drawn, **options)

    return TrainingStep(loss, adamw(policy.trainable_parameters(), 1e-2, graph), 1.0, [drawn], graph)


def batch(rows: int = 4, tokens: int = 0) -> tuple:
    """Return a batch of actions, conditions or tokens, their mask, and padding."""
    cond = torch.randn(rows, tokens, COND_DIM, generator=generator(1)) if tokens else conditions(rows)
    mask = (torch.arange(tokens) < 2).expand(rows, -1) if tokens else None
    return actions(rows), cond, mask, torch.zeros(rows, 16, dtype=torch.bool)


def test_a_step_waits_for_nothing(policy, monkeypatch):
    """For every backbone with every mechanism: loss, gradient, clipping, optimizer and learning rate."""
    step = step_of(without_checks(policy, monkeypatch))
    given = batch()
    step(*given)  # The first step makes tables and the optimizer's state.
    with NoWaiting() as mode:
        set_learning_rate(step.optimizer, 1e-3)
        step(*given)
    assert mode.operations > 100


@pytest.mark.parametrize(
    "options",
    [{"levels": levels} for levels in LEVELS] + [{"noise_samples": 3}, {"prefixes": True}],
    ids=[*LEVELS, "noise_samples", "prefixes"],
)
@pytest.mark.parametrize("pool", ["mean", "last", "attention"])
def test_noise_and_pools_wait_for_nothing(options, pool, monkeypatch):
    policy = without_checks(trained_policy(tiny_head("mixer"), pool=pool), monkeypatch)
    step, given = step_of(policy, **options), batch(tokens=3)
    step(*given)
    with NoWaiting():
        step(*given)


def test_normal_training_waits_for_nothing(backbone, monkeypatch):
    step = step_of(without_checks(trained_policy(tiny_head(backbone).in_mode("normal")), monkeypatch))
    step(*batch())
    with NoWaiting():
        step(*batch())


def plain_fit(policy, config: FitConfig, n: int) -> list[float]:
    """Train as `fit` does, in a loop that is written out, and leave the averaged weights in the policy."""
    parameters = list(policy.train().trainable_parameters())
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)
    average, drawn, losses = [p.detach().clone() for p in parameters], generator(config.seed), []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, config.steps, config.lr, config.warmup)
        rows = torch.randint(n, (config.batch_size,), generator=drawn)
        pad = torch.zeros(config.batch_size, 16, dtype=torch.bool)
        noise = {"noise_samples": config.noise_samples, "prefixes": config.prefixes}
        loss = policy.loss(actions(n)[rows], conditions(n)[rows], is_pad=pad, generator=drawn, **noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(config.ema, 1 - (1 + step) ** -0.75)
        with torch.no_grad():
            for own, p in zip(average, parameters, strict=True):
                own.lerp_(p, 1 - decay)
        losses.append(loss.item())
    with torch.no_grad():
        for own, p in zip(average, parameters, strict=True):
            p.copy_(own)
    return losses


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("backbone", "options"), [("mlp", {"noise_samples": 2}), ("mixer", {"prefixes": True})])
def test_fit_gives_the_numbers_of_a_plain_loop(backbone, options, graph):
    """Bit for bit, with the static buffers of a graph and without."""
    config = FitConfig(steps=12, batch_size=8, lr=1e-2, warmup=3, precision="fp32", graph=graph, **options)
    plain, fitted = trained_policy(tiny_head(backbone)), trained_policy(tiny_head(backbone))
    assert fit(fitted, actions(32), conditions(32), config=config) == plain_fit(plain, config, 32)
    for one, other in zip(fitted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_graph_is_captured_after_the_warm_up_once_for_each_shape(monkeypatch):
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    policies = [trained_policy(tiny_head()) for _ in range(2)]
    eager, graphed = step_of(policies[0]), step_of(policies[1], graph=True)
    losses = []
    for i in range(3 * WARM_UP):
        given = [x if x is None else x.clone() for x in batch(4 + i % 2)]
        losses.append([step(*given) for step in (eager, graphed)])
        assert captured.captures == min(2, max(0, i + 1 - 2 * WARM_UP))
    assert [float(one) for one, _ in losses] == [float(other) for _, other in losses]
    assert all(torch.equal(*pair) for pair in zip(policies[0].parameters(), policies[1].parameters(), strict=True))


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32])
def test_batches_of_another_dtype_have_buffers_of_their_own(first):
    """A buffer of the first batch's dtype would round the conditions of the second, or let them be computed in more."""
    eager, graphed = (step_of(trained_policy(tiny_head()), graph=graph) for graph in (False, True))
    given = batch()
    for dtype in (first, torch.float32, torch.bfloat16):
        cast = (given[0], given[1].to(dtype), *given[2:])
        assert torch.equal(graphed(*cast), eager(*cast))
    assert {recorded.batch[1].dtype for recorded in graphed.recorded.values()} == {torch.float32, torch.bfloat16}


def scaled(graph: bool) -> TrainingStep:
    """Return a step whose loss depends on a name and a number beside the tensors."""
    p = torch.nn.Parameter(torch.ones(3))

    def loss(x, name, power):
        return ({"one": x, "two": 2 * x}[name] * p).pow(power).sum()

    return TrainingStep(loss, adamw([p], 0.1, graph), 1.0, [], graph)


def test_a_value_beside_the_tensors_has_a_graph_of_its_own(monkeypatch):
    """A graph repeats the choices of its capture, so the values that choose are part of what it is kept for."""
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    eager, graphed = scaled(False), scaled(True)
    for i in range(6 * (WARM_UP + 2)):
        given = torch.full((3,), i / 9), ("one", "two")[i % 2], 1 + i % 3
        assert torch.equal(graphed(*given), eager(*given))
    assert captured.captures == 6
    assert torch.equal(graphed.parameters[0], eager.parameters[0])


def test_loading_the_optimizer_drops_the_graphs(monkeypatch):
    """They would go on with the state that the optimizer had before."""
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    step, given = scaled(True), (torch.ones(3), "one", 1)
    for _ in range(WARM_UP + 2):
        step(*given)
    step.optimizer.load_state_dict(step.optimizer.state_dict())
    for _ in range(WARM_UP):
        step(*given)
    assert captured.captures == 1
    step(*given)
    assert captured.captures == 2


def test_few_graphs_are_kept(monkeypatch):
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    step = step_of(trained_policy(tiny_head()), graph=True)
    for rows in range(1, KEPT + 3):
        for _ in range(WARM_UP + 1):
            step(*batch(rows))
    assert captured.captures == len(step.recorded) == KEPT


def test_a_capture_that_fails_is_told_and_training_goes_on(monkeypatch):
    def fails(step, stream, generators, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    policies = [trained_policy(tiny_head()) for _ in range(2)]
    eager, graphed = step_of(policies[0]), step_of(policies[1], graph=True)
    monkeypatch.setattr(training_step, "capture", fails)
    for i in range(2 * WARM_UP):
        expected = eager(*batch())
        told = pytest.warns(UserWarning, match="without a CUDA graph") if i == WARM_UP else nullcontext()
        with told:
            assert torch.equal(graphed(*batch()), expected)
    assert graphed.reason == "the capture failed: operation not permitted when stream is capturing"


def test_a_graph_on_a_cpu_keeps_the_learning_rate_a_number():
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    optimizer = adamw(policy.trainable_parameters(), 1e-3, graph=True)
    set_learning_rate(optimizer, 2e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3]


def test_each_group_has_a_learning_rate_of_its_own_on_the_device():
    """One tensor for all groups would get the rate of the last one. Loading a state keeps them apart."""
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = adamw([{"params": [first]}, {"params": [second], "share": 0.1}], 1e-3)
    put_on_device(optimizer)
    for _ in range(2):
        set_learning_rate(optimizer, 0.5)
        assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
        assert all(group["capturable"] for group in optimizer.param_groups)
        optimizer.load_state_dict(optimizer.state_dict())


def test_a_learning_rate_on_the_device_is_written_in_place():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([p], torch.tensor(1e-3), fused=True)
    rate = optimizer.param_groups[0]["lr"]
    with NoWaiting():
        set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 0.5
