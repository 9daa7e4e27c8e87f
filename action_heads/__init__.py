"""Pretrained, frozen action heads and the small trainable adapters that attach them to any encoder."""

from action_heads.bank import AdapterBank
from action_heads.config import HeadConfig
from action_heads.ema import EMA
from action_heads.execution import Executor
from action_heads.files import WeightFileError
from action_heads.head import ActionHead
from action_heads.hub import HeadNotFoundError
from action_heads.normalize import Normalizer
from action_heads.objectives import ObjectiveConfig
from action_heads.policy import ConditionedHead
from action_heads.spaces import EE_ABSOLUTE, EE_DELTA, ActionSpace

__version__ = "0.1.0"

__all__ = [
    "EE_ABSOLUTE",
    "EE_DELTA",
    "EMA",
    "ActionHead",
    "ActionSpace",
    "AdapterBank",
    "ConditionedHead",
    "Executor",
    "HeadConfig",
    "HeadNotFoundError",
    "Normalizer",
    "ObjectiveConfig",
    "WeightFileError",
]
