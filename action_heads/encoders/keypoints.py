"""Feature maps as the positions of keypoints.

Axes: n images, w width of a feature map, y and x its rows and columns, k keypoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHARPNESS = 3.0  # of the softmax over a standardised channel, whose largest values then decide its keypoint


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
        scores = self.keypoints(features.to(self.keypoints.weight.dtype))
        with torch.autocast(scores.device.type, enabled=False):  # 16 bits would shift the keypoints.
            return expected_positions(scores.to(self.keypoints.weight.dtype))


class ChannelKeypoints(nn.Module):
    """A layer without parameters that makes every channel of a map (n w y x) a keypoint, (n 2w).

    The softmax is over each channel with zero mean and unit variance, so channels of any scale have equally sharp ones.
    """

    def forward(self, features: Tensor) -> Tensor:
        check_map(features)
        with torch.autocast(features.device.type, enabled=False):
            scores = features.float()
            scores = scores - scores.mean((-2, -1), keepdim=True)
            scores = scores / (scores.std((-2, -1), keepdim=True) + 1e-3)
            return expected_positions(SHARPNESS * scores)


def check_map(features: Tensor) -> None:
    """Raise a ValueError if a map (n w y x) has a single row or column."""
    rows, columns = features.shape[-2:]
    if min(rows, columns) < 2:
        raise ValueError(
            f"the feature map is {rows} x {columns}, too small for keypoints. Use images of more than 32 pixels on "
            "each side, with a larger vision.crop or vision.resize."
        )


def expected_positions(scores: Tensor) -> Tensor:
    """Return the expected positions (n 2k) under the softmax of scores (n k y x), x before y, in [-1, 1].

    Raises:
        ValueError: the map has a single row or column.
    """
    check_map(scores)
    rows, columns = scores.shape[-2:]
    y = torch.linspace(-1, 1, rows, device=scores.device, dtype=scores.dtype)
    x = torch.linspace(-1, 1, columns, device=scores.device, dtype=scores.dtype)
    p = scores.flatten(2).softmax(-1).unflatten(-1, (rows, columns))
    return torch.stack([p.sum(-2) @ x, p.sum(-1) @ y], dim=-1).flatten(1)
