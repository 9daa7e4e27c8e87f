"""Resizing, cropping and colour jitter of one camera's images.

Axes: b batch, s observation steps, H and W pixels. All observation steps of a batch row are treated alike.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from action_heads.encoders.config import VisionConfig

LUMA = (0.299, 0.587, 0.114)


def prepare(images: Tensor, config: VisionConfig, training: bool, size: tuple[int, int] | None = None) -> Tensor:
    """Resize, crop and augment images (b s 3 H W) for the network.

    Args:
        images: values in [0, 1].
        config: which of these steps apply.
        training: crop at random positions and apply the colour jitter.
        size: (height, width) that the network requires, if any. The images are resized to it last.
    """
    if config.resize:
        images = resize(images, config.resize)
    if config.crop:
        images = crop(images, config.crop, anywhere=training)
    if config.jitter and training:
        images = jitter(images, config.jitter)
    return resize(images, size) if size else images


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images, bilinear and antialiased. The aspect ratio is not kept."""
    if images.shape[-2:] == size:
        return images
    small = F.interpolate(images.flatten(0, 1), size, mode="bilinear", antialias=True)
    return small.unflatten(0, images.shape[:2])


def crop(images: Tensor, size: tuple[int, int], anywhere: bool) -> Tensor:
    """Cut a window out of each batch row, at a random position if `anywhere`, and otherwise at the centre."""
    (height, width), (h, w) = images.shape[-2:], size
    if h > height or w > width:
        raise ValueError(
            f"vision.crop {size} is larger than the images, {height} x {width}. Make it smaller, or set vision.resize."
        )
    if not anywhere:
        return images[..., (height - h) // 2 :, (width - w) // 2 :][..., :h, :w]
    # Drawn on the CPU, which does not wait for an accelerator and gives the same windows on every device.
    top = torch.randint(height - h + 1, (len(images),)).tolist()
    left = torch.randint(width - w + 1, (len(images),)).tolist()
    return torch.stack([row[..., y : y + h, x : x + w] for row, y, x in zip(images, top, left, strict=True)])


def jitter(images: Tensor, strength: float) -> Tensor:
    """Vary brightness, contrast and saturation of each batch row, in this order, by factors within 1 ± strength."""
    factors = 1 + strength * (2 * torch.rand(3, len(images)) - 1)
    brightness, contrast, saturation = factors.to(images).view(3, -1, 1, 1, 1, 1)
    images = (images * brightness).clamp(0, 1)
    images = torch.lerp(grey(images).mean((-3, -2, -1), keepdim=True), images, contrast).clamp(0, 1)
    return torch.lerp(grey(images), images, saturation).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Return the luminance (b s 1 H W)."""
    return (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)
