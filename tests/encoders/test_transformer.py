"""Vision models of transformers get the right inputs, give the right tokens, and are refused if they do not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_models import MEAN, STD, VISION_MODELS, vision_model

from action_heads.encoders import VisionConfig

transformers = pytest.importorskip("transformers")
from action_heads.encoders.transformer import transformer_trunk  # noqa: E402
from action_heads.encoders.trunk import AT_ONCE, Trunk  # noqa: E402


@pytest.mark.parametrize("kind", VISION_MODELS)
def test_reads_the_tokens_of_the_model(vision_models, kind):
    """The tokens equal those of the whole two-tower model with its own preprocessor."""
    folder = vision_models[kind]
    trunk, architecture = transformer_trunk(VisionConfig(folder, train=False), None)
    assert (architecture["mean"], architecture["std"]) == (MEAN, STD)
    assert (architecture["size"], architecture["width"]) == ([32, 32], 32)
    images = torch.rand(3, 3, 32, 32)
    whole = transformers.AutoModel.from_pretrained(folder)
    whole = getattr(whole, "vision_model", whole).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(images), do_rescale=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = whole(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(trunk(images), tokens.mean(1))
    if kind != "siglip":
        first, _ = transformer_trunk(VisionConfig(folder, train=False, pool="cls"), None)
        torch.testing.assert_close(first(images), tokens[:, 0])


def test_a_cpu_sees_few_images_at_once(vision_models):
    """Many images give what each gives alone. A network that trains sees them all, as its norms may need."""
    trunk, _ = transformer_trunk(VisionConfig(vision_models["vit"], train=False), None)
    images, counts = torch.rand(2 * AT_ONCE + 1, 3, 32, 32), []
    trunk.network.register_forward_pre_hook(lambda network, inputs: counts.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(trunk(images), torch.cat([trunk(image[None]) for image in images]))
        assert counts == [AT_ONCE, AT_ONCE, 1] + [1] * len(images)
        counts.clear()
        trained, _ = transformer_trunk(VisionConfig(vision_models["vit"]), None)
        trained.network.register_forward_pre_hook(lambda network, inputs: counts.append(len(inputs[0])))
        trained(images), trained.eval()(images)
    trained(images)
    assert counts == [len(images), AT_ONCE, AT_ONCE, 1, len(images)]


def test_an_exported_network_takes_any_number_of_images():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    trunk, images = Trunk(network, trained=False, mean=(0.0,) * 3, std=(1.0,) * 3), torch.rand(2 * AT_ONCE + 1, 3, 8, 8)
    sizes = ({0: torch.export.Dim("n", min=1, max=64)},)
    exported = torch.export.export(trunk, (images,), dynamic_shapes=sizes).module()
    torch.testing.assert_close(exported(images[:3]), trunk(images[:3]))


def test_no_first_token_no_cls(vision_models):
    with pytest.raises(ValueError, match=r"vision.pool='mean'"):
        transformer_trunk(VisionConfig(vision_models["siglip"], pool="cls"), None)


def test_every_trained_weight_gets_a_gradient(vision_models):
    """Unused parts, such as SigLIP's pooling head, are not built, except for some inside the models."""
    for kind in VISION_MODELS:
        trunk, _ = transformer_trunk(VisionConfig(vision_models[kind]), None)
        trunk(torch.rand(2, 3, 32, 32)).square().sum().backward()
        unused = {name.split(".")[-2:][0] for name, p in trunk.named_parameters() if p.grad is None}
        assert unused <= {"post_layernorm", "embeddings"}, kind  # Of CLIP; the mask token of DINOv2.


def test_convolutional_ones_have_tokens_too(tmp_path):
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1], image_size=64)
    transformers.ConvNextModel(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ImageNet's statistics"):
        trunk, architecture = transformer_trunk(VisionConfig(str(tmp_path)), None)
    assert architecture["width"] == 12
    assert trunk(torch.rand(2, 3, 64, 64)).shape == (2, 12)


def test_builds_again_from_json_alone(tmp_path):
    config = VisionConfig(vision_model("clip", tmp_path))
    trunk, architecture = transformer_trunk(config, None)
    assert str(tmp_path) not in json.dumps(architecture)
    shutil.rmtree(tmp_path)
    again, same = transformer_trunk(config, json.loads(json.dumps(architecture)))
    assert same == architecture
    again.load_state_dict(trunk.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), trunk.eval()(images))


def test_half_precision_files_are_computed_in_float32(tmp_path):
    folder = vision_model("vit", tmp_path)
    transformers.AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    trunk, architecture = transformer_trunk(VisionConfig(folder), None)
    again, _ = transformer_trunk(VisionConfig(folder), architecture)
    assert {p.dtype for p in [*trunk.parameters(), *again.parameters()]} == {torch.float32}


def test_refusals_list_what_works(tmp_path, distilbert):
    for name in (str(tmp_path), distilbert):
        with pytest.raises(ValueError, match=r"vision.backbone.*Pass 'resnet18'.*siglip"):
            transformer_trunk(VisionConfig(name), None)


def test_lacking_weights_are_not_left_random(tmp_path, vision_models):
    from safetensors.torch import load_file, save_file

    shutil.copytree(vision_models["vit"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights, such as layernorm.weight"):
        transformer_trunk(VisionConfig(str(tmp_path)), None)
