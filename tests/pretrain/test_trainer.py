"""The Stage 1 loop: learns, resumes to the same bits, and refuses another run's state."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small import generator

from action_heads import ActionHead
from action_heads.adapters import ADAPTERS, AdaLNZero
from action_heads.pretrain.trainer import PretrainConfig, Trainer, pretrain


def tiny(out, **changes) -> PretrainConfig:
    given = {"out": out, "name": "test/tiny", "width": 16, "depth": 2, "steps": 12, "batch_size": 8, "save_every": 6}
    return PretrainConfig(**{**given, **changes})


@pytest.mark.parametrize("backbone", ["mlp", "mixer"])
@pytest.mark.parametrize("signal", ["joints", "pose", "none"])
def test_finished_head_is_complete(tmp_path, backbone, signal):
    head = pretrain(tiny(tmp_path, backbone=backbone, signal=signal), command="action-heads pretrain ...")
    assert head.frozen
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "README.md", "curves.png"}
    loaded = ActionHead.from_pretrained(tmp_path)
    assert loaded.config.training["command"] == "action-heads pretrain ..."
    assert loaded.config.training["chunks"] == 96
    for adapter in ADAPTERS.values():
        loaded.attach(adapter(3)).sample(torch.zeros(1, 3), steps=2)


def test_loss_falls(tmp_path):
    trainer = Trainer(tiny(tmp_path, steps=150, batch_size=32, warmup=5))
    first = trainer.evaluate(3)
    for _ in range(150):
        trainer.train_step()
    assert trainer.evaluate(3) < 0.7 * first


class Killed(Exception):
    pass


@pytest.mark.parametrize("backbone", ["mlp", "mixer"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, backbone, monkeypatch):
    whole = pretrain(tiny(tmp_path / "whole", backbone=backbone))
    train_step = Trainer.train_step

    def dies(self):
        if self.step == 9:
            raise Killed
        return train_step(self)

    monkeypatch.setattr(Trainer, "train_step", dies)
    with pytest.raises(Killed):
        pretrain(tiny(tmp_path / "cut", backbone=backbone))
    monkeypatch.undo()
    resumed = pretrain(tiny(tmp_path / "cut", backbone=backbone))
    assert resumed.fingerprint() == whole.fingerprint()


def test_resumes_where_some_parameter_never_had_a_gradient(tmp_path):
    """RMS norms leave the bias of the layer norms alone."""
    settings = tiny(tmp_path, mechanisms=("adarmsnorm",))
    pretrain(settings)
    trainer = Trainer(settings)
    trainer.resume(tmp_path / "state")
    assert trainer.step == 12


def test_a_finished_run_may_be_moved_and_finished_again(tmp_path):
    first = pretrain(tiny(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert pretrain(tiny(tmp_path / "b")).fingerprint() == first.fingerprint()


def test_state_of_other_settings_is_refused(tmp_path):
    pretrain(tiny(tmp_path))
    with pytest.raises(ValueError, match=r"other settings \(lr, seed\)"):
        pretrain(dataclasses.replace(tiny(tmp_path), lr=0.5, seed=3))


def test_seed_decides(tmp_path):
    heads = [pretrain(tiny(tmp_path / f"{i}", seed=seed)) for i, seed in enumerate((0, 0, 1))]
    assert heads[0].fingerprint() == heads[1].fingerprint() != heads[2].fingerprint()


def test_mixed_noise_levels_have_clean_prefixes(tmp_path):
    from action_heads.pretrain.objective import noise_levels

    head = Trainer(tiny(tmp_path, backbone="mixer")).head
    t, clean = noise_levels(head, 256, mixed=True, generator=generator())
    assert t.shape == clean.shape == (256, 16)
    assert (clean.long().diff(dim=1) <= 0).all()  # a prefix: once noisy, noisy to the end
    assert not clean[:, -1].any()
    assert (t[clean] == 0).all()
    own = (t[:, -1:] != t)[~clean].float().mean()
    assert 0.2 < own < 0.8  # some chunks share one level, some do not


def test_bad_settings():
    with pytest.raises(ValueError, match="choose one of none, joints, pose"):
        PretrainConfig(signal="images")
    with pytest.raises(ValueError, match="share between 0 and 1"):
        PretrainConfig(task_boxes=2)


def test_head_takes_an_adapter_of_its_mechanism_only(tmp_path):
    head = pretrain(tiny(tmp_path, mechanisms=("film",)))
    with pytest.raises(ValueError, match="pretrained for film"):
        head.attach(AdaLNZero(3))
