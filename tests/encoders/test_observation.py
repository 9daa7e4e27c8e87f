"""The encoder saves, freezes, shares networks and checks inputs, with a ResNet and every kind of transformer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_models import vision_model
from torch import nn

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
from action_heads.encoders import ObservationConfig, ObservationEncoder, TextConfig, VisionConfig

CAMERAS = ("observation.images.front", "wrist")


def observe(config: ObservationConfig, batch: int = 3, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.observation_steps)
    return {
        "images": {camera: torch.rand(*shape, 3, 40, 48, generator=generator) for camera in config.cameras},
        "state": torch.randn(*shape, config.state_dim, generator=generator) if config.state_dim else None,
        "task": ["lift the cube", "stack", "pick up"][:batch] if config.text else None,
    }


def config_for(backbone: str, text: str | None = None, **vision) -> ObservationConfig:
    return ObservationConfig(CAMERAS, 5, 2, VisionConfig(backbone, features=8, **vision), text and TextConfig(text))


def test_the_paper_s_width(vision_models):
    """With MimicGen's two cameras of 64 features, two steps, position, quaternion and two fingers it is 274."""
    encoder = ObservationEncoder(ObservationConfig(("agentview", "hand"), 9, vision=VisionConfig(crop=(76, 76))))
    images = {camera: torch.rand(2, 2, 3, 84, 84) for camera in ("agentview", "hand")}
    assert encoder.cond_dim == 274
    assert encoder(images, torch.randn(2, 2, 9)).shape == (2, 274)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_rebuilt_offline_from_json_and_state(vision_models, distilbert, tmp_path, train, shared):
    folder = vision_model("siglip", tmp_path / "siglip")
    config = config_for(folder, distilbert, train=train, shared=shared, crop=(30, 30))
    encoder = ObservationEncoder(config).eval()
    cond = encoder(**observe(config))
    assert cond.shape == (3, encoder.cond_dim)
    shutil.rmtree(folder)
    plain = json.loads(json.dumps({"config": config.to_dict(), "architecture": encoder.architecture}))
    again = ObservationEncoder(ObservationConfig.from_dict(plain["config"]), plain["architecture"]).eval()
    assert not torch.equal(again.readouts[0][1].weight, encoder.readouts[0][1].weight)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(**observe(config)), cond)
    assert again.architecture == encoder.architecture


def test_only_what_is_declared_trains(eyes):
    """Frozen parts stay so through train(), any requires_grad_, loading, and a training step with weight decay."""
    config = config_for(eyes, train=False) if eyes != "resnet18" else frozen_resnet()
    encoder = ObservationEncoder(config, {} if eyes == "resnet18" else None)
    frozen = {name: p.clone() for name, p in encoder.trunks.state_dict().items()}
    around = nn.ModuleList([encoder])
    encoder.load_state_dict(encoder.state_dict())
    encoder.requires_grad_(False).requires_grad_(True).train()
    assert not any(p.requires_grad for p in encoder.trunks.parameters())
    assert all(p.requires_grad for p in encoder.readouts.parameters())
    assert not any(m.training for m in encoder.trunks.modules() if m is not encoder.trunks)
    assert encoder.num_frozen == sum(p.numel() for p in encoder.trunks.parameters())

    around.requires_grad_().train()
    optimizer = torch.optim.AdamW(around.parameters(), lr=0.1, weight_decay=0.1)
    before = [p.clone() for p in encoder.readouts.parameters()]
    encoder(**observe(config)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in encoder.trunks.state_dict().items())
    assert not any(torch.equal(p, b) for p, b in zip(encoder.readouts.parameters(), before, strict=True))


def frozen_resnet() -> ObservationConfig:
    return config_for("resnet18", train=False, weights="imagenet")


def test_a_trained_backbone_trains(eyes):
    config = config_for(eyes)
    encoder = ObservationEncoder(config).train()
    encoder(**observe(config)).square().sum().backward()
    for trunk in encoder.trunks:
        grads = [p.grad for p in trunk.parameters() if p.grad is not None]
        assert sum(float(grad.abs().sum()) for grad in grads) > 0


@pytest.mark.parametrize(("shared", "train", "trunks", "readouts"), [(1, 1, 1, 1), (0, 1, 2, 2), (0, 0, 1, 2)])
def test_a_shared_network_sees_one_batch(vision_models, shared, train, trunks, readouts):
    config = config_for(vision_models["dinov2"], shared=bool(shared), train=bool(train))
    encoder, calls = ObservationEncoder(config).eval(), []
    assert (len(encoder.trunks), len(encoder.readouts)) == (trunks, readouts)
    for trunk in encoder.trunks:
        trunk.register_forward_hook(lambda *_: calls.append(1))
    given = observe(config)
    cond = encoder(**given)
    assert len(calls) == trunks
    # The features of each camera are in their place, whether computed together or alone.
    given["images"][CAMERAS[1]] = torch.zeros_like(given["images"][CAMERAS[1]])
    changed = (encoder(**given) != cond).any(0).view(2, 8 + 8 + 5)
    assert changed[:, 8:16].all()
    assert not changed[:, :8].any()
    assert not changed[:, 16:].any()


def test_seeded_in_training_and_constant_in_evaluation(vision_models):
    config = config_for("resnet18", crop=(36, 40), jitter=0.3)
    encoder, given = ObservationEncoder(config), observe(config)

    def seen(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(**given)

    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))
    encoder.eval()
    assert torch.equal(seen(0), seen(1))


