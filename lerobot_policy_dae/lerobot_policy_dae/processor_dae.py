"""The processors around `DAEPolicy`: LeRobot's own four in their order, with a floor under observed statistics.

Statistics of actions are not among theirs: LeRobot replaces those of a pipeline when a policy is fine-tuned, and what a
head was steered by must stay. Actions pass through, and the policy itself decodes a chunk when it is made.
"""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode
from lerobot.processor import (
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    make_default_pre_post_processors,
)
from torch import Tensor

from action_heads.actions.normalize import floored
from lerobot_policy_dae.configuration_dae import DAEConfig

# What centre and spread of a mode are made of: (mean, deviation), or two ends of a range.
PAIRS = {
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


class normalizer_processor(NormalizerProcessorStep):
    """LeRobot's normaliser, which divides by no less than `action_heads.actions.normalize.floored` of a spread.

    A column that never moved would otherwise reach the policy as thousands as soon as it moves. The floor is applied
    where numbers are divided, so it holds for the statistics of a new policy, for reloaded ones, and for those of
    another dataset that LeRobot puts in their place at fine-tuning.

    LeRobot addresses a step by its registered name, or by the name of its class. Its commands replace statistics by the
    name "normalizer_processor", which is registered for LeRobot's own class: hence the name of this one, and no
    registered name.
    """

    _registry_name = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, feature in self.features.items():
            mode = self.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            if mode in PAIRS and key in self._tensor_stats:
                self._scale(key, mode)  # finds what is missing or NaN now, rather than at the first step

    def _apply_transform(self, tensor: Tensor, key: str, feature_type: FeatureType, *, inverse: bool = False) -> Tensor:
        mode = self.norm_map.get(feature_type, NormalizationMode.IDENTITY)
        if mode not in PAIRS or key not in self._tensor_stats:
            return super()._apply_transform(tensor, key, feature_type, inverse=inverse)
        centre, scale = (x.to(tensor.device) for x in self._scale(key, mode))
        exact = tensor.float()
        found = exact * scale + centre if inverse else (exact - centre) / scale
        return found.to(tensor.dtype) if tensor.is_floating_point() else found

    def _scale(self, key: str, mode: NormalizationMode) -> tuple[Tensor, Tensor]:
        """Return centre (d) and divisor (d) of a feature, in float32."""
        stats, names = self._tensor_stats[key], PAIRS[mode]
        if absent := [name for name in names if stats.get(name) is None]:
            raise ValueError(
                f"the dataset's statistics of {key} have no {' and no '.join(absent)}, which normalisation by "
                f"{mode.value} takes; they have {', '.join(stats) or 'nothing'}: compute them again, or choose another "
                "--policy.normalization_mapping"
            )
        first, second = (stats[name].to(torch.float32) for name in names)
        if bad := (~(first.isfinite() & second.isfinite())).flatten().nonzero().flatten().tolist():
            raise ValueError(
                f"the dataset's statistics of {key} are NaN or infinite in dimension {', '.join(map(str, bad))} "
                f"({names[0]} and {names[1]}): look for the rows with NaN in that column, take their episodes out "
                "of the dataset and compute its statistics again, or train without the column"
            )
        if mode is NormalizationMode.MEAN_STD:
            return first, floored(second, first)
        centre = (first + second) / 2
        return centre, floored((second - first) / 2, centre)


def make_dae_pre_post_processors(
    config: DAEConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Return the pre- and postprocessor of a new policy. LeRobot finds this function by its name.

    Args:
        config: Settings of the policy.
        dataset_stats: Statistics of the dataset by feature, with which observations are normalised.
    """
    before, after = make_default_pre_post_processors(config, dataset_stats)
    before.steps = [_with_floor(step) if type(step) is NormalizerProcessorStep else step for step in before.steps]
    return before, after


def _with_floor(step: NormalizerProcessorStep) -> normalizer_processor:
    return normalizer_processor(
        features=step.features, norm_map=step.norm_map, stats=step.stats, device=step.device, dtype=step.dtype
    )
