"""Stage 2 on data that fits in memory: train the adapter of a policy.

Axes: n chunks of the data, h horizon, a action, m tokens, c condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads._util.checks import check_pad_rows, check_type
from action_heads._util.conditions import Mask, move, parts, take
from action_heads._util.flags import check_choices, check_least, check_positive, check_share
from action_heads._util.limits import check_fields
from action_heads._util.precision import bfloat16_is_faster
from action_heads._util.progress import progress_bar
from action_heads._util.training_step import TrainingStep, adamw, set_learning_rate
from action_heads.diffusion.levels import NoiseConfig
from action_heads.ema import EMA
from action_heads.policy import ConditionedHead
from action_heads.vlm import Embeddings

PRECISIONS = ("auto", "fp32", "bf16")
OPTIONAL = ("mask", "is_pad")
READ_EVERY = 50  # training steps between two reads of the loss, each of which waits for the accelerator


class Diverged(RuntimeError):
    """An error that ends a run whose loss diverged. The message names the step and what to change."""


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit`.

    Attributes:
        steps: training steps.
        batch_size: chunks of a batch.
        lr: peak learning rate, which falls to zero along a cosine.
        warmup: training steps of linear warm-up.
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        ema: largest decay of the weights' moving average.
        seed: seed of batches, noise and noise levels.
        precision: "fp32", "bf16" (autocast), or "auto" for bf16 where the device computes it faster.
        levels: distribution of noise levels: "uniform", "logit_normal" (prefers the middle), "beta" (prefers the
            noisier) or "last" (only the noisiest, the one level that the sampler "one_step" visits).
        noise_samples: number of noised copies of each chunk in a batch; they share one reading of the condition.
        prefixes: also train to continue committed actions (real-time chunking), on backbones that mix time.
        graph: on CUDA, replay each training step as one CUDA graph. This has not been run on a GPU yet. If the capture
            fails, training goes on eagerly with a warning. A CPU has no graphs and gives the same weights either way.

    Raises:
        ValueError: a setting is out of range.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 2.5e-3
    warmup: int = 50
    weight_decay: float = 1e-6
    clip: float = 1.0
    ema: float = 0.995
    seed: int = 0
    precision: str = "auto"
    levels: str = "uniform"
    noise_samples: int = 1
    prefixes: bool = False
    graph: bool = False

    def __post_init__(self):
        check_fields(vars(self), FitConfig, "FitConfig")
        check_least(self, 1, "steps", "batch_size", "warmup")
        check_least(self, 0, "weight_decay")
        check_positive(self, "lr")
        check_positive(self, "clip", finite=False)  # an infinite norm clips nothing
        check_share(self, "ema")
        check_choices(self, precision=PRECISIONS)
        NoiseConfig(self.levels, self.noise_samples, self.prefixes)


def fit(
    policy: ConditionedHead,
    actions: Tensor,
    cond: Any,
    *,
    mask: Mask = None,
    is_pad: Tensor | None = None,
    config: FitConfig = FitConfig(),
    description: str = "training the adapter",
    keep: Callable[[int], None] | None = None,
    keep_at: Collection[int] = (),
) -> list[float]:
    """Train the adapter of a policy, and a head that is not frozen, with AdamW.

    The policy ends in evaluation mode with the moving average of its weights. So it does if an error or Ctrl-C ends the
    training, with the average of the steps until then. The same seed and precision give the same weights on the same
    machine.

    Args:
        policy: the policy to train.
        actions: chunks (n h a) in robot units.
        cond: conditions (n c), tokens (n m c), embeddings cached by `action_heads.vlm.embed`, or a dict of these for
            an adapter of several sources.
        mask: (n m), true where a token counts; a dict for several sources.
        is_pad: (n h), true where an action is padding and must not count. Every chunk needs an action that counts.
        config: the settings.
        description: text of the progress bar.
        keep: called with the number of a training step in `keep_at`, while the policy has its averaged weights.
        keep_at: training steps after which `keep` is called, from 1 to `config.steps`.

    Returns:
        The loss of every training step.

    Raises:
        ValueError: the arguments have other types, carry gradients or differ in their number of rows, or
            `ConditionedHead.loss` refuses them; a chunk is all padding; a step of `keep_at` is never reached; or a
            parameter that trains has 16 bits.
        Diverged: a loss is not finite. The weights of the policy are then of no use.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import AdaLNZero
        >>> from action_heads.fit import FitConfig, fit
        >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
        >>> policy = head.attach(AdaLNZero(cond_dim=32, through="code"))
        >>> actions, cond = head.sample(64), torch.randn(64, 32)
        >>> losses = fit(policy, actions, cond, config=FitConfig(steps=3))
        >>> len(losses)
        3
    """
    check_type("policy", policy, ConditionedHead, "Pass the policy that head.attach(adapter) returned.")
    check_type("config", config, FitConfig, "Pass FitConfig(steps=1000), for example.")
    check_data(actions, cond, mask, is_pad)
    if outside := sorted(set(keep_at) - set(range(1, config.steps + 1))):
        raise ValueError(f"keep_at has the steps {outside}, but training has the steps 1 to {config.steps}")
    policy.head.config.space.validate(actions, policy.head.config.horizon, values=False)
    if is_pad is not None:
        check_pad_rows(is_pad, *actions.shape[:2])
    check_precise(policy)
    device = policy.head.device
    parameters = list(policy.trainable_parameters())
    optimizer = adamw(parameters, config.lr, config.graph, weight_decay=config.weight_decay)
    ema = EMA(parameters, max_decay=config.ema)
    generator = torch.Generator(device).manual_seed(config.seed)
    actions, cond, mask = actions.to(device), move(cond, device), move(mask, device)
    is_pad = torch.zeros(actions.shape[:2], dtype=torch.bool, device=device) if is_pad is None else is_pad.to(device)
    low_precision = config.precision == "bf16" or (config.precision == "auto" and bfloat16_is_faster(device))

    def loss(actions: Tensor, cond: Any, mask: Mask, is_pad: Tensor) -> Tensor:
        options = {"levels": config.levels, "noise_samples": config.noise_samples, "prefixes": config.prefixes}
        with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            return policy.loss(actions, cond, mask=mask, is_pad=is_pad, generator=generator, **options)

    take_step = TrainingStep(loss, optimizer, config.clip, [generator], config.graph)
    losses: list[Tensor] = []
    bar = progress_bar(range(config.steps), desc=description, unit="step")
    with in_training(policy, optimizer, ema), bar:
        for step in bar:
            set_learning_rate(optimizer, cosine(step, config.steps, config.lr, config.warmup))
            rows = torch.randint(len(actions), (config.batch_size,), generator=generator, device=device)
            seen, valid = (move(taken, device) for taken in take(cond, mask, rows))
            losses.append(take_step(actions[rows], seen, valid, is_pad[rows]))
            ema.update()
            if keep and step + 1 in keep_at:
                with ema.averaged():
                    keep(step + 1)
            if step % READ_EVERY == READ_EVERY - 1 or step == config.steps - 1:
                bar.set_postfix(loss=f"{mean_of(losses[-READ_EVERY:], step, config):.4f}", refresh=False)
    return torch.stack(losses).tolist()


def check_data(actions: Tensor, cond: Any, mask: Mask, is_pad: Tensor | None) -> None:
    """Raise a ValueError unless the arguments are tensors of the same number of rows, without gradients."""
    given = {"actions": [actions], "cond": parts(cond), "mask": parts(mask), "is_pad": [is_pad]}
    named = [(name, part) for name, some in given.items() for part in some if name not in OPTIONAL or part is not None]
    for name, part in named:
        kinds = (Tensor, Embeddings) if name == "cond" else Tensor
        check_type(name, part, kinds, "Pass one row for each chunk, as encoder(observations).detach() computes them.")
        if isinstance(part, Tensor) and part.requires_grad:
            raise ValueError(
                f"{name} carries gradients, but `fit` trains only the policy. Pass {name}.detach(). To train an "
                "encoder too, write the training loop, and call policy.loss(actions, encoder(observations))."
            )
    rows = [len(part) for _, part in named]
    if len(set(rows)) > 1:
        raise ValueError(
            "actions, cond, mask and is_pad must have the same number of rows, one for each chunk; got "
            f"{', '.join(map(str, rows))}"
        )


@contextmanager
def in_training(policy: ConditionedHead, optimizer: torch.optim.Optimizer, ema: EMA) -> Iterator[None]:
    """Put a policy in training mode. On exit, also by an error, leave it in evaluation mode with averaged weights."""
    policy.train()
    try:
        yield
    finally:
        optimizer.zero_grad()  # A step that was cut short has left gradients.
        ema.copy_to_model()
        policy.eval()


def check_precise(policy: ConditionedHead) -> None:
    """Raise a ValueError if a parameter that trains has 16 bits, in which small updates would be rounded away."""
    low = [(name, p.dtype) for name, p in policy.named_parameters() if p.requires_grad and p.dtype.itemsize < 4]
    if low:
        raise ValueError(
            f"{len(low)} parameters that train are in 16 bits, first {low[0][0]} in {low[0][1]}. Only a frozen "
            "head may be. Load the policy again, or cast the head before attaching: head.to(torch.bfloat16)"
            ".attach(adapter). To compute in bfloat16, pass FitConfig(precision='bf16')."
        )


def mean_of(losses: list[Tensor], step: int, config: FitConfig) -> float:
    """Return the mean of the last losses, up to that of training step `step`.

    Raises:
        Diverged: one of them is not finite.
    """
    values = torch.stack(losses)
    if not values.isfinite().all():
        first = int((~values.isfinite()).nonzero()[0])
        raise Diverged(
            f"training diverged: the loss of training step {step + 2 - len(losses) + first} is "
            f"{values[first].item():.4g}. Attach a new adapter and take an lr below {config.lr:g}, or precision='fp32'."
        )
    return values.mean().item()


def cosine(step: int, steps: int, lr: float, warmup: int) -> float:
    """Return the learning rate of a training step: linear warm-up to `lr`, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / warmup)
    return lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
