"""Trunks from transformers vision models: SigLIP, DINOv2, CLIP, ViT ...

Axes: n images, H and W pixels, m tokens, w width of a token.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.extras import require
from action_heads._util.quiet import quiet
from action_heads.encoders.config import RESNETS, VisionConfig
from action_heads.encoders.keypoints import ChannelKeypoints
from action_heads.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk
from action_heads.io.folders import refusal_of_path

WORKS = (
    f"{', '.join(map(repr, RESNETS))}, or the Hub id or folder of a transformers vision model, such as "
    "'google/siglip-base-patch16-224', 'facebook/dinov2-small' or 'openai/clip-vit-base-patch16'"
)


class PooledTokens(nn.Module):
    """A vision model with pooling, for normalised images (n 3 H W).

    It returns the mean or the first of the last tokens (n w), the map of its patches (n w y x), or the keypoints of the
    map's channels (n 2w).
    """

    def __init__(self, model: nn.Module, pool: str, stride: int | None):
        super().__init__()
        # Some releases of transformers wrap a tower in another module. Unwrapped, the names of weights stay the same.
        self.model = getattr(model, "vision_model", model)
        if isinstance(getattr(self.model, "pooler", None), nn.Module):
            del self.model.pooler  # Its output is not used.
            self.model.register_module("pooler", None)
        self.first, self.stride = pool == "cls", stride
        self.mapped = pool in ("keypoints", "spatial_softmax")
        self.keypoints = ChannelKeypoints() if pool == "keypoints" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (n 3 H W) into features (n w), a map (n w y x) or keypoints (n 2w)."""
        if self.mapped:
            return self.keypoints(self._map(images))
        tokens = self.model(pixel_values=images).last_hidden_state if self.stride is None else self._map(images)
        if tokens.ndim == 4:  # A convolutional network returns a map (n w y x).
            tokens = tokens.flatten(2).mT
        return tokens[:, 0] if self.first else tokens.mean(1)

    def _map(self, images: Tensor) -> Tensor:
        """Return the last map (n w y x), or the last one of the stride."""
        images = images.contiguous(memory_format=torch.channels_last)  # Convolutions on a CPU take half the time.
        out = self.model(pixel_values=images, output_hidden_states=self.stride is not None)
        if self.stride is None:
            return out.last_hidden_state if out.last_hidden_state.ndim == 4 else self._patches(images, out[0])
        maps = [state for state in out.hidden_states if state.ndim == 4]
        strides = [images.shape[-1] // state.shape[-1] for state in maps]
        if self.stride not in strides:
            raise ValueError(
                f"{type(self.model).__name__} has no feature map of vision.stride={self.stride} pixels; it has "
                f"{', '.join(map(str, sorted({*strides}))) or 'none'}. Choose one of these, or leave it out."
            )
        return maps[len(strides) - 1 - strides[::-1].index(self.stride)]

    def _patches(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the map of the patches' tokens (n m w), which come last, after class and register tokens."""
        patch = getattr(self.model.config, "patch_size", None)
        rows, columns = (size // patch if isinstance(patch, int) else 0 for size in images.shape[-2:])
        if not rows * columns or tokens.shape[1] < rows * columns:
            raise ValueError(
                f"the {tokens.shape[1]} tokens of {type(self.model).__name__} are not patches of an image. Set "
                "vision.pool='mean'."
            )
        return tokens[:, -rows * columns :].mT.unflatten(-1, (rows, columns))


def transformer_trunk(config: VisionConfig, architecture: dict[str, Any] | None) -> tuple[Trunk, dict[str, Any]]:
    """Build a trunk, pretrained or, from a given architecture, with random weights and without the Hub.

    Returns:
        The trunk.
        Its architecture, ready for JSON, with the model's `config`, the `mean`, `std` and `size` of its images and the
            `width` of its tokens, of its map or of its keypoints.

    Raises:
        ValueError: the model cannot be loaded, or does not fit the config.
    """
    if architecture is None:
        model, architecture = load(config.backbone)
    else:
        transformers = require("transformers", "vision")
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**architecture["config"])).float()
    if config.pool == "cls" and not any(
        name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters()
    ):
        raise ValueError(f"{config.backbone} has no class token; set vision.pool='mean'")
    network = PooledTokens(model, config.pool, config.stride)
    if "width" not in architecture:
        with torch.no_grad():
            architecture["width"] = network.eval()(torch.zeros(1, 3, *architecture["size"])).shape[1]
    return Trunk(network, config.train, architecture["mean"], architecture["std"]), architecture


def load(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a pretrained vision model, or the vision tower of a two-tower model, in float32, and its architecture."""
    transformers = require("transformers", "vision")
    if refusal := refusal_of_path(name):
        raise ValueError(f"vision.backbone: {refusal}")
    with quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(name)
            config = getattr(config, "vision_config", config)
            if config.model_type.startswith("siglip"):
                config.vision_use_head = False  # SigLIP's attention pooling, which is not used.
            model, found = transformers.AutoModel.from_pretrained(name, config=config, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"vision.backbone {name!r} could not be loaded ({error}). Pass {WORKS}") from error
    if model.main_input_name != "pixel_values":
        raise ValueError(f"vision.backbone {name!r} is not a vision model. Pass {WORKS}")
    if missing := sorted(key for key in found["missing_keys"] if not key.startswith("pooler.")):
        raise ValueError(f"vision.backbone {name!r} lacks weights, such as {missing[0]}. Pass {WORKS}")
    values = json.loads(config.to_json_string(use_diff=False))
    values.pop("_name_or_path", None)  # This may be a local folder.
    return model.float(), {"config": values, **preprocessing(name, config)}


def preprocessing(name: str, config: Any) -> dict[str, Any]:
    """Return mean and standard deviation of the images that a model was trained on, and their (height, width)."""
    transformers = require("transformers", "vision")
    try:
        values = transformers.ImageProcessingMixin.get_image_processor_dict(name)[0]
    except OSError:
        warnings.warn(
            f"{name} has no image processor config, so images are normalised with ImageNet's statistics", stacklevel=5
        )
        values = {}
    size = values.get("crop_size") or values.get("size") or getattr(config, "image_size", 224)
    if isinstance(size, dict):
        side = size.get("shortest_edge", 224)
        size = (size.get("height", side), size.get("width", side))
    return {
        "mean": list(values.get("image_mean") or IMAGENET_MEAN),
        "std": list(values.get("image_std") or IMAGENET_STD),
        "size": [size, size] if isinstance(size, int) else list(size),
    }
