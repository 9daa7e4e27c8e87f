"""Wrong input raises errors that name the flag to change."""

from __future__ import annotations

import pytest
import torch
from lerobot.utils.constants import OBS_IMAGE, OBS_STATE
from tiny_models import text_model, vision_model
from tiny_policy import STATS, batch, features, head_folder, meta, present, tiny_policy

from action_heads.encoders import TextConfig, VisionConfig
from lerobot_policy_dae import DAEConfig, DAEPolicy


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head": "nobody/nothing-here"}, r"--policy\.head"),
        ({"head": "./no-such-folder"}, r"--policy\.head.*bundled heads"),
        ({"head_mode": "thawed"}, r"--policy\.head_mode.*random-frozen"),
        ({"adapter": "lora"}, r"--policy\.adapter.*adaln_zero"),
        ({"adapter": "cross_attention"}, r"--policy\.adapter.*pretrained for"),
        ({"through": "walls"}, r"--policy\.through"),
        ({"sampler": "magic"}, r"--policy\.sampler.*ddim"),
        ({"levels": "high"}, r"--policy\.levels"),
        ({"n_action_steps": 17}, r"--policy\.n_action_steps=17.*16"),
        ({"action_layout": None}, r"--policy\.action_layout.*7 columns"),
        ({"action_layout": "pose_6d"}, r"--policy\.action_layout.*10 columns"),
        ({"prefixes": True}, r"--policy\.prefixes.*mixes time"),
        ({"cameras": ["observation.images.top"]}, r"--policy\.cameras"),
        ({"state": False}, r"The policy has no observations.*--policy\.cameras"),
        ({"vision": VisionConfig(backbone="./no-such-eyes")}, r"--policy\.vision"),
        ({"vision": VisionConfig(pool="cls")}, r"^--policy\.vision\.pool is 'cls', which has no effect"),
        ({"vision": VisionConfig(features=8), "cameras": []}, r"^--policy\.vision\.features.*there are no cameras"),
        ({"head_seed": 3}, r"^--policy\.head_seed is 3, which has no effect"),
        ({"optimizer_encoder_lr": 0.1}, r"^--policy\.optimizer_encoder_lr is 0\.1, which has no effect"),
        ({"sampler": "one_step", "num_inference_steps": 5}, r"^--policy\.sampler, --policy\.num_inference_steps"),
        ({"num_inference_steps": 0}, r"^--policy\.sampler, --policy\.num_inference_steps"),
        ({"num_inference_steps": 100_000}, r"^--policy\.sampler, --policy\.num_inference_steps"),
        ({"warm_start": 0.3, "n_action_steps": 16}, r"warm_start: All 16 time steps"),
        ({"warm_start": 0.01, "num_inference_steps": 30}, r"warm_start: "),
        ({"vlm_refresh": 4}, r"^--policy\.vlm_refresh is 4, which has no effect"),
    ],
    ids=str,
)
def test_flags_that_can_not_be(flags, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=message.replace(".*", r"[\s\S]*")):
        tiny_policy(tmp_path, image="vision" in flags, **flags)


def test_a_dataset_without_actions(tmp_path):
    config = DAEConfig(head=head_folder(tmp_path), device="cpu", **features() | {"output_features": {}})
    with pytest.raises(ValueError, match="no column 'action'"):
        DAEPolicy(config, STATS)


def test_an_observation_that_is_missing(tmp_path):
    policy = tiny_policy(tmp_path, image=True, vision=VisionConfig(backbone=vision_model("vit", tmp_path / "vit")))
    now = present(batch(image=True))
    del now[OBS_IMAGE]
    with pytest.raises(ValueError, match=rf"{OBS_IMAGE} is missing[\s\S]*{OBS_STATE}[\s\S]*--rename_map"):
        policy.select_action(now)


def test_pictures_of_another_size_than_in_training(tmp_path):
    """Images of another size than in training are refused, unless the policy resizes them.

    LIBERO's environment renders 360 x 360 by default, and its datasets have 256 x 256.
    """
    eyes = vision_model("vit", tmp_path / "vit")
    now = present(batch(image=True))
    larger = now | {OBS_IMAGE: torch.rand(3, 3, 48, 40)}
    policy = tiny_policy(tmp_path, image=True, vision=VisionConfig(backbone=eyes, crop=(28, 28)))
    policy.select_action(now)
    with pytest.raises(ValueError, match=r"48 x 40[\s\S]*32 x 32[\s\S]*observation_height=32[\s\S]*vision\.resize"):
        policy.select_action(larger)
    for vision in (VisionConfig(backbone=eyes), VisionConfig(backbone=eyes, resize=(30, 30), crop=(28, 28))):
        assert tiny_policy(tmp_path, image=True, vision=vision).select_action(larger).shape == (3, 7)


@pytest.mark.parametrize("task", [None, [""] * 3])
def test_no_description_of_the_task(task, tmp_path):
    text = TextConfig(model=text_model(tmp_path / "text"))
    policy = tiny_policy(tmp_path, text=text, dataset_meta=meta("lift the cube"))
    with pytest.raises(ValueError, match=r"--policy\.text"):
        policy.select_action(present(batch()) | {"task": task})


def test_a_new_policy_needs_a_dataset(tmp_path):
    config = DAEConfig(head=head_folder(tmp_path), action_layout="libero", device="cpu", **features())
    with pytest.raises(ValueError, match=r"--dataset\.repo_id"):
        DAEPolicy(config)
