"""ResNet with spatial softmax, as in Diffusion Policy and the paper.

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
    """Sixteen channels a group. Unlike BatchNorm it knows no batch, so averaged weights (EMA) act as trained ones."""
    return nn.GroupNorm(channels // 16, channels)


def resnet_trunk(config: VisionConfig, load: bool) -> Trunk:
    """The ResNet of torchvision up to its last feature map: images (n 3 H W) -> (n w H/32 W/32).

    Trained, it has GroupNorm: of ImageNet's weights the convolutions are loaded and the norms start fresh. Frozen, it
    keeps BatchNorm with ImageNet's statistics, since the weights were trained with them and nothing changes any more.
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
    """The first ImageNet weights of torchvision, from its cache or its server."""
    models = require("torchvision.models", "vision")
    try:
        return models.get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=False)
    except OSError as error:
        raise OSError(
            f"the ImageNet weights of {backbone} could not be downloaded ({error}): connect once, put them into "
            f"{torch.hub.get_dir()}/checkpoints, or train without them, vision.weights=None"
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise OSError(
            f"the ImageNet weights of {backbone} in {torch.hub.get_dir()}/checkpoints are damaged ({error}): delete "
            "them there, and they are downloaded anew"
        ) from error


class SpatialSoftmax(nn.Module):
    """Where in the image each of k keypoints is expected: a feature map (n w y x) -> (n 2k), x before y, in [-1, 1]."""

    def __init__(self, width: int, keypoints: int):
        super().__init__()
        self.keypoints = nn.Conv2d(width, keypoints, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        scores = self.keypoints(features)
        rows, columns = scores.shape[-2:]
        if min(rows, columns) < 2:
            raise ValueError(
                f"images this small leave a feature map of {rows} x {columns}, where no keypoint can move: give them "
                "more than 32 pixels a side, with a larger vision.crop or vision.resize"
            )
        with torch.autocast(scores.device.type, enabled=False):  # its 16 bits would move a keypoint
            scores = scores.to(self.keypoints.weight.dtype)
            y = torch.linspace(-1, 1, rows, device=scores.device, dtype=scores.dtype)
            x = torch.linspace(-1, 1, columns, device=scores.device, dtype=scores.dtype)
            p = scores.flatten(2).softmax(-1).unflatten(-1, (rows, columns))
            return torch.stack([p.sum(-2) @ x, p.sum(-1) @ y], dim=-1).flatten(1)
