"""A vision network up to its features, trainable or frozen.

Axes: n images, H and W pixels, w width of the features, y and x rows and columns of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from action_heads._util.tables import kept

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AT_ONCE = 4  # images that a network takes at once on a CPU; the maps of larger batches leave the processor's cache


class Trunk(nn.Module):
    """A vision network that takes images (n 3 H W) in [0, 1] and normalises them as in its training.

    A frozen trunk stays in evaluation mode and runs without gradients, so that `requires_grad_` of an outer module does
    not unfreeze it.

    Args:
        network: the network.
        trained: whether it trains.
        mean: mean of each colour channel.
        std: standard deviation of each colour channel.
    """

    def __init__(self, network: nn.Module, trained: bool, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.trained = trained
        self.statistics = ImageStatistics(mean, std)
        self.requires_grad_().train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen trunk stays in evaluation mode, and its parameters are frozen again."""
        if not self.trained:
            self.requires_grad_(False)
        return super().train(mode and self.trained)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad`; that of a frozen trunk stays False."""
        return super().requires_grad_(requires_grad and self.trained)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (n 3 H W) in [0, 1]."""
        dtype = next(self.network.parameters()).dtype
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            # An exported or traced network must not depend on the number of images.
            traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
            if traced or self.training or torch.is_grad_enabled() or images.device.type != "cpu":
                return self.network(self.statistics(images).to(dtype))
            return torch.cat([self.network(self.statistics(few).to(dtype)) for few in images.split(AT_ONCE)])


class ImageStatistics(nn.Module):
    """The normalisation (images - mean) / std by channel. It is saved with the architecture, not with the weights."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.values = tuple(mean), tuple(std)
        self._tables: dict[torch.device, tuple[Tensor, int]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images (n 3 H W)."""

        def make() -> Tensor:
            return torch.tensor(self.values, dtype=torch.float32, device=images.device)[..., None, None]

        mean, std = kept(self._tables, images.device, images.device, make)
        return (images - mean) / std