def test_language_and_state_alone(distilbert):
    encoder = ObservationEncoder(ObservationConfig(state_dim=4, observation_steps=1, text=TextConfig(distilbert)))
    state = torch.randn(2, 1, 4)
    cond = encoder({}, state, ["stack", "lift"])
    assert torch.equal(cond[:, :4], state[:, 0])
    assert cond.shape == (2, encoder.cond_dim) == (2, 28)
    encoder.learn_tasks(["pick up"])
    assert "pick up" in encoder.text.known


def test_bfloat16(eyes):
    config = config_for(eyes)
    encoder = ObservationEncoder(config).eval()
    cond = encoder(**observe(config))
    low = encoder.bfloat16()(**observe(config))
    assert low.dtype == torch.bfloat16
    assert (low.float() - cond).norm() < 0.1 * cond.norm()


def test_trains_through_a_frozen_head(vision_models):
    config = config_for("resnet18")
    encoder = ObservationEncoder(config)
    head = ActionHead.from_pretrained("dae/mlp-5m-fk")
    policy = head.attach(AdaLNZero(encoder.cond_dim))
    nn.init.normal_(policy.adapter.aim.weight)  # A new adapter passes no gradient on.
    policy.loss(head.sample(3), encoder(**observe(config))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.readouts.parameters())


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def encoder(vision_models, distilbert) -> ObservationEncoder:
    return ObservationEncoder(config_for(vision_models["vit"], distilbert)).eval()


def spoilt(what: str) -> dict:
    given = observe(config_for("resnet18", "text"))
    images, front = given["images"], CAMERAS[0]
    match what:
        case "camera":
            del images[front]
        case "steps":
            images[front] = images[front][:, :1]
        case "bytes":
            images[front] = (255 * images[front]).byte()
        case "range":
            images[front] = 255 * images[front]
        case "normalised":
            images[front] = images[front] * 4 - 2
        case "channels":
            images[front] = images[front].permute(0, 1, 3, 4, 2)
        case "no step axis":
            images[front] = images[front][:, 0]
        case "batch":
            images[front] = images[front][:2]
        case "width":
            given["state"] = given["state"][..., :3]
        case "no state":
            given["state"] = None
        case "state batch":
            given["state"] = given["state"][:1]
        case "no task":
            given["task"] = None
        case "one task":
            given["task"] = "stack"
        case "tasks":
            given["task"] = ["stack"]
    return given


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("camera", r"images of camera 'observation.images.front' are missing; those of 'wrist' were given.*`cameras`"),
        ("steps", r"images of 'observation.images.front' .* have 1 observation steps; expected 2.*observation_steps"),
        ("bytes", r"torch.uint8; expected floats in \[0, 1\]"),
        ("range", r"have values from .* expected floats in \[0, 1\]"),
        ("normalised", r"neither as bytes nor normalised"),
        ("channels", r"shape \(3, 2, 40, 48, 3\); expected \(batch, steps, 3, height, width\)"),
        ("no step axis", r"shape \(3, 3, 40, 48\); expected \(batch, steps, 3, height, width\)"),
        ("batch", r"cameras have different batch sizes"),
        ("width", r"state has shape \(3, 2, 3\); expected \(batch, steps, 5\)\. Set state_dim"),
        ("no state", r"no state was given.*state_dim"),
        ("state batch", r"batch size 1, but the images have 3"),
        ("no task", r"task must be a list of strings.*none was given.*text"),
        ("one task", r"task must be a list of strings.*got 'stack'"),
        ("tasks", r"task must have 3 strings, one for each batch row, got 1"),
    ],
)
def test_wrong_observations(encoder, what, message):
    with pytest.raises(ValueError, match=message):
        encoder(**spoilt(what))


def test_black_images_do_not_hide_the_range_of_later_ones(encoder):
    given = observe(encoder.config)
    images = given["images"][CAMERAS[0]]
    encoder(**given | {"images": given["images"] | {CAMERAS[0]: 0 * images}})
    with pytest.raises(ValueError, match="have values from"):
        encoder(**given | {"images": given["images"] | {CAMERAS[0]: 255 * images}})


def test_cameras_of_different_sizes_that_share(vision_models):
    encoder = ObservationEncoder(config_for("resnet18", shared=True))
    given = observe(encoder.config)
    given["images"][CAMERAS[0]] = torch.rand(3, 2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"got \(64, 64\), \(40, 48\)\. Set vision.resize"):
        encoder(**given)


def test_an_architecture_of_another_config(encoder):
    architecture = {"text": encoder.architecture["text"]}
    with pytest.raises(ValueError, match="lacks vision"):
        ObservationEncoder(encoder.config, architecture)


def test_no_language_to_learn(vision_models):
    encoder = ObservationEncoder(replace(config_for("resnet18"), text=None))
    with pytest.raises(ValueError, match="has no text encoder"):
        encoder.learn_tasks(["stack"])


def test_autocast_leaves_states_and_keypoints_their_precision():
    """The 8 bits of bfloat16 cannot represent a millimetre in a metre."""
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    encoder = ObservationEncoder(ObservationConfig(cameras=("top",), state_dim=1, observation_steps=1)).eval()
    images, state = {"top": torch.rand(2, 1, 3, 40, 40)}, torch.tensor([[[0.5001]], [[0.5002]]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cond = encoder(images, state)
    assert cond.dtype == torch.float32
    assert torch.equal(cond[:, -1:], state[:, 0])
    assert not torch.equal(cond[:, :-1], cond[:, :-1].bfloat16().float())
