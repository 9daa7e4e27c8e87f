"""Statistics by which a new adapter standardises the condition.

Axes: N rows, d state, w width of an output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from action_heads.actions.contract import Contract
from action_heads.actions.normalize import ANY_UNIT, floored
from action_heads.adapters import Adapter
from action_heads.encoders import ObservationEncoder
from action_heads.observed_policy import ObservedPolicy


def standardise(adapter: Adapter, encoder: ObservationEncoder, numbers: Tensor, contract: Contract) -> None:
    """Set the statistics by which a new adapter standardises the condition; those of a VLM's tokens come later.

    States are in metres and radians, and text vectors are large, so both are brought to one scale. Image features pass
    unchanged. `floored` bounds the deviation of each from below, in its own unit.
    """
    steps, state, text = encoder.config.observation_steps, state_statistics(numbers, contract), text_statistics(encoder)
    if encoder.vlm is None:
        features = len(encoder.cameras) * encoder.features
        unchanged = torch.zeros(features), torch.ones(features)
        parts = zip(unchanged, state, text, strict=True)
        return adapter.standard.set(*(torch.cat([*steps * (u, s), t]) for u, s, t in parts))  # type: ignore[operator]
    if "state" in adapter.standard:  # type: ignore[operator]
        adapter.standard["state"].set(*(s.repeat(steps) for s in state))  # type: ignore[index]
    if encoder.text is not None:
        adapter.standard["text"].set(*text)  # type: ignore[index]


def state_statistics(numbers: Tensor, contract: Contract) -> tuple[Tensor, Tensor]:
    """Return mean and divisors (d) of the states (N d); 0 and 1 without any, or if a blind policy gets zeros."""
    if not numbers.numel() or (contract.blind and not contract.sizes):
        return torch.zeros(numbers.shape[1]), torch.ones(numbers.shape[1])
    mean = numbers.double().mean(0)
    return mean.float(), floored(numbers.double().std(0, correction=0), mean).float()


def text_statistics(encoder: ObservationEncoder) -> tuple[Tensor, Tensor]:
    """Return mean and divisors (w) of the tasks' vectors; 0 and 1 for a trained map, which scales its own output."""
    text, config = encoder.text, encoder.config.text
    if text is None or (config and config.features):
        width = text.dim if text else 0
        return torch.zeros(width), torch.ones(width)
    vectors = torch.stack(list(text.known.values())).float()
    mean = vectors.mean(0)
    return mean, floored(vectors.std(0, correction=0), mean, ANY_UNIT)


def standardise_keypoints(policy: ObservedPolicy, keypoints: Mapping[str, Tensor]) -> None:
    """Standardise keypoints by those of training rows (n w), by camera, since no layer of the encoder does."""
    read = torch.cat([keypoints[camera] for camera in policy.encoder.cameras], dim=-1)
    middle = read.mean(0)
    divisors = floored(read.std(0, correction=0), middle, ANY_UNIT)
    standard, steps = policy.policy.adapter.standard, policy.encoder.config.observation_steps
    per_step = len(middle) + policy.encoder.config.state_dim
    if policy.encoder.vlm is not None:  # The state is then a source of its own.
        standard, per_step = standard["images"], len(middle)  # type: ignore[index]
    mean, std = standard.mean.clone(), standard.std.clone()  # type: ignore[operator]
    for first in range(0, steps * per_step, per_step):
        mean[first : first + len(middle)], std[first : first + len(middle)] = middle, divisors
    standard.set(mean, std)  # type: ignore[operator]
