"""Wrong input raises errors that name the flag to change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGE, OBS_STATE
from lerobot_fixture import write
from lerobot_policy_dae.processor_dae import make_dae_pre_post_processors
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
        ({"canonical_rotations": True}, r"^--policy\.canonical_rotations is True, which has no effect: no rotation of"),
        ({"action_layout": "joint:7", "gripper": (0, 1)}, r"^--policy\.gripper is .*no effect: the layout 'joint:7'"),
        ({"optimizer_lr": float("nan")}, r"^--policy\.optimizer_lr must be 0 or more, got nan"),
        ({"scheduler_warmup_steps": -5}, r"^--policy\.scheduler_warmup_steps must be 0 or more, got -5"),
        ({"environment_state": True}, r"^--policy\.environment_state is True, which has no effect: the dataset has no"),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {OBS_IMAGE: PolicyFeature(FeatureType.VISUAL, (1, 32, 32))},
            r"colour images .* observation.image \(1, 32, 32\)",
        ),
        ({OBS_STATE: PolicyFeature(FeatureType.STATE, (2, 4))}, r"observation.state has the shape \(2, 4\)"),
        ({OBS_IMAGE: PolicyFeature(FeatureType.VISUAL, (3, 4, 4))}, r"--policy.vision, --policy.cameras: "),
    ],
)
def test_features_that_no_encoder_takes(given, message, tmp_path):
    named = features(image=True)
    named["input_features"] |= given
    vision = VisionConfig("resnet18", pool="keypoints")
    with pytest.raises(ValueError, match=message):
        DAEPolicy(
            DAEConfig(head=head_folder(tmp_path), action_layout="libero", vision=vision, device="cpu", **named), STATS
        )


def test_features_that_the_policy_does_not_see_may_have_any_shape(tmp_path):
    """With cameras, the poses of objects are left out."""
    named = features(image=True)
    named["input_features"][OBS_ENV_STATE] = PolicyFeature(FeatureType.ENV, (2, 4))
    named["input_features"][OBS_IMAGE] = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    flags = {"action_layout": "libero", "vision": VisionConfig("resnet18"), "device": "cpu"}
    policy = DAEPolicy(DAEConfig(head=head_folder(tmp_path), **flags, **named), STATS)
    assert policy.config.input_features.keys() == {OBS_STATE, OBS_IMAGE}


def test_a_gripper_that_never_moves_warns_once(tmp_path):
    stats = {name: x.copy() for name, x in STATS[ACTION].items()}
    stats["min"][6] = 1
    with pytest.warns(UserWarning, match="the gripper, is 1 in every row") as said:
        DAEPolicy(tiny_policy(tmp_path).config, {ACTION: stats})
    assert len([each for each in said if "gripper" in str(each.message)]) == 1


def test_rows_that_are_no_rotation_are_named(tmp_path, monkeypatch, caplog):
    """Their statistics are as usual, and a loss of NaN would end a long training.

    Such episodes may be left out by `--dataset.episodes`, which LeRobot does not tell a policy. So they are refused
    before training if all are such, and otherwise once they are trained on.
    """
    columns = np.tile(np.float32([0.4, 0, 0.2, 0, 0, 0, 1, -1]), (6, 1))
    low, high = columns.copy(), columns.copy()
    low[:, [0, 1, 2, 7]] -= 0.1
    episodes = [{ACTION: columns}, {ACTION: columns}, {ACTION: columns}]
    episodes[1] = {ACTION: np.where(np.arange(6)[:, None] == 3, 0, columns)}
    data = meta()
    data.root = write(tmp_path / "data", episodes, fps=10)
    stats = {ACTION: {"min": low.min(0), "max": high.max(0)}}
    config = DAEConfig(head=head_folder(tmp_path), action_layout="pose_quaternion", device="cpu", **features(action=8))
    policy = DAEPolicy(config, stats, data)
    assert "1 rows of the dataset's column 'action'" in caplog.text
    assert "By episode: 1 (1). Training stops at the first of them: leave these episodes out with --da" in caplog.text
    rows = batch(2)
    rows[ACTION] = torch.from_numpy(columns[0]).repeat(2, 16, 1)
    policy(rows)
    rows[ACTION][1, 5] = 0
    with pytest.raises(ValueError, match=r"1 actions that hold no rotation .*batch row 1\..*--dataset\.episodes"):
        policy(rows)
    data.root = write(tmp_path / "all", episodes[1:2] * 2, fps=10)
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr("lerobot_policy_dae.statistics.process", lambda: 1)
        DAEPolicy(config, stats, data)  # The first process reads the column, and its error ends all.
    with pytest.raises(ValueError, match=r"--policy\.action_layout: 2 rows .* By episode: 0 \(1\), 1 \(1\)\. "):
        DAEPolicy(config, stats, data)


def test_observations_without_statistics_are_refused(tmp_path):
    config = tiny_policy(tmp_path).config
    make_dae_pre_post_processors(config)  # They may be set later.
    with pytest.raises(ValueError, match=r"statistics of observation\.state have no mean and no std"):
        make_dae_pre_post_processors(config, STATS)


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
