"""Weights that no load would accept are not saved, and a good file stays where it is."""

from __future__ import annotations

import pytest
import torch
from small import COND_DIM, actions, conditions, tiny_head, trained_policy

from action_heads import ActionHead, ConditionedHead
from action_heads.actions.contract import Contract
from action_heads.adapters import AdaLNZero
from action_heads.encoders import ObservationConfig, ObservationEncoder
from action_heads.fit import Diverged, FitConfig, fit
from action_heads.observed_policy import ObservedPolicy


def observed() -> ObservedPolicy:
    config = ObservationConfig(cameras=("front",), state_dim=3, observation_steps=1)
    encoder = ObservationEncoder(config)
    policy = tiny_head("mlp").attach(AdaLNZero(encoder.cond_dim))
    return ObservedPolicy(
        encoder, policy, Contract(("state",), {"front": (32, 32)}, "action", "pose_6d", (-1.0, 1.0), 20.0)
    )


def head() -> ActionHead:
    return tiny_head("mlp")


SAVED = {
    "adapter": (lambda: trained_policy(head()), "save_adapter", lambda p: p.adapter),
    "adapter's divisors": (lambda: trained_policy(head()), "save_adapter", lambda p: p.adapter.standard),
    "head": (lambda: ActionHead(head().config), "save_pretrained", lambda p: p.backbone),
    "encoder": (observed, "save", lambda p: p.encoder),
    "policy's adapter": (observed, "save", lambda p: p.policy.adapter),
}


@pytest.mark.parametrize("what", SAVED)
def test_the_good_file_stays(what, tmp_path):
    if what in ("encoder", "policy's adapter"):
        pytest.importorskip("torchvision")
    make, save, part = SAVED[what]
    saved = make()
    getattr(saved, save)(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with torch.no_grad():
        if what == "adapter's divisors":
            part(saved).std.zero_()
        else:
            next(part(saved).parameters()).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=r"was not written, since nothing could load it: .*(NaN|not positive)"):
        getattr(saved, save)(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trained_policy(head().save_pretrained("~/head") and ActionHead.from_pretrained("~/head")).save_adapter("~/adapter")
    assert ConditionedHead.from_pretrained("~/adapter").head.frozen
    assert not (tmp_path / "~").exists()


def test_training_that_diverges_says_so():
    policy = head().attach(AdaLNZero(COND_DIM))
    with pytest.raises(Diverged, match=r"loss of training step \d is (nan|inf)\. .*an lr below 1e\+30"):
        fit(policy, actions(8), conditions(8), config=FitConfig(steps=5, lr=1e30, batch_size=4, precision="fp32"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("clip", value) for value in (-1.0, 0.0, float("nan"))),
        *(("lr", value) for value in (-1.0, 0.0, float("inf"), float("nan"))),
        *(("ema", value) for value in (-0.1, 1.0, 3.0)),
        *(("steps", 0), ("steps", 2.5), ("warmup", 2.5), ("batch_size", 0), ("weight_decay", -1.0), ("seed", "0")),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        FitConfig(**{name: value})
