"""The fused kernels compute what eager computes, in as many launches as they promise, and give way where they can't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fused_launches import compiled as compile_launch
from fused_launches import record
from small import COND_DIM, conditions, generator, tiny_head, trained_policy
from torch import nn

from action_heads import ActionHead, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.backbones import BACKBONES
from action_heads.runtime import compiled, fused

pytest.importorskip("triton", minversion=".".join(map(str, fused.OLDEST)))
CASES = Path(__file__).with_name("fused_cases.py")
FUSED = ("mlp", "mixer")  # the backbones with kernels


def interpreted(*selected: str) -> None:
    """Run cases in a process of their own, since Triton decides at its import whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider", str(CASES), *selected]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


CHANGES = {  # of a policy: what leads to another graph, as its memory lies elsewhere
    "a weight elsewhere": lambda p, linear: setattr(linear.weight, "data", linear.weight.data.clone()),
    "another weight": lambda p, linear: setattr(linear, "weight", nn.Parameter(linear.weight.detach().clone())),
    "a buffer more": lambda p, linear: linear.register_buffer("more", torch.zeros(1)),
    "another layer": lambda p, linear: setattr(linear, "inner", nn.Linear(2, 2)),
    "another normaliser": lambda p, linear: setattr(p, "own_normalizer", Normalizer.identity(p.head.config.space)),
}


def parts(policy) -> tuple[nn.Module, nn.Module]:
    return policy.adapter, policy.normalizer


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_place_is_seen_though_the_places_are_looked_up_once(change, monkeypatch):
    policy = trained_policy(tiny_head())
    linear = next(part for part in policy.adapter.modules() if isinstance(part, nn.Linear))
    before = fused.Places.of(parts(policy))
    linear.weight.data.mul_(2)  # in the same place, so the same graph reads it
    assert before.are_of(parts(policy))
    with monkeypatch.context() as context:  # and nothing was looked up anew
        context.setattr(nn.Module, "modules", lambda self: pytest.fail("the modules were searched"))
        assert before.are_of(parts(policy))
    CHANGES[change](policy, linear)
    assert not before.are_of(parts(policy))
    assert fused.Places.of(parts(policy)).are_of(parts(policy))


def test_the_interpreted_kernels_are_eager():
    """Every modulation, batches of 1, 3 and 17, every objective and sampler: see fused_cases.py."""
    interpreted("-m", "not slow")


@pytest.mark.slow
def test_the_interpreted_kernels_are_eager_in_every_combination():
    interpreted("-m", "slow")


@pytest.mark.parametrize("steps", [1, 10])
def test_launches_of_a_chunk(monkeypatch, steps):
    """A chunk takes two launches a block and step, one between two steps, one before and one after: 171 for ten."""
    policy = ActionHead.from_pretrained("dae/mixer-5m-fk").attach(AdaLNZero(COND_DIM))
    launches = record(policy, monkeypatch, steps=steps)
    assert len(launches) == steps * (2 * policy.head.config.depth + 1) + 1
    assert [name for name, *_ in launches[:4]] == ["turn", "enter", "leave", "enter"]
    assert launches[-1][3]["LAST"]


