"""Stage 2: train a policy on a frozen head from a recording. Needs the extras `train`, `vision` and `data`."""

from action_heads.observed_policy import ObservedPolicy

AdaptedPolicy = ObservedPolicy  # an earlier name, which the READMEs of earlier runs give

__all__ = ["AdaptedPolicy"]
