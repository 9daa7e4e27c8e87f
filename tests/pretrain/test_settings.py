"""Settings of a run are validated, in Python and on the command line."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from action_heads import ActionHead, cli
from action_heads._util.flat import leaves
from action_heads.backbones import BACKBONES
from action_heads.pretrain import loop
from action_heads.pretrain.settings import SIZES, SIZES_OF, PretrainConfig
from action_heads.training.optimiser import OptimiserConfig


@pytest.fixture
def on_the_command_line(monkeypatch):
    """Return a function that runs `action-heads pretrain` with arguments and returns the settings that it makes."""
    asked = []
    monkeypatch.setattr(loop, "pretrain", lambda config, command: asked.append((config, command)))

    def run(*arguments: str) -> PretrainConfig:
        monkeypatch.setattr(sys, "argv", ["action-heads", "pretrain", *arguments])
        cli.main()
        config, command = asked.pop()
        assert command == shlex.join(["action-heads", "pretrain", *arguments])
        return config

    return run


@pytest.mark.parametrize(
    ("arch", "size"), [(arch, size) for arch in ("mixer", "mlp", *SIZES_OF) for size in SIZES_OF.get(arch, SIZES)]
)
def test_sizes_have_the_parameters_they_are_named_after(arch, size):
    named = 1e6 * float(size.removesuffix("m"))
    config = PretrainConfig(arch=arch, size=size).head()
    with torch.device("meta"):
        backbone = BACKBONES[arch](
            action_dim=10, horizon=16, width=config.width, depth=config.depth, expansion=config.expansion
        )
    assert 0.85 < sum(p.numel() for p in backbone.parameters()) / named < 1.25


def test_5m_is_the_papers():
    backbone = ActionHead(PretrainConfig(arch="mlp", size="5m").head()).backbone
    assert sum(p.numel() for p in backbone.parameters()) == 4_782_346


def test_width_and_depth_override_the_size():
    assert PretrainConfig(size="1m", depth=3).shape == (128, 3)
    assert PretrainConfig(width=32).folder == Path("heads/mixer-32x8")


def test_no_default_name_claims_a_corpus():
    config = PretrainConfig(arch="mixer", size="1m", data=("recorded:panda",))
    assert config.folder == Path("heads/mixer-1m")
    assert config.head().name == "mixer-1m"
    assert PretrainConfig(out=Path("somewhere/my-head")).head().name == "my-head"
    assert PretrainConfig(out=Path("somewhere/my-head"), name="me/other").head().name == "me/other"


def test_data_given_replaces_the_default(on_the_command_line):
    assert on_the_command_line().sources == ("synthetic:panda",)
    assert on_the_command_line("--data", "npz:a").sources == ("npz:a",)
    assert on_the_command_line("--data", "npz:a", "--data", "lerobot:b/c@2?x=1").sources == (
        "npz:a",
        "lerobot:b/c@2?x=1",
    )


def test_every_flag(on_the_command_line):
    config = on_the_command_line(
        *shlex.split(
            "--arch mixer --size 1m --width 32 --depth 4 --horizon 8 --action delta --signal pose --prediction epsilon "
            "--levels beta --graph "
            "--schedule constant --precision bf16 --steps 7 --batch-size 6 --lr 0.5 --warmup 3 --ema 0.9 --clip 2 "
            "--seed 4 --save-every 5 --workers 2 --task-boxes 0.1 --mechanisms film adaln_zero --name me/x --out a/b "
            "--licence cc0-1.0 --credit 'synthetic:panda=ours, CC0'"
        )
    )
    assert config == PretrainConfig(
        **{"arch": "mixer", "size": "1m", "width": 32, "depth": 4, "horizon": 8, "action": "delta", "signal": "pose"},
        **{"prediction": "epsilon", "levels": "beta", "precision": "bf16", "graph": True},
        optimiser=OptimiserConfig(7, 6, lr=0.5, warmup=3, schedule="constant", clip=2.0, ema=0.9),
        **{"seed": 4, "save_every": 5, "workers": 2, "task_boxes": 0.1},
        **{"mechanisms": ("film", "adaln_zero"), "name": "me/x", "out": Path("a/b")},
        **{"licence": "cc0-1.0", "credit": ("synthetic:panda=ours, CC0",)},
    )


def test_credits_are_of_sources():
    data = ("npz:a.npz?short=skip@2", "npz:b.npz")
    said = ("npz:a.npz?short=skip@2=ours = CC0", "npz:b.npz=theirs, MIT")
    config = PretrainConfig(data=data, credit=said)
    assert config.credits == {data[0]: "ours = CC0", "npz:b.npz": "theirs, MIT"}
    assert PretrainConfig(data=data, credit=("npz:a.npz=ours",)).credits == {"npz:a.npz": "ours"}  # its options aside
    for wrong in ("npz:c.npz=mine", "npz:b.npz", "npz:b.npz="):
        with pytest.raises(ValueError, match=r"not name a source of this run.*one of npz:a\.npz\?short=skip@2, npz:b"):
            PretrainConfig(data=data, credit=(wrong,))


def test_what_weighs_nothing_is_no_part_of_the_outcome():
    """Changing the name, folder, licence, credit or saving interval of a run does not change its outcome."""
    other = {"out": Path("a"), "name": "b", "licence": "mit", "credit": ("synthetic:panda=us",), "save_every": 7}
    assert PretrainConfig(**other, workers=3).outcome() == PretrainConfig().outcome()
    assert PretrainConfig(seed=1).outcome() != PretrainConfig().outcome()


def test_help_has_a_line_a_flag_with_its_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["action-heads", "pretrain", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = [line.strip(" │|") for line in capsys.readouterr().out.splitlines()]
    flags = [line for line in lines if re.match("--[a-z]", line)]
    assert len(flags) == len(leaves(PretrainConfig))
    assert all("(default: " in line for line in flags)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"signal": "images"}, "choose one of code, joints, pose, none"),
        ({"arch": "gru"}, "choose one of mlp, mixer, transformer, unet"),
        ({"size": "7b"}, "choose one of 0.3m, 0.7m, 1m, 2m, 5m, 10m"),
        ({"size": "244m"}, "size is '244m'; choose one of 0.3m, 0.7m"),
        ({"arch": "unet", "size": "0.3m"}, "size is '0.3m'; choose one of 1m, 2m, 5m, 10m, 244m, the sizes of unet"),
        ({"arch": "unet", "horizon": 18}, "multiple of 4; got 18. Use 16"),
        ({"action": "relative"}, "choose one of absolute, delta"),
        ({"levels": "cosine"}, "choose one of uniform, logit_normal, beta, last"),
        ({"schedule": "step"}, "choose one of cosine, constant"),
        ({"precision": "fp16"}, "choose one of auto, fp32, bf16"),
        ({"task_boxes": 2}, "must be between 0 and 1, got 2"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"lr": float("inf")}, "lr must be finite, got inf"),
        ({"clip": float("nan")}, "clip must be positive, got nan"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"seed": 10**20}, r"seed must be 0 or more and below 2\^63"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"width": 7}, "width must be even"),
        ({"licence": " "}, "licence is empty"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig.from_flat(given)


def test_bad_settings_on_the_command_line(on_the_command_line, capsys):
    with pytest.raises(SystemExit):
        on_the_command_line("--size", "7b")
    assert "choose one of 0.3m" in " ".join(capsys.readouterr().err.split())


def test_schedules():
    cosine, constant = (OptimiserConfig(schedule=name, lr=1.0, warmup=10, steps=100) for name in ("cosine", "constant"))
    assert constant.learning_rate(4) == pytest.approx(0.5)
    assert constant.learning_rate(10) == constant.learning_rate(99) == 1.0
    assert cosine.learning_rate(50) == pytest.approx(0.5)
    assert cosine.learning_rate(99) < 0.01
