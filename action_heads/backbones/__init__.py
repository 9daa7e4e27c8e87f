"""Denoising backbones: (x_t (b h a), modulation) -> (b h a). They know no condition, schedule or robot."""

from action_heads.backbones.mixer import MixerBackbone
from action_heads.backbones.mlp import MLPBackbone

BACKBONES: dict[str, type[MLPBackbone]] = {"mlp": MLPBackbone, "mixer": MixerBackbone}

__all__ = ["BACKBONES", "MLPBackbone", "MixerBackbone"]
