"""Tests on CUDA, to be run by hand with `pytest -m gpu`."""

from __future__ import annotations

import copy

import pytest
import torch
from small import COND_DIM, actions, conditions, generator

from action_heads import ActionHead, Normalizer
from action_heads._util.training_step import TrainingStep, adamw
from action_heads.adapters import AdaLNZero
from action_heads.backbones import BACKBONES
from action_heads.fit import FitConfig, fit
from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig
from action_heads.pretrain.trainer import Trainer
from action_heads.training.optimiser import OptimiserConfig
from action_heads.training.streams import seeded

pytestmark = pytest.mark.gpu


def test_same_numbers_as_on_the_cpu(policy):
    """A CPU generator gives a head on CUDA the same noise.

    TF32 is off here. cuDNN uses it for convolutions by default, and it keeps only 10 bits of a float.
    """
    expected = policy.sample(conditions(), generator=generator())
    loss = policy.loss(actions(), conditions(), generator=generator())
    there = copy.deepcopy(policy).to("cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        got = there.sample(conditions().cuda(), generator=generator())
        on_cuda = there.loss(actions().cuda(), conditions().cuda(), generator=generator())
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_cuda.cpu(), loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_trains_on_a_shipped_head(dtype):
    head = ActionHead.from_pretrained("dae/mlp-5m-fk", device="cuda", dtype=dtype)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.fit(actions(64), head.config.space))
    losses = fit(policy, actions(64), conditions(64), config=FitConfig(steps=100))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"noise_samples": 4}, {"prefixes": True}, {"precision": "bf16"}])
def test_fit_by_a_graph_has_the_losses_of_eager_training(options, recwarn):
    """The graph draws the same noise as eager training, and its learning rate is rounded to float32."""
    losses = []
    for graph in (False, True):
        head = ActionHead.from_pretrained(
            "dae/mixer-5m-fk" if "prefixes" in options else "dae/mlp-5m-fk", device="cuda"
        )
        torch.manual_seed(0)
        policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.fit(actions(64), head.config.space))
        config = FitConfig(**{"steps": 60, "precision": "fp32", "graph": graph, **options})
        losses.append(torch.tensor(fit(policy, actions(64), conditions(64), config=config)))
    torch.testing.assert_close(*losses, rtol=0.05 if options.get("precision") == "bf16" else 0.01, atol=1e-3)
    assert losses[1][-10:].mean() < 0.8 * losses[1][:10].mean()
    assert not [one for one in recwarn if "without a CUDA graph" in str(one.message)]


def test_training_goes_on_if_a_graph_cannot_hold_the_loss():
    p = torch.nn.Parameter(torch.ones(4, device="cuda"))
    drawn = torch.Generator("cuda").manual_seed(0)

    def loss(x):
        noise = torch.randn(4, device="cuda", generator=drawn)
        return (p * x + noise).square().mean() * (1.0 if p.sum().item() else 0.0)

    step = TrainingStep(loss, adamw([p], 0.1, graph=True), 1.0, [drawn], graph=True)
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        losses = [step(torch.ones(4, device="cuda")) for _ in range(40)]
    assert step.reason
    assert torch.stack(losses[-10:]).mean() < torch.stack(losses[:10]).mean()
    assert torch.randn(2, device="cuda").isfinite().all(), "the default generator still draws"


