"""What must hold on CUDA; run by hand with `pytest -m gpu`."""

from __future__ import annotations

import copy

import pytest
import torch
from small import COND_DIM, actions, conditions, generator

from action_heads import ActionHead, Normalizer, files
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig
from action_heads.pretrain.trainer import Trainer

pytestmark = pytest.mark.gpu


def test_same_numbers_as_on_the_cpu(policy):
    """A CPU generator gives a head on CUDA the same noise."""
    expected = policy.sample(conditions(), generator=generator())
    loss = policy.loss(actions(), conditions(), generator=generator())
    there = copy.deepcopy(policy).to("cuda")
    got = there.sample(conditions().cuda(), generator=generator())
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
    on_cuda = there.loss(actions().cuda(), conditions().cuda(), generator=generator())
    torch.testing.assert_close(on_cuda.cpu(), loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_trains_on_a_shipped_head(dtype):
    head = ActionHead.from_pretrained("dae/mlp-5m-fk", device="cuda", dtype=dtype)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.fit(actions(64), head.config.space))
    losses = fit(policy, actions(64), conditions(64), config=FitConfig(steps=100))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


@pytest.fixture
def on_the_gpu():
    """Other tests may have settled accelerate on the CPU."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("arch", "size"), [("mlp", "0.3m"), ("mixer", "0.3m"), ("transformer", "0.3m"), ("unet", "1m")]
)
@pytest.mark.usefixtures("on_the_gpu")
def test_pretrains_in_bf16(tmp_path, arch, size):
    """`auto` is bf16 here; weights and their average stay fp32, and a resumed run is a finished run."""
    config = PretrainConfig(out=tmp_path, arch=arch, size=size, steps=400, batch_size=256, warmup=20, save_every=200)
    head = pretrain(config)
    assert head.config.training["machine"].startswith("bf16 on")
    assert head.config.training["chunks_per_second"]["training"] > 0
    held_out = [loss for _, loss in files.read_json(tmp_path / "curves.json")["held_out"]]
    assert held_out[1] < held_out[0] < 0.7
    assert pretrain(config).fingerprint() == head.fingerprint()


@pytest.mark.usefixtures("on_the_gpu")
def test_pretraining_takes_pinned_batches_to_fp32_weights(tmp_path):
    trainer = Trainer(PretrainConfig(out=tmp_path, size="0.3m", batch_size=32, precision="bf16"))
    assert trainer.draw(0).x0.is_pinned()
    assert trainer.train_step().device.type == "cuda"
    assert {(p.device.type, p.dtype) for p in trainer.parameters} == {("cuda", torch.float32)}
