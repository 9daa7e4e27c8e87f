"""Encoders from images, proprioception and language to the condition of an adapter. They need the extra `vision`."""

from action_heads.encoders.config import ObservationConfig, TextConfig, VisionConfig
from action_heads.encoders.keypoints import SpatialSoftmax
from action_heads.encoders.observation import ObservationEncoder
from action_heads.encoders.vlm_config import VLMConfig

__all__ = ["ObservationConfig", "ObservationEncoder", "SpatialSoftmax", "TextConfig", "VLMConfig", "VisionConfig"]