@pytest.fixture
def on_the_gpu():
    """Reset accelerate, which other tests may have set to the CPU."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("arch", "size"), [("mlp", "0.3m"), ("mixer", "0.3m"), ("transformer", "0.3m"), ("unet", "1m")]
)
@pytest.mark.usefixtures("on_the_gpu")
def test_pretrains_in_bf16(tmp_path, arch, size):
    """Precision `auto` is bf16 on a GPU; weights and averages stay fp32, and a finished run is not trained again."""
    optimiser = OptimiserConfig(steps=400, batch_size=256, warmup=20)
    config = PretrainConfig(out=tmp_path, arch=arch, size=size, optimiser=optimiser, save_every=200)
    head = pretrain(config)
    assert head.config.training["machine"].startswith("bf16 on")
    assert head.config.training["chunks_per_second"]["training"] > 0
    held_out = [loss for _, loss in files.read_json(tmp_path / "curves.json")["held_out"]]
    assert held_out[1] < held_out[0] < 0.7
    assert pretrain(config).fingerprint() == head.fingerprint()


@pytest.mark.usefixtures("on_the_gpu")
def test_pretraining_takes_pinned_batches_to_fp32_weights(tmp_path):
    trainer = Trainer(
        PretrainConfig(tmp_path, arch="mlp", size="0.3m", optimiser=OptimiserConfig(batch_size=32), precision="bf16")
    )
    assert trainer.draw(0).x0.is_pinned()
    assert trainer.train_step(trainer.draw(0)).device.type == "cuda"
    assert {(p.device.type, p.dtype) for p in trainer.parameters} == {("cuda", torch.float32)}


@pytest.mark.parametrize("arch", sorted(BACKBONES))
@pytest.mark.usefixtures("on_the_gpu")
def test_pretraining_by_graphs_has_the_losses_of_eager_training(tmp_path, arch, recwarn):
    """All mechanisms draw the same noise as in eager training, from one generator, also after a state was loaded."""
    given = {"arch": arch, "size": "1m", "mechanisms": BACKBONES[arch].mechanisms, "precision": "fp32"}
    trainers = [Trainer(PretrainConfig(tmp_path, **given, graph=graph)) for graph in (False, True)]
    steps = 5 * 2 * len(given["mechanisms"])
    losses = [[t.train_step(t.draw(t.step)) for _ in range(steps)] for t in trainers]
    torch.testing.assert_close(*map(torch.stack, losses), rtol=1e-2, atol=1e-3)
    eager, graphed = trainers
    assert graphed.machine.endswith("CUDA graphs")
    assert all(recorded.replay for recorded in graphed.take_step.recorded.values())
    graphed.load_state_dict({name: tensor.clone() for name, tensor in eager.state_dict().items()}, eager.step)
    losses = [[t.train_step(t.draw(t.step)) for _ in range(steps)] for t in trainers]
    torch.testing.assert_close(*map(torch.stack, losses), rtol=1e-2, atol=1e-3)
    assert not [one for one in recwarn if "without a CUDA graph" in str(one.message)]


@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"sampler": "heun"}, {"sampler": "dpmpp_2m"}])
def test_a_graph_is_eager(policy, options):
    """A graph gives the eager chunks for every backbone, adapter and batch size, whatever noise and conditions are."""
    there = copy.deepcopy(policy).to("cuda")
    fast = there.compile()
    assert fast.compiled.method == "graph"
    for batch, seed in ((1, 0), (3, 0), (1, 1)):
        cond = conditions(batch, seed=seed).cuda()
        chunks = [p.sample(cond, generator=generator(seed), **options) for p in (there, fast)]
        torch.testing.assert_close(*chunks, rtol=1e-4, atol=1e-4)
    assert len(fast.head.graphs) == 2
    assert not fast.head.fell_back


def test_a_graph_sees_what_the_adapter_learned_and_leaves_its_output_alone(policy):
    there = copy.deepcopy(policy).to("cuda")
    fast, cond = there.compile(), conditions().cuda()
    first = fast.sample(cond, generator=generator())
    kept = first.clone()
    with torch.no_grad():
        for p in there.trainable_parameters():
            p.add_(0.1)
    expected = there.sample(cond, generator=generator())
    torch.testing.assert_close(fast.sample(cond, generator=generator()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(first, kept)


def test_what_no_graph_can_hold_runs_eagerly(policy):
    fast = copy.deepcopy(policy).to("cuda").compile()
    fast.sample(conditions().cuda(), sampler="ddpm", steps=2, generator=generator())
    assert "draws noise at every step" in fast.head.fell_back


@pytest.mark.parametrize("method", ["graph", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shipped_head_compiled(method, dtype):
    """bf16 is within 2 cm and 0.02 of float32; docs/results/precision.md has the typical differences."""
    policy = ActionHead.from_pretrained("dae/mlp-5m-fk", device="cuda").attach(AdaLNZero(COND_DIM)).eval()
    fast, cond = policy.compile(method, dtype=dtype), conditions().cuda()
    chunks = [p.sample(cond, generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=0, atol=1e-3 if dtype == torch.float32 else 0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("method", ["graph", "fused"])
def test_a_compiled_policy_on_a_gpu_that_is_not_the_current_one(method, policy):
    there = copy.deepcopy(policy).to("cuda:1").eval()
    compiled, cond = there.compile(method), conditions().to("cuda:1")
    for seed in (0, 1):
        expected, got = (p.sample(cond, generator=generator(seed)) for p in (there, compiled))
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_dropout_on_a_gpu_is_that_of_the_seed():
    dropped = []
    for _ in range(2):
        torch.cuda.manual_seed_all(len(dropped))  # as after another number of training steps
        before = torch.cuda.get_rng_state()
        with seeded(3, "cuda"):
            dropped.append(torch.nn.functional.dropout(torch.ones(64, device="cuda"), 0.5))
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(*dropped)
