"""Outputs of a frozen image encoder that training remembers, so that each image is encoded once and not in every epoch.

LeRobot's loader gives images without the rows that they come from, so an image is recognised by its pixels.

Axes: b batch, s observation steps, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from action_heads.encoders import ObservationEncoder
from action_heads.io.files import fingerprint
from lerobot_policy_dae.heads import flag


class Remembered:
    """The outputs of an encoder for all images so far, in the computer's memory.

    Args:
        encoder: the encoder.
        dataset_meta: metadata of the dataset, whose number of frames bounds the number of images; None: no bound.

    Raises:
        ValueError: the encoder sees no images, trains, or draws random crops or colours.
    """

    def __init__(self, encoder: ObservationEncoder, dataset_meta: Any):
        with flag("remember", "vision"):
            if not encoder.cameras:
                raise ValueError("the image encoder sees no camera. Leave --policy.remember out, or give it cameras")
            encoder.identity()  # its own checks
        frames = getattr(dataset_meta, "total_frames", None)
        self.encoder, self.most = encoder, frames and frames * len(encoder.cameras)
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs (b s ...) for images (b s 3 H W) by camera, and compute those of new images.

        Raises:
            ValueError: there have been more different images than the dataset has, so something changes them.
        """
        found = {}
        for camera in self.encoder.cameras:
            x = images[camera]
            flat = x.flatten(0, 1)
            keys = [fingerprint({"image": image}) for image in flat]
            new = {key: image for key, image in zip(keys, flat, strict=True) if key not in self.outputs}
            if new:
                self.outputs.update(zip(new, self.encoder.outputs_of(list(new.values())), strict=True))
            outputs = torch.stack([self.outputs[key] for key in keys]).to(x.device)
            found[camera] = outputs.unflatten(0, x.shape[:2])
        if self.most and len(self.outputs) > self.most:
            raise ValueError(
                f"--policy.remember=true, but training has brought {len(self.outputs):,} different images, and the "
                f"dataset has {self.most:,}: something changes them at random. Set "
                "--dataset.image_transforms.enable=false, or leave --policy.remember out."
            )
        return found
