"""Observation encoders: cameras, proprioception and language -> the condition of an adapter. Extra: `vision`."""

from action_heads.encoders.config import ObservationConfig, TextConfig, VisionConfig
from action_heads.encoders.observation import ObservationEncoder
from action_heads.encoders.resnet import SpatialSoftmax

__all__ = ["ObservationConfig", "ObservationEncoder", "SpatialSoftmax", "TextConfig", "VisionConfig"]
