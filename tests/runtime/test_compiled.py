"""A compiled policy samples the same chunks whatever computes them, and says why it uses a method."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from no_waiting import NoWaiting
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads import ActionHead, ActionSpace, Executor, Normalizer
from action_heads.adapters import ADAPTERS, AdaLNZero
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import compiled, inductor
from action_heads.runtime.compiled import METHODS
from action_heads.runtime.packed import PackedLinear
from action_heads.runtime.sampling_loop import SamplingLoop

WIDE = {"width": 64, "depth": 2}  # the narrowest that is worth packing


@pytest.fixture
def policy(backbone, mechanism):
    return trained_policy(tiny_head(backbone, **WIDE), mechanism)


@pytest.mark.parametrize("batch", [1, 3])
def test_compiled_is_eager(policy, batch):
    """Compiled and eager chunks of one generator are equal for every backbone with every adapter."""
    fast, cond = policy.compile(), conditions(batch)
    expected = policy.sample(cond, steps=3, generator=generator())
    torch.testing.assert_close(fast.sample(cond, steps=3, generator=generator()), expected, rtol=1e-5, atol=1e-5)
    by = {"mlp": "native", "mixer": "native", "transformer": "packed", "unet": "eager"}
    assert fast.compiled.method == by[policy.head.config.backbone]


def test_packed_is_eager(policy):
    fast = policy.compile("packed")
    chunks = [p.sample(conditions(), steps=3, generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
    assert fast.compiled.method == ("eager" if policy.head.config.backbone == "unet" else "packed")


@pytest.mark.parametrize("options", [{"sampler": "ddpm"}, {"sampler": "dpmpp_2m"}, {"sampler": "heun"}, {"steps": 1}])
def test_every_sampler_compiles(options):
    policy = trained_policy(tiny_head("mixer", **WIDE))
    expected = policy.sample(conditions(), generator=generator(), **options)
    got = policy.compile().sample(conditions(), generator=generator(), **options)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_policy_continues_a_chunk_and_serves_an_executor():
    policy = trained_policy(tiny_head("mixer", **WIDE))
    fast = policy.compile()
    left = policy.sample(conditions(), generator=generator())[:, 8:]
    options = {"previous": left, "committed": 3}
    chunks = [p.sample(conditions(), generator=generator(1), **options) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
    runs = [Executor(p, execute=4, delay=2, generator=generator()) for p in (policy, fast)]
    for _ in range(9):
        acted = [run(conditions()) for run in runs]
        torch.testing.assert_close(*acted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"relearn_step": True}, {"through": "code"}])
def test_what_the_adapter_learns_counts_at_once(options):
    """A training step of the adapter changes the compiled chunks at once, since only the frozen head is compiled."""
    policy = trained_policy(tiny_head(**WIDE), **options)
    fast = policy.compile()
    before = fast.sample(conditions(), generator=generator())
    policy.train().loss(actions(), conditions(), generator=generator()).backward()
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p -= 0.1 * p.grad.sign()
    after = fast.sample(conditions(), generator=generator())
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, policy.sample(conditions(), generator=generator()), rtol=1e-5, atol=1e-5)


def test_compiling_changes_neither_head_nor_adapter(tmp_path):
    policy = trained_policy(tiny_head(**WIDE))
    fingerprint = policy.head.fingerprint()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    fast = policy.compile("packed", dtype=torch.bfloat16)
    fast.sample(conditions())
    policy.compile().sample(conditions())
    assert policy.head.fingerprint() == fingerprint == fast.head.original.fingerprint()
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    assert any(isinstance(module, PackedLinear) for module in fast.head.modules())
    assert not any(isinstance(module, PackedLinear) for module in policy.head.modules())


@pytest.mark.parametrize("method", ["packed", "native"])
def test_bfloat16_is_near(monkeypatch, method):
    """Chunks in bfloat16, which has a mantissa of 8 bits, are within 0.05 of those in float32, but not equal."""
    monkeypatch.setattr(compiled, "bfloat16_is_faster", lambda device: True)
    policy = trained_policy(tiny_head(**WIDE))
    fast = policy.compile(method, dtype=torch.bfloat16)
    assert fast.compiled.dtype == torch.bfloat16
    chunks = [p.sample(conditions(), generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=0, atol=0.05)
    assert not torch.equal(*chunks)


def test_bfloat16_needs_instructions(monkeypatch):
    monkeypatch.setattr(compiled, "bfloat16_is_faster", lambda device: False)
    fast = trained_policy(tiny_head(**WIDE)).compile(dtype=torch.bfloat16)
    assert fast.compiled.dtype == torch.float32
    assert "no instructions for bfloat16" in fast.compiled.reason


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_a_head_in_bfloat16_without_instructions(monkeypatch, method):
    """Where bfloat16 would be emulated, or refused by oneDNN, every method computes a head in bfloat16 in float32."""
    monkeypatch.setattr(compiled, "bfloat16_is_faster", lambda device: False)
    policy = trained_policy(tiny_head(**WIDE).to(torch.bfloat16))
    fast = policy.compile(method)
    assert fast.compiled.dtype == torch.float32
    assert "no instructions for bfloat16" in fast.compiled.reason
    chunks = [p.sample(conditions(), generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=0, atol=0.05)


def test_triton_that_can_t_be_imported(monkeypatch):
    """Inductor and the fused kernels import Triton, and Triton 3.0 fails without setuptools."""

    def fails(name: str):
        raise ModuleNotFoundError("No module named 'setuptools'", name="setuptools")

    monkeypatch.setattr(inductor, "import_module", fails)
    monkeypatch.setattr(inductor, "find_spec", lambda name: name)
    monkeypatch.setattr("action_heads.runtime.fused.find_spec", lambda name: name)
    for method in ("inductor", "fused"):
        found = trained_policy(tiny_head(**WIDE)).compile(method).compiled
        assert found.method == "packed"
        assert "Triton can't be imported: No module named 'setuptools' (pip install setuptools)" in found.reason


def test_a_head_in_half_precision_is_named():
    """The error named a dtype that nobody had passed."""
    policy = trained_policy(tiny_head(**WIDE)).half()
    with pytest.raises(
        ValueError, match=r"the head was loaded in or cast to torch\.float16 and no dtype .* Pass dtype=t"
    ):
        policy.compile()
    assert policy.compile(dtype=torch.float32).sample(conditions()).isfinite().all()


def test_reasons(monkeypatch):
    policy = trained_policy(tiny_head(**WIDE))
    assert "CUDA device" in policy.compile("graph").compiled.reason
    assert "no linear layer" in trained_policy(tiny_head()).compile("packed").compiled.reason
    narrow = trained_policy(tiny_head(width=20)).compile().compiled
    assert (narrow.method, "divides here" in narrow.reason) == ("eager", True)
    assert "of transformer, so packed" in trained_policy(tiny_head("transformer", **WIDE)).compile().compiled.reason
    monkeypatch.setattr(inductor.shutil, "which", lambda name: None)
    assert policy.compile("inductor").compiled[::2] == (
        "packed",
        "there is no C++ compiler (apt-get install g++), so packed",
    )
    trains = ActionHead(policy.head.config).attach(AdaLNZero(COND_DIM))
    assert "trains along" in trains.compile().compiled.reason
    with pytest.raises(ValueError, match="unknown method 'fast'"):
        policy.compile("fast")
    with pytest.raises(ValueError, match=r"float32 or torch\.bfloat16, got torch\.float16"):
        policy.compile(dtype=torch.float16)


def test_what_a_compiled_policy_refuses(tmp_path):
    policy = trained_policy(tiny_head(**WIDE))
    fast = policy.compile()
    with pytest.raises(RuntimeError, match=r"only acts\. Train the one it was compiled from"):
        fast.loss(actions(), conditions())
    with pytest.raises(RuntimeError, match="move the policy it was compiled from"):
        fast.to("meta")
    with pytest.raises(ValueError, match="cond has shape"):
        fast.sample(torch.zeros(1, COND_DIM + 1))
    assert "compiled: native in float32" in repr(fast)


def test_projections_that_train_ask_for_compiling_again():
    space = ActionSpace((("joint", 7), ("gripper", 1)), frame="joint positions")
    demonstrated = 0.5 * torch.rand(32, 8, 8, generator=generator())
    head = tiny_head(**WIDE).reshape(space=space, horizon=8)
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.fit(demonstrated, space))
    fast = policy.compile()
    chunks = [p.sample(conditions(), generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        next(iter(head.projections.values())).add_(1)
    with pytest.raises(RuntimeError, match="compile again"):
        fast.sample(conditions())


def test_fused_optimisers_are_noticed_too(monkeypatch):
    """A step of a fused optimiser, which does not raise the version of a parameter, makes the compiled policy stale."""
    monkeypatch.setattr(compiled, "bfloat16_is_faster", lambda device: True)
    head = tiny_head(**WIDE).reshape(horizon=8)
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.identity(head.config.space))
    fast = policy.compile(dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), 1e-2, fused=True)
    policy.train().loss(0.5 * torch.rand(4, 8, 10), conditions()).backward()
    optimizer.step()
    assert fast.stale
    with pytest.raises(RuntimeError, match="compile again"):
        fast.sample(conditions())


def add_in_place(policy):
    with torch.no_grad():
        for p in policy.head.projections.values():
            p.add_(0.3)


def take_a_fused_step(policy):
    """Take a step that does not raise the version of a parameter."""
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), 1e-1, fused=True)
    policy.train().loss(0.5 * torch.rand(4, 8, 10), conditions()).backward()
    optimizer.step()
    policy.eval()


def load(policy):
    state = policy.head.state_dict()
    policy.head.load_state_dict(state | {name: p + 0.3 for name, p in policy.head.projections.items()})


def replace_memory(policy):
    for p in policy.head.projections.values():
        p.data = p.data + 0.3


def replace_modules(policy):
    for name in ("embed", "out"):
        part = copy.deepcopy(getattr(policy.head.backbone, name))
        for p in part.parameters():
            p.data += 0.3
        setattr(policy.head.backbone, name, part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["native", "packed", "eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["mlp", "mixer", "transformer", "unet"])
@pytest.mark.parametrize("change", [add_in_place, take_a_fused_step, load, replace_memory, replace_modules])
def test_projections_that_changed_count_or_ask_for_compiling_again(change, name, method, dtype, monkeypatch):
    """No method computes with the old projections: those that share their memory follow, the others refuse."""
    monkeypatch.setattr(compiled, "bfloat16_is_faster", lambda device: True)
    head = tiny_head(name, **WIDE).reshape(horizon=8)
    mechanism = "adaln_zero" if name != "unet" else "film"
    policy = head.attach(ADAPTERS[mechanism](COND_DIM), normalizer=Normalizer.identity(head.config.space)).eval()
    fast = policy.compile(method, dtype=dtype)
    before, near = (p.sample(conditions(), steps=2, generator=generator()) for p in (fast, policy))
    bound = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(before, near, rtol=1e-5, atol=bound)
    change(policy)
    expected = policy.sample(conditions(), steps=2, generator=generator())
    assert (expected - near).abs().max() > 2 * bound
    if fast.head.copied or change in (replace_memory, replace_modules):
        assert fast.stale
    if fast.stale:
        with pytest.raises(RuntimeError, match="compile again"):
            fast.sample(conditions(), steps=2)
        return
    after = fast.sample(conditions(), steps=2, generator=generator())
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("method", ["packed", "eager"])
def test_shared_projections_are_not_compared(method, monkeypatch):
    """On CUDA each comparison would wait for the device, once for every projection of every chunk."""
    head = tiny_head(**WIDE).reshape(horizon=8)
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.identity(head.config.space)).eval()
    fast = policy.compile(method)
    assert not fast.head.copied
    with NoWaiting():
        assert not fast.stale


@pytest.mark.slow
def test_layers_of_an_adapter_train_on_in_inductor():
    """With `relearn_step`, cross-attention computes with layers of the adapter, which must not become constants.

    torch 2.11 makes none of them even with freezing. Other releases may.
    """
    head = tiny_head("transformer", **WIDE)
    relearning, frozen = (trained_policy(head, "cross_attention", relearn_step=step) for step in (True, False))
    for policy in (relearning, frozen):
        fast = policy.compile("inductor")
        assert fast.compiled.method == "inductor"
        near, before = (p.sample(conditions(), steps=2, generator=generator()) for p in (policy, fast))
        torch.testing.assert_close(before, near, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for p in policy.trainable_parameters():
                p.add_(0.1 * torch.randn_like(p))
        expected, after = (p.sample(conditions(), steps=2, generator=generator()) for p in (policy, fast))
        assert (expected - near).abs().max() > 1e-3
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mechanism", ["cross_attention", "adaln_zero"])
@pytest.mark.parametrize("relearn_step", [True, False])
def test_only_what_is_frozen_becomes_a_constant(mechanism, relearn_step, monkeypatch):
    """Inductor may make constants of all weights of a network, unless it computes with layers of the adapter."""
    monkeypatch.setattr(compiled, "why_no_inductor", lambda: "")
    policy = trained_policy(tiny_head("transformer", **WIDE), mechanism, relearn_step=relearn_step)
    given = []
    monkeypatch.setattr(torch, "compile", lambda network, options, **_: given.append(options) or network)
    policy.compile("inductor").sample(conditions(), steps=2)
    assert given == [None if relearn_step and mechanism == "cross_attention" else inductor.OPTIONS]


def test_a_policy_that_moved_asks_for_compiling_again():
    policy = trained_policy(tiny_head(**WIDE))
    fast = policy.compile()
    fast.sample(conditions())
    policy.to("meta")
    assert fast.stale
    with pytest.raises(RuntimeError, match="compile again"):
        fast.sample(conditions())


@pytest.mark.parametrize("method", ["native", "packed", "eager"])
@pytest.mark.parametrize("change", ["cast", "adapter"])
def test_a_policy_that_is_cast_or_put_together_anew_asks_for_compiling_again(method, change):
    policy = trained_policy(tiny_head(**WIDE))
    fast = policy.compile(method)
    fast.sample(conditions())
    if change == "cast":
        policy.to(torch.bfloat16)
    else:
        policy.adapter = trained_policy(policy.head).adapter
    with pytest.raises(RuntimeError, match="compile again"):
        fast.sample(conditions())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("method", ["native", "packed", "eager"])
def test_copies_are_compiled_anew(method, copied):
    fast = trained_policy(tiny_head(**WIDE)).compile(method)
    again = copied(fast)
    assert again.compiled.method == method
    assert again.source is not fast.source
    chunks = [p.sample(conditions(), generator=generator()) for p in (fast, again)]
    assert torch.equal(*chunks)


@pytest.mark.parametrize("method", ["native", "packed"])
def test_what_is_compiled_can_be_compiled_and_exported(method):
    policy = trained_policy(tiny_head(**WIDE))
    fast = policy.compile(method)
    assert fast.compile().source is policy
    loop = SamplingLoop(fast, Sampling(steps=2))
    noise = torch.randn(4, 16, 10, generator=generator())
    expected = policy.sample(conditions(), steps=2, generator=generator())
    torch.testing.assert_close(loop(noise, conditions()), expected)


def test_a_head_that_trains_is_not_copied_into_another_precision():
    policy = ActionHead(tiny_head(**WIDE).config).attach(AdaLNZero(COND_DIM))
    fast = policy.compile(dtype=torch.bfloat16)
    with torch.no_grad():
        policy.head.backbone.out.bias.add_(1)
    chunks = [p.sample(conditions(), generator=generator()) for p in (policy, fast)]
    assert torch.equal(*chunks)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inductor_is_eager(dtype):
    policy = trained_policy(tiny_head("mixer", **WIDE))
    fast = policy.compile("inductor", dtype=dtype)
    for batch in (1, 3):
        chunks = [p.sample(conditions(batch), steps=3, generator=generator()) for p in (policy, fast)]
        torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 0.05)
    assert len(fast.head.programs) == 2


def test_programs_are_bounded(monkeypatch):
    policy = trained_policy(tiny_head(**WIDE))
    monkeypatch.setattr(compiled, "why_no_inductor", lambda: "")
    fast = policy.compile("inductor")
    monkeypatch.setattr(torch, "compile", lambda network, **options: network)
    for batch in range(1, inductor.KEPT + 3):
        fast.sample(conditions(batch), steps=2)
    assert len(fast.head.programs) == inductor.KEPT
    fast.sample(conditions(inductor.KEPT + 2), steps=2)
    assert len(fast.head.programs) == inductor.KEPT
