"""Golden outputs: noise and the chunks that a head made of it, saved with the weights so that tests can replay them.

Axes: h horizon, a action.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from action_heads.diffusion.samplers import Sampling
from action_heads.head import ActionHead
from action_heads.io import files
from action_heads.io.weights import check_layout, check_values

NAME = "golden.safetensors"


@torch.no_grad()
def replay(head: ActionHead, noise: Tensor) -> dict[str, Tensor]:
    """Sample one unconditional chunk (1 h a), in robot units, per mechanism, by ten DDIM steps from noise (1 h a)."""
    plan, noise = head.plan(Sampling("ddim", 10)), noise.to(head.device)
    modulation = {name: head.modulation_of(name) for name in head.config.mechanisms}
    return {
        name: head.normalizer.unnormalize(head.denoise(head.step_values(m), None, m, noise, plan, None))
        for name, m in modulation.items()
    }


def save(head: ActionHead, folder: str | Path) -> None:
    """Write noise and the head's chunks for it into `folder`."""
    files.write_together(folder, contents(head))


def contents(head: ActionHead) -> dict[str, bytes]:
    """Return the file of noise and the head's chunks for it, as a dict from its name to its content."""
    noise = head.noise(1, torch.Generator().manual_seed(0))
    return {NAME: files.tensors_as_bytes({"noise": noise, **replay(head, noise)})}


def largest_difference(head: ActionHead, folder: str | Path) -> float:
    """Return the largest difference between the head's chunks and its golden ones, in robot units."""
    saved = load(head, Path(folder) / NAME)
    outputs = replay(head, saved.pop("noise"))
    return max(float((outputs[name].cpu() - expected).abs().max()) for name, expected in saved.items())


def load(head: ActionHead, file: Path) -> dict[str, Tensor]:
    """Load and check the golden noise and the chunks (1 h a) of each mechanism."""
    saved, _ = files.load_tensors(file)
    chunk = torch.empty(1, head.config.horizon, head.config.space.dim, device="meta")
    expected = dict.fromkeys(("noise", *head.config.mechanisms), chunk)
    check_layout(saved, expected, file)
    check_values(saved, expected, file)
    return {name: tensor.float() for name, tensor in saved.items()}
