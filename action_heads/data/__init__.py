"""Recordings of every supported format: opened, checked, converted, resampled, cached and cut into windows."""

from action_heads.data.bounded_reads import BadData, BadEpisode
from action_heads.data.known_schemas import SCHEMAS
from action_heads.data.opening import find_arm, open_windows
from action_heads.data.schema import Schema
from action_heads.data.spec import RATE_HZ, Spec

__all__ = ["RATE_HZ", "SCHEMAS", "BadData", "BadEpisode", "Schema", "Spec", "find_arm", "open_windows"]
