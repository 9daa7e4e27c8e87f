"""Write a vision transformer with random weights that is small enough for a CPU.

`python examples/libero/small_vit.py runs/small-vit` writes it, and `--policy.vision.backbone=runs/small-vit` trains it
along. A pretrained one is more accurate and costs more.
"""

from __future__ import annotations

import sys

import torch
import transformers


def main(folder: str, side: int = 96, patch: int = 8, width: int = 64) -> None:
    """Save a ViT of two layers of `width`, for patches of `patch` pixels in images resized to `side` x `side`."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=patch,
    )
    model = transformers.ViTModel(config)
    torch.nn.init.normal_(model.embeddings.position_embeddings)  # An untrained model must tell positions apart.
    model.save_pretrained(folder)
    size = {"height": side, "width": side}
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=size).save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
