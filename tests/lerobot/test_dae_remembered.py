"""Training on remembered outputs of a frozen encoder equals training on images, and encodes none of them twice."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from lerobot.utils.constants import OBS_IMAGE
from tiny_models import vision_model
from tiny_policy import batch, meta, tiny_policy

from action_heads.encoders import ObservationEncoder, VisionConfig


def frames(count: int):
    return SimpleNamespace(**vars(meta()), total_frames=count)


@pytest.fixture
def eyes(tmp_path):
    """Return a function that gives settings of a small encoder."""
    folder = vision_model("vit", tmp_path / "vit")
    return lambda **changes: {"image": True, "vision": VisionConfig(folder, **{"train": False, **changes})}


@pytest.mark.parametrize("pool", ["mean", "keypoints"])
def test_remembered_outputs_give_the_same_loss_and_gradients(pool, eyes, tmp_path, monkeypatch):
    losses, gradients, encoded = [], [], []
    run = ObservationEncoder.backbone
    monkeypatch.setattr(ObservationEncoder, "backbone", lambda s, x: encoded.append(len(x[0])) or run(s, x))
    for remember in (False, True):
        policy = tiny_policy(tmp_path, **eyes(pool=pool), remember=remember).train()
        encoded.clear()
        for _ in range(2):  # two epochs
            torch.manual_seed(3)
            loss, _ = policy(batch(image=True))
            losses.append(loss)
        losses[-1].backward()
        gradients.append([p.grad for p in policy.parameters() if p.requires_grad])
    assert encoded == [6], "3 rows of 2 observation steps, in the first epoch alone"
    torch.testing.assert_close(losses[:2], losses[2:], rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_images_that_change_are_refused(eyes, tmp_path):
    policy = tiny_policy(tmp_path, **eyes(), remember=True, dataset_meta=frames(6)).train()
    seen = batch(image=True)
    policy(seen)
    with pytest.raises(ValueError, match=r"12 different images, and the dataset has 6.*image_transforms.enable=false"):
        policy(seen | {OBS_IMAGE: 0.9 * seen[OBS_IMAGE]})


@pytest.mark.parametrize("changes", [{"train": True}, {"crop": (28, 28)}, {"jitter": 0.1}], ids=str)
def test_an_encoder_whose_outputs_change_is_refused(changes, eyes, tmp_path):
    with pytest.raises(ValueError, match=r"--policy.remember.*Set vision.train=False, and leave vision.crop"):
        tiny_policy(tmp_path, **eyes(**changes), remember=True)


def test_a_policy_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--policy.remember.*sees no camera"):
        tiny_policy(tmp_path, remember=True)


def test_only_a_policy_that_remembers_says_so_in_its_file(eyes, tmp_path):
    for remember in (False, True):
        tiny_policy(tmp_path, **eyes(), remember=remember).save_pretrained(tmp_path / "saved")
        values = json.loads((tmp_path / "saved" / "config.json").read_text())
        assert values.get("remember", False) is remember
        assert ("remember" in values) is remember
