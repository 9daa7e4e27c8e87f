"""Backbones, the networks that denoise: a noisy chunk x_t (b h a) and the modulation of each site -> (b h a)."""

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
