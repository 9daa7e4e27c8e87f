"""A ResNet with spatial softmax, as in Diffusion Policy and the paper.

Axes: n images, H and W pixels, w width of a feature map.
"""

from __future__ import annotations

import pickle

import torch
from torch import Tensor, nn

from action_heads._util.extras import require
from action_heads.encoders.config import VisionConfig
from action_heads.encoders.keypoints import ChannelKeypoints
from action_heads.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk

WIDTHS = {"resnet18": 512, "resnet50": 2048}
STAGES = {None: 0, 32: 0, 16: 1, 8: 2}  # stages that are left out for a stride; each halves the map


def width(config: VisionConfig) -> int:
    """Return the channels of the feature map."""
    return WIDTHS[config.backbone] >> STAGES[config.stride]


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 16 channels per group. It keeps no statistics, so it also fits averaged weights (EMA)."""
    return nn.GroupNorm(channels // 16, channels)


def resnet_trunk(config: VisionConfig, load: bool) -> Trunk:
    """Build a ResNet of torchvision up to its last feature map, from images (n 3 H W) to (n w H/32 W/32).

    With `config.stride` the map is that of another stage, and with pool="keypoints" the result is its keypoints (n 2w).

    A ResNet that trains has GroupNorm, and loads only the convolutions of ImageNet weights. A frozen ResNet keeps
    BatchNorm with the statistics of ImageNet, with which its weights were trained.

    Args:
        config: backbone, weights and whether it trains.
        load: load the pretrained weights, if the config has any.
    """
    models = require("torchvision.models", "vision")
    norm = group_norm if config.train else nn.BatchNorm2d
    network = getattr(models, config.backbone)(norm_layer=norm)
    del network.avgpool, network.fc
    if load and config.weights:
        weights = imagenet(config.backbone)
        weights = {
            name: w for name, w in weights.items() if not name.startswith("fc.") and (w.ndim == 4 or not config.train)
        }
        result = network.load_state_dict(weights, strict=False)
        assert not result.unexpected_keys, result.unexpected_keys
    layers = list(network.children())
    layers = layers[: len(layers) - STAGES[config.stride]]
    if config.pool == "keypoints":
        layers.append(ChannelKeypoints())
    return Trunk(nn.Sequential(*layers), config.train, IMAGENET_MEAN, IMAGENET_STD)


def imagenet(backbone: str) -> dict[str, Tensor]:
    """Return the weights IMAGENET1K_V1 of torchvision, from its cache or its server."""
    models = require("torchvision.models", "vision")
    try:
        return models.get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=False)
    except OSError as error:
        raise OSError(
            f"the ImageNet weights of {backbone} could not be downloaded ({error}). Connect to the internet once, put "
            f"them into {torch.hub.get_dir()}/checkpoints, or train without them: vision.weights=None."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise OSError(
            f"the ImageNet weights of {backbone} in {torch.hub.get_dir()}/checkpoints are damaged ({error}). Delete "
            "them, and they are downloaded again."
        ) from error
