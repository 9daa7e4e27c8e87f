"""Each flag that is given for a saved policy has an effect, or is refused by its name."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draccus.utils import DraccusException
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGE
from tiny_models import text_model, vision_model
from tiny_policy import STATS, batch, features, meta, present, tiny_policy

from action_heads.encoders import TextConfig, VisionConfig, VLMConfig
from lerobot_policy_dae import DAEConfig, DAEPolicy

sys.path.append(str(Path(__file__).parents[1] / "vlm"))

TASKS = ("lift the cube", "lift the red cube")
THEIRS = {entry.name for entry in fields(PreTrainedConfig)} - {"n_obs_steps", "normalization_mapping"}
PARTS = {"vision": VisionConfig, "text": TextConfig, "vlm": VLMConfig}
WRITTEN = {"built"}  # the record of a checkpoint, which a fingerprint protects
FLAGS = [entry.name for entry in fields(DAEConfig) if entry.name not in {*THEIRS, *PARTS, *WRITTEN}]
FLAGS += [f"{part}.{entry.name}" for part, kind in PARTS.items() for entry in fields(kind)]
# Another value than the saved policy's. Numbers get one more, and switches are turned.
OTHER = {
    "adapter": "film",
    "hidden_dim": 16,
    "through": "blocks",
    "levels": "beta",
    "optimizer_lr": 0.5,
    "optimizer_encoder_lr": 0.5,
    "optimizer_weight_decay": 0.5,
    "optimizer_grad_clip_norm": 0.5,
    "head": "dae/mlp-5m-fk",
    "head_revision": "main",
    "head_mode": "random-frozen",
    "action_layout": "pose_6d",
    "gripper": "[0, 1]",
    "horizon": 8,
    "ensemble": 0.1,
    "warm_start": 0.5,
    "sampler": "ddpm",
    "num_inference_steps": 3,
    "compile": "eager",
    "cameras": "[]",
    "normalization_mapping": '{"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ENV": "MEAN_STD", "ACTION": "IDENTITY"}',
    "vision.backbone": "siglip",
    "vision.weights": "imagenet",
    "vision.features": 32,
    "vision.pool": "spatial_softmax",
    "vision.resize": "[48, 48]",
    "vision.crop": "[28, 28]",
    "vision.jitter": 0.1,
    "vision.stride": 8,
    "text.model": "org/text",
    "text.pool": "mean",
    "text.features": 8,
    "vlm.layer": 1,
    "vlm.select": "image",
    "vlm.train": "full",
    "vlm.prompt": "do {task}",
    "vlm.template": "plain",
    "vlm.dtype": "bfloat16",
    "vlm.pool": "mean",
    "vlm.revision": "main",
    "vlm_max_age": 4,
}


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> str:
    pytest.importorskip("num2words")
    from tiny_processors import saved

    return saved(tmp_path_factory.mktemp("models") / "smolvlm", "smolvlm")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[..., Path]:
    """Return a function that gives the folder of a policy with a vision and a text model, or with a VLM."""
    found: dict[bool, Path] = {}

    def save(vlm: str | None = None) -> Path:
        if bool(vlm) not in found:
            folder = tmp_path_factory.mktemp("policy")
            flags: dict[str, Any] = {"vlm": VLMConfig(vlm, 2, dtype="float32"), "vlm_refresh": 2} if vlm else {}
            if vlm is None:
                flags["vision"] = VisionConfig(vision_model("vit", folder / "vit"), train=False)
                flags["text"] = TextConfig(text_model(folder / "text"))
            flags["input_features"] = features(image=True)["input_features"]
            flags["input_features"][OBS_ENV_STATE] = PolicyFeature(FeatureType.ENV, (5,))
            flags |= {"n_action_steps": 2, "environment_state": False, "action_layout": "pose_quaternion"}
            flags |= {"output_features": features(8)["output_features"], "horizon": 16, "num_inference_steps": 2}
            policy = tiny_policy(folder, "mixer", stats=stats(), dataset_meta=meta(*TASKS), **flags)
            policy.save_pretrained(folder / "saved")
            found[bool(vlm)] = folder / "saved"
        return found[bool(vlm)]

    return save


def stats() -> dict[str, Any]:
    return {ACTION: {"min": np.array([-1.0] * 8), "max": np.array([1.0] * 8)}}


def loaded(folder: Path, *flags: str) -> DAEPolicy:
    """Load a policy as LeRobot's commands do for training, which also can act."""
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu", *flags])
    return DAEPolicy.from_pretrained(folder, config=config, dataset_stats=stats(), dataset_meta=meta(*TASKS))


