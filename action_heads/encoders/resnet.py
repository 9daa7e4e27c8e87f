"""A ResNet with spatial softmax, as in Diffusion Policy and the paper.

Axes: n images, H and W pixels, w width of a feature map, y and x its rows and columns, k keypoints.
"""

from __future__ import annotations

import pickle

import torch
from torch import Tensor, nn

from action_heads._util.extras import require
from action_heads.encoders.config import VisionConfig
from action_heads.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk

WIDTHS = {"resnet18": 512, "resnet50": 2048}


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 16 channels per group. It keeps no statistics, so it also fits averaged weights (EMA)."""
    return nn.GroupNorm(channels // 16, channels)


def resnet_trunk(config: VisionConfig, load: bool) -> Trunk:
    """Build a ResNet of torchvision up to its last feature map, from images (n 3 H W) to (n w H/32 W/32).

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
    return Trunk(nn.Sequential(*network.children()), config.train, IMAGENET_MEAN, IMAGENET_STD)


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


class SpatialSoftmax(nn.Module):
    """A layer that turns a feature map (n w y x) into the expected positions of k keypoints (n 2k).

    Each keypoint has two coordinates in [-1, 1], x (columns) before y (rows). Source: Finn et al. 2016, Deep Spatial
    Autoencoders.

    Args:
        width: channels w of the feature map.
        keypoints: number k of keypoints.
    """

    def __init__(self, width: int, keypoints: int):
        super().__init__()
        self.keypoints = nn.Conv2d(width, keypoints, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        scores = self.keypoints(features)
        rows, columns = scores.shape[-2:]
        if min(rows, columns) < 2:
            raise ValueError(
                f"the feature map is {rows} x {columns}, too small for keypoints. Use images of more than 32 pixels on "
                "each side, with a larger vision.crop or vision.resize."
            )
        with torch.autocast(scores.device.type, enabled=False):  # 16 bits would shift the keypoints.
            scores = scores.to(self.keypoints.weight.dtype)
            y = torch.linspace(-1, 1, rows, device=scores.device, dtype=scores.dtype)
            x = torch.linspace(-1, 1, columns, device=scores.device, dtype=scores.dtype)
            p = scores.flatten(2).softmax(-1).unflatten(-1, (rows, columns))
            return torch.stack([p.sum(-2) @ x, p.sum(-1) @ y], dim=-1).flatten(1)
