"""Stage 2: teach a frozen head a task from a recording (needs the `train` and `vision` extras, and the recording's)."""

from action_heads.observed_policy import AdaptedPolicy

__all__ = ["AdaptedPolicy"]
