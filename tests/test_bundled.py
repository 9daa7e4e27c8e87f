"""Tests of every bundled head, against its golden outputs and its promises."""

from __future__ import annotations

import json

import pytest
import torch
from small import generator

from action_heads import EMA, ActionHead, golden
from action_heads.adapters import ADAPTERS
from action_heads.card import head_card
from action_heads.config import UNIVERSAL
from action_heads.io import hub
from action_heads.pretrain import data, objective

HEADS = sorted(hub.bundled())


def test_the_promised_ones_are_here():
    assert {"dae/mlp-5m-fk", "dae/mixer-5m-fk", "dae/mlp-5m-droid", "dae/mixer-5m-droid"} <= set(HEADS)


@pytest.mark.parametrize("name", [name for name in HEADS if "droid" in name])
def test_a_droid_head_says_first_how_much_of_droid_it_saw(name):
    text = (hub.bundled()[name] / "README.md").read_text()
    first = text.partition("```python")[0]
    real = [row for row in ActionHead.from_pretrained(name).config.training["sources"] if "npz:" in row["source"]]
    assert f"{real[0]['episodes']} episodes or {real[0]['hours']:g} hours" in first
    assert "synthetic motion with DROID's published statistics" in first
    assert "action-heads pretrain" in first
    assert "lerobot:lerobot/droid_1.0.1" in first


@pytest.mark.parametrize("name", HEADS)
def test_a_card_says_what_the_files_beside_it_say(name):
    folder = hub.bundled()[name]
    assert (folder / "README.md").read_text() == head_card(ActionHead.from_pretrained(name), name, folder), (
        "uv run benchmarks/head_latency.py --page"
    )


@pytest.mark.parametrize("name", HEADS)
def test_golden_outputs(name):
    assert golden.largest_difference(ActionHead.from_pretrained(name), hub.bundled()[name]) < 1e-4


@pytest.mark.parametrize("name", HEADS)
def test_golden_outputs_would_notice_another_head(name):
    head = ActionHead.from_pretrained(name)
    with torch.no_grad():
        head.backbone.out.bias.add_(0.01)
    assert golden.largest_difference(head, hub.bundled()[name]) > 1e-4


@pytest.mark.parametrize("name", HEADS)
def test_carries_its_contract(name):
    folder = hub.bundled()[name]
    head = ActionHead.from_pretrained(name)
    assert head.frozen
    assert head.config.name == name
    assert head.config.training["command"].startswith("action-heads pretrain")
    assert {"config.json", "model.safetensors", "README.md", "curves.json", "curves.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 30e6
    assert "library_name: action-heads" in (folder / "README.md").read_text()
    assert json.loads((folder / "curves.json").read_text())["held_out"][-1][0] == head.config.training["steps"]


@pytest.mark.parametrize("name", HEADS)
def test_has_learned_motion(name):
    """Every bundled head has less than half the loss of a random head on held-out recorded motion."""
    head = ActionHead.from_pretrained(name)
    torch.manual_seed(0)
    losses = [unconditional_loss(candidate, head.normalizer) for candidate in (head, ActionHead(head.config))]
    assert losses[0] < 0.5 * losses[1]


@torch.no_grad()
def unconditional_loss(head, normalizer) -> float:
    space = head.config.space
    motion = data.source("recorded:panda", data.window(space, 16), "held_out")(256, generator())
    actions, signal = data.chunks(motion, space)
    return float(objective.loss(head, None, normalizer.normalize(actions), signal, "film", generator(1)))


@pytest.mark.parametrize("mechanism", UNIVERSAL)
@pytest.mark.parametrize("name", HEADS)
def test_samples_are_motion(name, mechanism):
    """Unconditional chunks have nearly orthonormal rotations, grippers near ±1, and smooth positions within reach."""
    head = ActionHead.from_pretrained(name)
    chunks = head.sample(64, mechanism=mechanism, steps=20, generator=generator())
    position, rows, gripper = chunks[..., :3], chunks[..., 3:9].unflatten(-1, (2, 3)), chunks[..., 9]
    gram = rows @ rows.mT
    assert (gram - torch.eye(2)).abs().median() < 0.1  # A random head has 0.3 to 0.4.
    assert (gripper.abs() - 1).abs().median() < 0.05
    assert position.norm(dim=-1).max() < 2
    if head.backbone.mixes_time:  # Unconditional chunks of mlp are not one motion.
        assert position.diff(dim=1).norm(dim=-1).median() < 0.05


@pytest.mark.parametrize("name", HEADS)
def test_three_lines_train_and_leave_the_head_alone(name):
    head = ActionHead.from_pretrained(name)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    policy = head.attach(ADAPTERS["adaln_zero"](cond_dim=2048))
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), 1e-3)
    ema = EMA(policy.trainable_parameters())
    actions, cond = head.sample(4, generator=generator()), torch.randn(4, 9, 2048)
    for _ in range(2):
        policy.train().loss(actions, cond, mask=torch.ones(4, 9, dtype=torch.bool)).backward()
        optimizer.step()
        ema.update()
    assert policy.sample(cond, steps=2).shape == (4, 16, 10)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
