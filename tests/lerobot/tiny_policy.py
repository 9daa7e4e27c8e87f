"""Small policies on small heads, and batches in LeRobot's format."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from small import tiny_head

from lerobot_policy_dae import DAEConfig, DAEPolicy

STATS = {ACTION: {"min": np.array([-1.0] * 7), "max": np.array([1.0] * 7)}}


def features(action: int = 7, image: bool = False) -> dict[str, dict[str, PolicyFeature]]:
    inputs = {OBS_STATE: PolicyFeature(FeatureType.STATE, (4,))}
    if image:
        inputs[OBS_IMAGE] = PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
    return {"input_features": inputs, "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (action,))}}


def head_folder(folder, backbone: str = "mlp") -> str:
    tiny_head(backbone).save_pretrained(folder / backbone)
    return str(folder / backbone)


def meta(*tasks: str) -> Any:
    """Return what a policy reads of a dataset's metadata."""
    return SimpleNamespace(features={ACTION: {"names": None}}, tasks=SimpleNamespace(index=list(tasks)))


def tiny_policy(
    folder, backbone: str = "mlp", *, image: bool = False, dataset_meta: Any = None, stats: Any = None, **flags
) -> DAEPolicy:
    """Return a policy whose adapter is not at its zero initialisation, so that conditions matter."""
    settings = {"head": head_folder(folder, backbone), "action_layout": "libero", "hidden_dim": 8, "device": "cpu"}
    torch.manual_seed(0)
    config = DAEConfig(**settings | features(image=image) | flags)
    policy = DAEPolicy(config, stats or STATS, dataset_meta)
    with torch.no_grad():
        for p in policy.conditioned.adapter.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy.eval()


def batch(rows: int = 3, *, image: bool = False, steps: int = 2, horizon: int = 16) -> dict[str, Any]:
    """Return a batch for training, with an axis of observation steps and actions in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Any] = {
        OBS_STATE: torch.randn(rows, steps, 4, generator=generator),
        ACTION: torch.rand(rows, horizon, 7, generator=generator) * 2 - 1,
        "action_is_pad": torch.zeros(rows, horizon, dtype=torch.bool),
        "task": ["lift the cube"] * rows,
    }
    return found | ({OBS_IMAGE: torch.rand(rows, steps, 3, 32, 32, generator=generator)} if image else {})


def present(of: dict[str, Any]) -> dict[str, Any]:
    """Return the newest observation of a batch, as a policy gets it when it acts."""
    return {key: x[:, -1] if key.startswith("observation.") else x for key, x in of.items() if key != ACTION}


def chunk(policy: DAEPolicy, of: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(0)
    return policy.predict_action_chunk(of)