def behaviour(policy: DAEPolicy) -> list[Any]:
    """Return what training and acting by a policy give, with the same random numbers for each policy."""
    config, encoder, made = policy.config, policy.encoder, []
    backbone, embed = encoder.backbone, encoder.embed
    encoder.backbone = lambda images: made.append([len(x) for x in images]) or backbone(images)
    encoder.embed = lambda *observed: made.append("tokens") or embed(*observed)
    seen = batch(1, image=True)
    seen[ACTION] = torch.tensor([0.1, 0.2, 0.3, 0, 0, 0, 1, 1]).expand(1, 16, 8)
    torch.manual_seed(0)
    policy.draws.seed = 0
    losses = [policy.train()(seen)[0].item() for _ in range(2)]
    now = present(seen)
    actions = []
    for tick in range(9):
        shown = {key: x + 0.01 * tick for key, x in now.items() if key.startswith("observation.")}
        actions.append(policy.select_action(shown | {"task": [TASKS[0]]}))
    slow = policy.slow and (policy.slow.every, policy.slow.latency, policy.slow.max_age)
    place = encoder.config.vlm and (encoder.config.vlm.model, encoder.config.vlm.revision)
    policy.reset()  # ends a thread
    rates = [group.get("lr") for group in policy.get_optim_params()]
    presets = config.get_optimizer_preset(), config.get_scheduler_preset()
    return [losses, torch.cat(actions).tolist(), made, type(policy.acting), slow, place, rates, repr(presets)]


def other(flag: str, config: DAEConfig, folder: Path) -> str:
    """Return a value of a flag that the saved policy does not have, as it is written in a command."""
    if flag == "vlm.model":
        return str(shutil.copytree(config.vlm.model, folder / "moved"))
    if flag in OTHER:
        return str(OTHER[flag])
    value = config
    for name in flag.split("."):
        value = getattr(value, name)
    assert isinstance(value, int), f"give {flag} another value in OTHER"
    return str(not value).lower() if isinstance(value, bool) else str(value + 1)


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_has_an_effect_or_is_refused_by_its_name(flag, saved, tmp_path, request):
    folder = saved(request.getfixturevalue("vlm") if flag.startswith("vlm") else None)
    before = loaded(folder)
    given = f"--{flag}={other(flag, before.config, tmp_path)}"
    try:
        after = loaded(folder, given)
    except (ValueError, DraccusException) as error:
        said = str(error if isinstance(error, ValueError) else error.__cause__)  # draccus hides a dataclass's own error
        assert re.match(rf"(--policy\.[\w.]+, )*(--policy\.)?{re.escape(flag)}\b", said), said
        return
    assert behaviour(after) != behaviour(before), f"{given} has no effect"


@pytest.mark.parametrize(
    ("had", "given", "message"),
    [
        (
            "none",
            "--text.model=org/text",
            r"^--policy\.text\.model='org/text', but the checkpoint has None\. Leave the",
        ),
        ("none", "--vlm.model=org/vlm", r"^--policy\.vlm\.model='org/vlm', but the checkpoint has None\. Leave the"),
        ("text", "--text=null", r"^--policy\.text\.model=None, but the checkpoint has '"),
        ("vlm", "--vlm=null", r"^--policy\.vlm\.model=None, but the checkpoint has '"),
    ],
)
def test_a_model_cannot_be_added_or_taken_away(had, given, message, saved, tmp_path, request):
    if had == "none":
        tiny_policy(tmp_path).save_pretrained(folder := tmp_path / "saved")
    else:
        folder = saved(request.getfixturevalue("vlm") if had == "vlm" else None)
    more = ["--vlm_refresh=null"] if had == "vlm" else []
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu", given, *more])
    with pytest.raises(ValueError, match=message):
        DAEPolicy.from_pretrained(folder, config=config)


def test_images_have_the_size_that_the_encoder_was_built_for(tmp_path):
    """Settings that change after loading don't change the encoder, and so not the images that it takes."""
    eyes = VisionConfig(vision_model("vit", tmp_path / "vit"), crop=(28, 28))
    tiny_policy(tmp_path, image=True, vision=eyes).save_pretrained(tmp_path / "saved")
    policy = DAEPolicy.from_pretrained(tmp_path / "saved")
    policy.config.vision = replace(eyes, resize=(32, 32))
    policy.reset()
    with pytest.raises(ValueError, match="64 x 64 pixels, but the policy was trained on 32 x 32"):
        policy.select_action(present(batch(image=True)) | {OBS_IMAGE: torch.rand(3, 3, 64, 64)})


def test_a_saved_policy_checks_flags_as_a_new_one_does(tmp_path):
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved", cli_overrides=["--optimizer_encoder_lr=0.1"])
    DAEPolicy.from_pretrained(tmp_path / "saved", config=config)  # to act
    with pytest.raises(ValueError, match=r"^--policy\.optimizer_encoder_lr is 0\.1, which has no effect"):
        DAEPolicy.from_pretrained(tmp_path / "saved", config=config, dataset_stats=STATS, dataset_meta=meta())
    for given, message in (
        ("--prefixes=true", r"^--policy\.prefixes: .*mixes time"),
        ("--n_action_steps=17", r"^--policy\.n_action_steps=17 is more than the 16 time steps"),
    ):
        config = PreTrainedConfig.from_pretrained(tmp_path / "saved", cli_overrides=[given])
        with pytest.raises(ValueError, match=message):
            DAEPolicy.from_pretrained(tmp_path / "saved", config=config)


def test_loading_again_changes_nothing(saved, vlm):
    for folder in (saved(), saved(vlm)):
        assert behaviour(loaded(folder)) == behaviour(loaded(folder))
