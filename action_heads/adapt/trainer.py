"""One run of Stage 2 as an object: encoder, adapter, optimiser, data, and what a step and an evaluation are.

Everything random in step n of process r comes from generators seeded by (seed, n, r), so a run that was killed and goes
on is the run that was not killed.

Axes: b batch.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.ema import EMA
from action_heads.adapt import checkpoints
from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig
from action_heads.data.windows import Sample, Steps, batches
from action_heads.diffusion.levels import NoiseConfig
from action_heads.observed_policy import ObservedPolicy
from action_heads.training import checkpoint
from action_heads.training.accelerator import start
from action_heads.training.base import Training
from action_heads.training.streams import generator, seeded

EVALUATED = 512  # held-out windows, at most


class Stage2(nn.Module):
    """The policy, as accelerate and DDP call it."""

    def __init__(self, policy: ObservedPolicy, tasks: tuple[str, ...], noise: NoiseConfig):
        super().__init__()
        self.policy, self.tasks, self.options = policy, tasks, vars(noise)

    def forward(self, batch: Sample, noise: torch.Generator, augmentation: int) -> Tensor:
        """Loss (scalar) of a batch; crops and colours are drawn by a seed."""
        task = [self.tasks[i] for i in batch["task"].tolist()]
        with seeded(augmentation):
            return self.policy.loss(batch, task, generator=noise, **self.options)


class Trainer(Training[Sample]):
    """The state of one run, in each of its processes; average and history are the main process' alone."""

    description = "adapting"

    def __init__(self, config: AdaptConfig):
        self.config = config
        self.accelerator = start(config)
        checkpoint.refuse_others(self.settings(), config.folder)
        with self.accelerator.main_process_first():  # it fetches what the others then find
            self.policy, self.windows, self.held_out, tasks = build(config)
        self.stage = Stage2(self.policy, tasks, config.noise).train()
        self.counts = self.policy.counts()
        self.policy.to(self.accelerator.device)
        self.model = self.accelerator.prepare(self.stage)
        optimiser = config.optimiser
        adapter, encoder = self.policy.parameter_groups()
        self.parameters = adapter + encoder
        groups: list[dict[str, Any]] = [{"params": adapter, "share": 1.0}]
        if encoder:
            groups.append({"params": encoder, "share": optimiser.encoder_lr / optimiser.lr})
        self.buffers = tuple(b for _, b in self.policy.encoder.named_buffers())  # norms that count batches, if any
        decay = optimiser.weight_decay
        self.optimizer = torch.optim.AdamW(groups, optimiser.lr, weight_decay=decay, fused=True)
        self.ema = EMA(self.parameters, max_decay=optimiser.ema) if self.accelerator.is_main_process else None
        self.step = 0
        self.progress = checkpoint.Progress()
        self._evaluation: list[Sample] = []

    def coming(self) -> Generator[Sample]:
        """The batches from this step to the last, read and decoded while others are trained on."""
        steps = range(self.step, self.config.optimiser.steps)
        rows = Steps(self.windows, self.share, self.config.seed, self.accelerator.process_index, steps)
        yield from batches(self.windows, rows, self.config.workers, self.accelerator.device.type == "cuda")

    def train_step(self, batch: Sample) -> Tensor:
        """One optimiser step. Returns the loss (scalar) of this process' part."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step) * group["share"]
        at = (self.config.seed, self.step, self.accelerator.process_index)
        noise = generator("noise", *at, device=self.accelerator.device)
        self.model.train()
        loss = self.descend(self.model(self._moved(batch), noise, generator("augmentation", *at).initial_seed()))
        if self.ema and self.step in self.config.checkpoint_steps[:-1]:
            checkpoints.save(self)
        return loss

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Mean loss of the averaged weights on held-out windows, the same every time; None if there are none."""
        if self.held_out is None:
            return None
        assert self.ema, "the main process evaluates: the others have no average"
        seed, device, share = self.config.seed, self.accelerator.device, self.config.optimiser.batch_size
        if not self._evaluation:
            drawn = torch.randperm(len(self.held_out), generator=generator("held-out batch", seed))[:EVALUATED]
            rows = [part.tolist() for part in drawn.split(share)]
            self._evaluation = list(batches(self.held_out, rows, self.config.workers))
        self.stage.eval()
        with self.ema.averaged():
            losses = [
                self.stage(self._moved(batch), generator("held-out noise", seed, i, device=device), 0)
                * len(batch["actions"])
                for i, batch in enumerate(self._evaluation)
            ]
        self.stage.train()
        return float(torch.stack(losses).sum()) / sum(len(batch["actions"]) for batch in self._evaluation)

    def _moved(self, batch: Sample) -> Sample:
        """On the device; from pinned memory while it still computes."""

        def move(x: Any) -> Any:
            if isinstance(x, dict):
                return {name: move(part) for name, part in x.items()}
            return x.to(self.accelerator.device, non_blocking=True)

        return {name: part if name == "task" else move(part) for name, part in batch.items()}
