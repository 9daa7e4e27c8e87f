"""The trainer of Stage 2: policy, optimiser and data of one run, its training step and its evaluation.

All random numbers of training step n in process r come from generators seeded with (seed, n, r), so an interrupted run
that is resumed gives the same result as one that was not interrupted.

Axes: b batch.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.training_step import adamw
from action_heads.adapt.build import build
from action_heads.adapt.embedding import Embedder, standardise_tokens
from action_heads.adapt.settings import AdaptConfig
from action_heads.data.windows import Sample, Steps, batches
from action_heads.diffusion.levels import NoiseConfig
from action_heads.ema import EMA
from action_heads.observed_policy import ObservedPolicy
from action_heads.training import checkpoint
from action_heads.training.accelerator import start
from action_heads.training.base import Training
from action_heads.training.streams import generator, seed_of, seeded

EVALUATED = 512  # largest number of held-out windows that are evaluated


def checkpoint_folder(out: Path, step: int) -> Path:
    """Return the folder of the policy that a run keeps from an earlier training step."""
    return out / "checkpoints" / f"step-{step}"


class Stage2(nn.Module):
    """The loss of a policy as a module, which accelerate and DDP can wrap."""

    def __init__(self, policy: ObservedPolicy, tasks: tuple[str, ...], noise: NoiseConfig):
        super().__init__()
        self.policy, self.tasks, self.options = policy, tasks, vars(noise)

    def forward(self, batch: Sample, augmentation: int | None, noise: torch.Generator) -> Tensor:
        """Return the loss (scalar) of a batch.

        `augmentation` is the seed of crops, colours and dropout. It is None for a batch that was encoded before, which
        has no task either.
        """
        if augmentation is None:
            return self.policy.loss(batch, generator=noise, **self.options)
        task = [self.tasks[i] for i in batch["task"].tolist()]
        with seeded(augmentation, noise.device):
            return self.policy.loss(batch, task, generator=noise, **self.options)


class Trainer(Training[Sample]):
    """The state of one run in each of its processes. Only the main process has the average and the history."""

    description = "adapting"

    def __init__(self, config: AdaptConfig):
        self.config = config
        self.accelerator = start(config.optimiser.batch_size, config.precision, config.folder, config.graph)
        checkpoint.refuse_others(self.settings(), config.folder)
        with self.accelerator.main_process_first():  # it downloads what the others then find on the disk
            self.policy, self.windows, self.held_out, self.inputs = build(config, self.accelerator.device)
        checkpoint.refuse_changed(self.inputs, config.folder)
        self.stage = Stage2(self.policy, self.windows.recording.tasks, config.noise).train()
        self.counts = self.policy.counts()
        self.policy.to(self.accelerator.device)
        self._embed()
        self.model = self.accelerator.prepare(self.stage)
        optimiser = config.optimiser
        adapter, encoder = self.policy.parameter_groups()
        self.parameters = adapter + encoder
        groups: list[dict[str, Any]] = [{"params": adapter}]
        if encoder:
            groups.append({"params": encoder, "share": optimiser.encoder_lr / optimiser.lr})
        self.buffers = tuple(b for _, b in self.policy.encoder.named_buffers())  # statistics of batch norms
        decay = optimiser.weight_decay
        graph = config.graph and not self.encodes
        self.optimizer = adamw(groups, optimiser.lr, graph, weight_decay=decay)
        self.begin(graph)
        self._evaluation: list[Sample] = []

    def _embed(self) -> None:
        """Embed the windows if their embeddings are kept, and fit the statistics of a new adapter's tokens."""
        config, vlm = self.config, self.policy.encoder.vlm
        if vlm is None:
            return
        if config.caches:
            embedder = Embedder(self.policy, config, self.windows.recording.tasks)
            for windows in (self.windows, self.held_out):
                if windows is not None:
                    windows.use(embedder.embed(windows, self.accelerator), self.policy.encoder.cameras)
            vlm.unload()
        if config.start_from is None:
            standardise_tokens(self.policy, self.windows, config)

    def coming(self) -> Generator[Sample]:
        """Yield the batches from this training step to the last. Workers read and decode ahead."""
        steps = range(self.step, self.config.optimiser.steps)
        rows = Steps(self.windows, self.share, self.config.seed, self.accelerator.process_index, steps)
        yield from batches(self.windows, rows, self.config.workers, self.accelerator.device.type == "cuda")

    def train_step(self, batch: Sample) -> Tensor:
        """Take one training step. Return the loss (scalar) of this process's part of the batch."""
        self.model.train()
        augmentation = seed_of("augmentation", self.config.seed, self.step, self.accelerator.process_index)
        batch = self._moved(batch)
        if self.take_step.graph:  # It could not hold the tasks' words or a seed, and needs neither.
            batch, augmentation = {name: part for name, part in batch.items() if name != "task"}, None
        loss = self.descend(batch, augmentation)
        if self.ema and self.step in self.config.checkpoint_steps[:-1]:
            self._keep(self.ema)
        return loss

    @property
    def encodes(self) -> str:
        """Return what encodes images or words in every training step, by its flag, or "" if nothing does."""
        encoder, windows = self.policy.encoder, self.windows
        if encoder.vlm is not None and not self.config.caches:
            return "--vlm"
        if encoder.cameras and windows.outputs is None:
            return "--encoder"
        return "--text" if encoder.text is not None else ""

    def _keep(self, ema: EMA) -> None:
        """Save the averaged weights of this training step as a policy of their own."""
        with ema.averaged():
            self.policy.training_record = {"settings": self.settings(), "inputs": self.inputs, "step": self.step}
            self.policy.save(checkpoint_folder(self.config.out, self.step))

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Return the mean loss of the averaged weights on a fixed set of held-out windows, or None without any."""
        if self.held_out is None:
            return None
        assert self.ema, "only the main process has the average of the weights, so it evaluates"
        seed, device, share = self.config.seed, self.accelerator.device, self.config.optimiser.batch_size
        if not self._evaluation:
            drawn = torch.randperm(len(self.held_out), generator=generator("held-out batch", seed))[:EVALUATED]
            rows = [part.tolist() for part in drawn.split(share)]
            self._evaluation = list(batches(self.held_out, rows, self.config.workers))
        self.stage.eval()
        with self.ema.averaged():
            losses = [
                self.stage(self._moved(batch), 0, generator("held-out noise", seed, i, device=device))
                * len(batch["actions"])
                for i, batch in enumerate(self._evaluation)
            ]
        self.stage.train()
        return float(torch.stack(losses).sum()) / sum(len(batch["actions"]) for batch in self._evaluation)

    def _moved(self, batch: Sample) -> Sample:
        """Move a batch to the device. Pinned memory is copied while the device computes."""

        def move(x: Any) -> Any:
            if isinstance(x, dict):
                return {name: move(part) for name, part in x.items()}
            return x.to(self.accelerator.device, non_blocking=True)

        return {name: part if name == "task" else move(part) for name, part in batch.items()}
