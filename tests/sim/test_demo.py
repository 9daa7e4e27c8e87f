"""The demo with a simulator replaced by arrays. `action-heads demo --quick` tests the real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from action_heads_lab.sim import demo as module
from action_heads_lab.sim.demo import DemoConfig, demo
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.report import Row, table
from action_heads_lab.sim.rollout import Rollouts
from forked import inside
from small import tiny_head

from action_heads import ActionHead, ConditionedHead
from action_heads.card import head_card
from action_heads.io import locks

OBSERVATION = 5


@pytest.fixture
def arrays(monkeypatch):
    """Replace the recording by random motion, and the rollout by one that records the answers of the policy."""
    rng = np.random.default_rng(0)
    calls = []

    def record(task, episodes, seed, path):
        n = 40
        return Demonstrations(
            observation=rng.normal(size=(n, OBSERVATION)).astype(np.float32),
            action=rng.uniform(-0.3, 0.3, size=(n, 10)).astype(np.float32),
            joint_position=np.zeros((n, 7), np.float32),
            episode_length=np.array([25, 15]),
            seed=np.array([10_000, 10_001]),
            task=task,
            noise=0.0,
        )

    def rollout(task, policy, seeds, video, description):
        asked = rng.normal(size=(3, 2 * OBSERVATION)).astype(np.float32)
        calls.append((description, policy(asked), policy(asked + 1)))
        e = len(seeds)
        return Rollouts(task, np.arange(e) % 2 == 0, np.full(e, 30), np.array(seeds), 0.1, 1.0)

    monkeypatch.setattr(module, "record", record)
    monkeypatch.setattr(module, "rollout", rollout)
    return calls


@pytest.fixture
def head_folder(tmp_path):
    return str(tiny_head().save_pretrained(tmp_path / "head"))


def config(tmp_path, head_folder, **changes) -> DemoConfig:
    given = {"head": head_folder, "steps": 4, "demos": 2, "episodes": 6, "out": tmp_path / "out"}
    return DemoConfig(**{**given, **changes})


def test_of_two_at_once_one_is_refused(tmp_path, head_folder, arrays):
    with inside(lambda: locks.held(tmp_path / "out")), pytest.raises(locks.InUse, match="give another --out"):
        demo(config(tmp_path, head_folder))
    assert not arrays


def test_leaves_table_plot_adapter_and_every_number(tmp_path, head_folder, arrays):
    runs = ("decoupled", "random-frozen", "blind", "normal")
    rows = demo(config(tmp_path, head_folder, runs=runs))
    out = tmp_path / "out"
    assert [row.name for row in rows] == list(runs)
    assert all(row.successes == 3 and row.episodes == 6 for row in rows)
    assert rows[0].frozen > 0
    assert rows[3].frozen == 0
    assert rows[1].trainable == rows[0].trainable  # the same adapter on a random head
    assert (out / "results.png").stat().st_size > 5000
    assert "| decoupled |" in (out / "table.md").read_text()
    saved = json.loads((out / "results.json").read_text())
    assert saved["rows"][0]["successes"] == 3
    assert saved["head"]["name"] == "test/tiny"
    assert (out / "decoupled" / "adapter" / "adapter.safetensors").exists()
    assert not (out / "random-frozen" / "adapter").exists()


def test_the_head_s_folder_keeps_the_result_for_its_card(tmp_path, head_folder, arrays):
    demo(config(tmp_path, head_folder, runs=("decoupled", "random-frozen")), "action-heads demo --head here")
    head = ActionHead.from_pretrained(head_folder)
    card = head_card(head, folder=Path(head_folder))
    assert "action-heads demo --head here" in card
    assert "| decoupled | " in card
    assert "| 3 of 6 | 19% to 81% |" in card
    assert "On a task" not in head_card(tiny_head(seed=1), folder=Path(head_folder))  # a head with other weights


@pytest.mark.parametrize("name", module.RUNS)
def test_blind_sees_nothing(tmp_path, head_folder, arrays, monkeypatch, name):
    """A blind run gets zeros in training and rollouts, and every other run gets its observations."""
    seen, modulate = [], ConditionedHead.modulate
    monkeypatch.setattr(
        ConditionedHead, "modulate", lambda self, cond, mask=None: seen.append(cond) or modulate(self, cond, mask)
    )
    demo(config(tmp_path, head_folder, runs=(name,)))
    assert len(seen) == 4 + 2  # training steps, and chunks of rollouts
    assert all((cond == 0).all() == (name == "blind") for cond in seen)


def test_a_finished_row_is_not_run_again(tmp_path, head_folder, arrays):
    first = demo(config(tmp_path, head_folder, runs=("decoupled",)))
    assert demo(config(tmp_path, head_folder, runs=("decoupled",))) == first
    assert len(arrays) == 1
    demo(config(tmp_path, head_folder, runs=("decoupled",), seed=1))
    assert len(arrays) == 2


def test_controls_share_no_weight_with_the_pretrained_head(tmp_path, head_folder, arrays):
    from action_heads import ActionHead

    pretrained = ActionHead.from_pretrained(head_folder)
    recording = module.record("Lift", 2, seed=0, path=None)
    settings = config(tmp_path, head_folder)
    cond, actions, _ = (torch.from_numpy(part) for part in recording.chunks(16))
    policies = {name: module.build(name, settings, pretrained, cond, actions).policy for name in module.RUNS}
    assert policies["decoupled"].head is policies["blind"].head is pretrained
    assert policies["random-frozen"].head.frozen
    assert not policies["normal"].head.frozen
    assert policies["random-frozen"].head.fingerprint() != pretrained.fingerprint()
    assert policies["random-frozen"].num_trainable == policies["decoupled"].num_trainable
    assert policies["random-relearned"].head.frozen
    assert policies["random-relearned"].num_trainable > policies["decoupled"].num_trainable


def test_interval_is_wilsons():
    row = Row(
        "decoupled",
        1,
        1,
        successes=45,
        episodes=50,
        steps_to_success=40.0,
        training_seconds=1.0,
        seconds=2.0,
        losses=[1.0],
    )
    low, high = row.interval
    assert low == pytest.approx(0.7864, abs=1e-3)  # computed by hand from Wilson's formula
    assert high == pytest.approx(0.9565, abs=1e-3)
    assert "45 of 50" in table([row])


@pytest.mark.parametrize("wrong", [{"runs": ("oracle",)}, {"adapter": "lora"}, {"through": "layers"}])
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match=r"choose (one of|from)"):
        DemoConfig(**wrong)
