"""The processors around `DAEPolicy`: LeRobot's own four, under their own names, and no other.

Statistics of actions are not among theirs: LeRobot replaces those of a pipeline when a policy is fine-tuned, and what a
head was steered by must stay. Actions pass through, and the policy itself decodes a chunk when it is made.
"""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors
from torch import Tensor

from action_heads.lerobot.configuration_dae import DAEConfig


def make_dae_pre_post_processors(
    config: DAEConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """LeRobot calls this by its name, for a policy that is new; else it reads the saved pipelines."""
    return make_default_pre_post_processors(config, dataset_stats)
