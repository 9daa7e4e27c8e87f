"""Settings of the optimiser, shared by both stages."""

from __future__ import annotations

from dataclasses import dataclass

from action_heads._util.flags import check_choices, check_least, check_positive, check_share
from action_heads.fit import cosine

SCHEDULES = ("cosine", "constant")
# Why neither stage has this option.
NO_DEVICE = {"--device": "training uses a GPU if torch finds one, and the CPU if not or with ACCELERATE_USE_CPU=1"}


@dataclass(frozen=True)
class OptimiserConfig:
    """Settings of AdamW and of the average of the weights.

    Attributes:
        steps: training steps.
        batch_size: chunks per training step, over all processes.
        lr: peak learning rate.
        warmup: training steps of linear warm-up.
        schedule: learning rate after warm-up: cosine (to zero) or constant.
        clip: largest norm of the gradient.
        ema: largest decay of the average of the weights, which is what a run saves.
    """

    steps: int = 10_000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 200
    schedule: str = "cosine"
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self):
        check_choices(self, schedule=SCHEDULES)
        check_least(self, 1, "steps", "batch_size", "warmup")
        check_positive(self, "lr")
        check_positive(self, "clip", finite=False)  # an infinite norm clips nothing
        check_share(self, "ema")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a training step: linear warm-up, then the schedule."""
        if self.schedule == "constant":
            return self.lr * min(1.0, (step + 1) / self.warmup)
        return cosine(step, self.steps, self.lr, self.warmup)
