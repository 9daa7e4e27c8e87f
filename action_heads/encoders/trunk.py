"""A vision network up to its features, trained or frozen.

Axes: n images, H and W pixels, w width of the features, y and x rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from action_heads._util.precision import KeepFloat32

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Trunk(nn.Module):
    """Images in [0, 1] (n 3 H W) -> what `network` makes of them, normalised as it was trained.

    A frozen trunk stays in evaluation mode and is computed without gradients, so that not even `requires_grad_` of a
    module around it changes a weight.
    """

    def __init__(self, network: nn.Module, trained: bool, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.trained = trained
        self.statistics = ImageStatistics(mean, std)
        self.requires_grad_().train()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and self.trained)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        return super().requires_grad_(requires_grad and self.trained)

    def forward(self, images: Tensor) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.network(self.statistics(images).to(dtype))


class ImageStatistics(KeepFloat32):
    """(images - mean) / std by channel. Not saved: they belong to the architecture."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
