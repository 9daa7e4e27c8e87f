"""Denoising backbones: (x_t (b h a), modulation) -> (b h a). They know no condition, schedule or robot."""

from action_heads.backbones.base import Backbone
from action_heads.backbones.mixer import MixerBackbone
from action_heads.backbones.mlp import MLPBackbone
from action_heads.backbones.transformer import TransformerBackbone
from action_heads.backbones.unet import UNetBackbone

BACKBONES: dict[str, type[Backbone]] = {
    "mlp": MLPBackbone,
    "mixer": MixerBackbone,
    "transformer": TransformerBackbone,
    "unet": UNetBackbone,
}

__all__ = ["BACKBONES", "Backbone", "MLPBackbone", "MixerBackbone", "TransformerBackbone", "UNetBackbone"]
