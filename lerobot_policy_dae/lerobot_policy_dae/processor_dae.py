"""The processors around `DAEPolicy`: LeRobot's own four in their order, with a floor under the spread of observations.

They do not normalise actions. LeRobot replaces a pipeline's statistics when a policy is fine-tuned, but the range of
the actions must stay the one that the adapter was trained with. So the policy keeps it and decodes chunks itself.
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

# The two statistics that each mode uses: mean and standard deviation, or the two ends of a range.
PAIRS = {
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


class normalizer_processor(NormalizerProcessorStep):
    """LeRobot's normaliser with a floor (`action_heads.actions.normalize.floored`) under the spread it divides by.

    Without a floor, a column that hardly moved in training would give values in the thousands once it moves. The floor
    is applied at the division, so it holds for a new policy's statistics, for reloaded ones, and for those of another
    dataset that LeRobot sets when it fine-tunes.

    LeRobot finds a step by its registered name, or else by its class name. Its commands replace the statistics of
    "normalizer_processor", a name registered for LeRobot's own class. So this class has that name, unregistered.
    """

    _registry_name = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, feature in self.features.items():
            mode = self.norm_map.get(feature.type, NormalizationMode.IDENTITY)
            if mode in PAIRS and self._tensor_stats:  # None at all are for statistics that are set later.
                self._scale(key, mode)  # Missing statistics and NaN raise now rather than at the first batch.

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
        stats, names = self._tensor_stats.get(key, {}), PAIRS[mode]
        if absent := [name for name in names if stats.get(name) is None]:
            raise ValueError(
                f"The dataset's statistics of {key} have no {' and no '.join(absent)}, which normalisation by "
                f"{mode.value} needs. They have {', '.join(stats) or 'nothing'}. Compute them again, or choose another "
                "--policy.normalization_mapping."
            )
        first, second = (stats[name].to(torch.float32) for name in names)
        if bad := (~(first.isfinite() & second.isfinite())).flatten().nonzero().flatten().tolist():
            raise ValueError(
                f"The dataset's statistics of {key} are NaN or infinite in dimension {', '.join(map(str, bad))} "
                f"({names[0]} and {names[1]}). Remove the episodes with NaN in that column from the dataset and "
                "compute its statistics again, or train without the column."
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