def test_large_batches_have_larger_tiles(monkeypatch):
    """The number of programs follows the batch, and tiles hold whole chunks of any horizon."""
    policy = trained_policy(tiny_head("mixer", horizon=5))
    for batch, tiles in ((1, fused.Tiles()), (17, fused.Tiles(rows=64)), (300, None)):
        entered = record(policy, monkeypatch, batch, tiles=tiles, steps=1)[1]
        assert entered[3]["HP"] == 8
        assert entered[1][0] == -(-batch // entered[3]["CHUNKS"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 64, 4096])
def test_kernels_compile_for_a_gpu(monkeypatch, batch, dtype):
    """Triton compiles the kernels of the shipped head for Hopper, on any machine, within its shared memory."""
    policy = ActionHead.from_pretrained("dae/mixer-5m-fk").attach(AdaLNZero(COND_DIM))
    launches = record(policy, monkeypatch, 1, dtype, fused.tiles_for(16 * batch, dtype), steps=2)
    kinds = {(name, meta.get("NORM"), meta.get("FIRST"), meta.get("LAST")): None for name, _, _, meta in launches}
    for launch in launches:
        name, _, _, meta = launch
        if kinds.pop((name, meta.get("NORM"), meta.get("FIRST"), meta.get("LAST")), launch) is None:
            assert compile_launch(launch).metadata.shared <= 227 * 1024
    assert not kinds


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_where_the_kernels_cannot_be_used(backbone, monkeypatch):
    """`compile("fused")` takes another method and says why; the head itself says what to do instead."""
    policy = trained_policy(tiny_head(backbone))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    fast = policy.compile("fused")
    wanted = "need a CUDA device" if backbone in FUSED else f"not of {backbone}"
    assert (fast.compiled.method, wanted in fast.compiled.reason) == ("eager", True)
    with pytest.raises(RuntimeError, match=r"can't be used here: .* Use compile\('graph'\)"):
        fused.FusedHead(policy.head, torch.float32)


def test_what_the_kernels_need(monkeypatch):
    assert "width 1024 and horizon 64 at most" in fused.why_not_fused(tiny_head(horizon=65, depth=1))
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert "Triton is not installed (pip install triton" in fused.why_not_fused(tiny_head())
    monkeypatch.undo()
    monkeypatch.setattr("triton.__version__", "3.0.0")
    assert "Triton 3.0.0 is older than" in fused.why_not_fused(tiny_head())


@pytest.fixture
def stubbed(monkeypatch):
    """Return a compiled policy whose kernels are replaced by eager, and the policy it was compiled from."""
    for module in (fused, compiled):
        monkeypatch.setattr(module, "why_not_fused", lambda head: "")

    def make(compute=None):
        policy = trained_policy(tiny_head("mixer"))
        fast = policy.compile("fused")

        def eager(shares, table, values, modulation, noise, plan):
            return fused.Denoiser.denoise(fast.head, table, values, modulation, noise, plan, None)

        fast.head.denoise_fused = compute or eager
        return policy, fast

    return make


def test_one_graph_a_shape_and_what_it_reads(stubbed, monkeypatch):
    """New values of the adapter count at once, and only a new shape, plan or place of its tensors is captured anew."""
    captured = []

    def capture(loop, *example):
        captured.append(len(example))
        return loop

    monkeypatch.setattr(fused, "capture", capture)
    policy, fast = stubbed()

    def same(**options) -> int:
        cond = conditions(options.pop("batch", 3))
        chunks = [p.sample(cond, generator=generator(), **options) for p in (policy, fast)]
        torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
        return len(captured)

    assert [same(), same(), same(batch=1), same(steps=2), same()] == [1, 1, 2, 3, 3]
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.1)
    assert same() == 3
    p = policy.adapter.aim.weight
    p.data = p.data + 0.1
    assert same() == 4
    left = policy.sample(conditions(3), generator=generator())[:, 8:]
    assert [same(previous=left, start=0.5), same(previous=left, committed=2), same(sampler="ddpm")] == [5, 5, 5]
    assert "draws noise at every step" in fast.head.fell_back


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        (lambda *_: (_ for _ in ()).throw(ValueError("no such kernel")), "failed (ValueError: no such kernel)"),
        (lambda shares, table, values, modulation, noise, plan: noise, "differ from eager by"),
        (lambda shares, table, values, modulation, noise, plan: noise / 0, "differ from eager by"),
    ],
)
def test_wrong_kernels_give_way_to_the_graph(stubbed, kernels, reason):
    """Kernels that fail or compute something else are not used, and the chunk is eager's."""
    policy, fast = stubbed(kernels)
    for _ in range(2):
        chunks = [p.sample(conditions(), generator=generator()) for p in (policy, fast)]
        torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
        assert reason in fast.head.fell_back


def test_a_changed_head_and_infinite_values_are_refused(stubbed):
    policy, fast = stubbed()
    fast.sample(conditions())
    with torch.no_grad():
        policy.adapter.aim.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="computed NaN or infinite actions"):
        fast.sample(conditions())
    with torch.no_grad():
        policy.adapter.aim.bias.fill_(0)
        policy.head.backbone.out.bias.add_(1)
    with pytest.raises(RuntimeError, match="frozen head was changed"):
        fast.sample(conditions())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"sampler": "heun"}])
@pytest.mark.parametrize(("backbone", "mechanism"), [(b, m) for b in FUSED for m in BACKBONES[b].mechanisms])
def test_the_kernels_on_a_gpu(backbone, mechanism, dtype, options):
    """On a GPU the kernels give eager's chunks for every modulation, several batches, and new noise and conditions."""
    policy = trained_policy(tiny_head(backbone, width=64, horizon=12), mechanism).to("cuda")
    head = fused.FusedHead(policy.head, dtype)
    for batch in (1, 3, 17, 300):
        plan = head.plan(fused.samplers.Sampling(**options))
        with torch.no_grad():
            values, noise = policy.modulate(conditions(batch).cuda()), head.noise(batch, generator())
            table, own = policy.step_values(), policy.modulation
            got = head.denoise_fused(fused.coefficients(head.objective, plan), table, values, own, noise, plan)
            expected = policy.head.denoise(table, values, own, noise, plan, None)
        atol = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shipped_head_on_a_gpu(dtype):
    """One graph holds the whole sample, sees what the adapter learned, and is neither wrong nor slower than `graph`."""
    policy = ActionHead.from_pretrained("dae/mixer-5m-fk", device="cuda").attach(AdaLNZero(COND_DIM)).eval()
    fast = policy.compile("fused", dtype=dtype)
    assert fast.compiled.method == "fused"
    for seed in (0, 1):
        with torch.no_grad():
            policy.adapter.aim.bias.fill_(0.3 * seed)
        chunks = [p.sample(conditions().cuda(), generator=generator(seed)) for p in (policy, fast)]
        torch.testing.assert_close(*chunks, rtol=0, atol=1e-3 if dtype == torch.float32 else 0.05)
        assert not fast.head.fell_back
