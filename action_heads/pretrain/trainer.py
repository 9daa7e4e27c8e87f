"""One pretraining run as an object: modules, optimiser, data, and what a step and an evaluation are.

Everything random in step n of process r comes from generators seeded by (seed, n, r), so a run that was killed and goes
on is the run that was not killed, and how far ahead batches are drawn changes nothing.

Axes: b batch, h horizon, a action, c signal.
"""

from __future__ import annotations

import copy
from collections.abc import Generator

import torch
from torch import Tensor

from action_heads._util.ema import EMA
from action_heads.actions.normalize import Normalizer
from action_heads.head import ActionHead
from action_heads.pretrain import data
from action_heads.pretrain.batches import Batch, Batches, ahead, fit
from action_heads.pretrain.objective import Stage1, loss
from action_heads.pretrain.settings import PretrainConfig
from action_heads.training import checkpoint
from action_heads.training.accelerator import start
from action_heads.training.base import Training
from action_heads.training.streams import generator


class Trainer(Training[Batch]):
    """The state of one pretraining run, in each of its processes; average and history are the main process' alone."""

    description = "pretraining"

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.accelerator = start(config.optimiser.batch_size, config.precision, config.folder)
        data.check_shares(config.sources, self.share)
        checkpoint.refuse_others(self.settings(), config.folder)
        head_config = config.head()
        torch.manual_seed(config.seed)
        self.head = ActionHead(head_config)
        window = data.window(head_config.space, head_config.horizon)
        with self.accelerator.main_process_first():  # it fetches and unpacks what the others then find
            source = data.mixture(config.sources, window)
            held_out = data.mixture(config.sources, window, "held_out")
        self.sources = getattr(source, "record", [])  # a function has none
        normalizer, joints = fit(source, head_config.space)
        if config.init:
            normalizer = go_on_from(config.init, self.head)
        self.head.normalizer = copy.deepcopy(normalizer)  # on the device, while batches are made on the CPU
        seen = (head_config.space, normalizer, config.signal, config.task_boxes)
        self.batches, self.held_out = Batches(source, *seen), Batches(held_out, *seen)
        self.stage = Stage1(self.head, config.signal, signal_width(config, joints), config.levels)
        # Only the model: accelerate's optimiser and schedulers wrap what needs no wrapping here, and hide the state
        # that `state` saves without pickling.
        self.model = self.accelerator.prepare(self.stage)
        self.parameters = list(self.stage.parameters())
        lr, ema = config.optimiser.lr, config.optimiser.ema
        self.optimizer = torch.optim.AdamW(self.parameters, lr, betas=(0.9, 0.99), weight_decay=1e-6, fused=True)
        self.ema = EMA(self.parameters, max_decay=ema) if self.accelerator.is_main_process else None
        self.step = 0
        self.progress = checkpoint.Progress()
        self._evaluation: list[Batch] = []

    def draw(self, step: int) -> Batch:
        """Draw the batch of this process for a training step, on the CPU."""
        rank = self.accelerator.process_index
        batch = self.batches.draw(self.share, generator("batch", self.config.seed, step, rank))
        return batch.pinned() if self.accelerator.device.type == "cuda" else batch

    def coming(self) -> Generator[Batch]:
        """Yield the batches from this training step to the last, drawn ahead."""
        return ahead(self.draw, range(self.step, self.config.optimiser.steps), self.config.workers)

    def train_step(self, batch: Batch | None = None) -> Tensor:
        """One optimiser step, on a batch drawn now if none was drawn ahead. Returns the loss (scalar) of this part."""
        device, config = self.accelerator.device, self.config
        noise = generator("noise", config.seed, self.step, self.accelerator.process_index, device=device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        loss = self.model((batch or self.draw(self.step)).to(device), self.step, noise)
        return self.descend(loss)

    @torch.no_grad()
    def evaluate(self, batches: int = 12) -> float:
        """Mean loss of the averaged weights on held-out chunks, the same ones every time, with their signal."""
        assert self.ema, "the main process evaluates: the others have no average"
        seed, device = self.config.seed, self.accelerator.device
        for i in range(len(self._evaluation), batches):
            self._evaluation.append(self.held_out.draw(256, generator("held-out batch", seed, i)).to(device))
        with self.ema.averaged():
            losses = [
                self.stage(batch, i, generator("held-out noise", seed, i, device=device))
                for i, batch in enumerate(self._evaluation[:batches])
            ]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def evaluate_unconditional(self, chunks: int = 2048) -> float:
        """Mean loss on held-out chunks as a fresh adapter would meet them: no signal, the head's own statistics.

        Over all noise levels alike, whatever `levels` training drew, so that heads can be compared.
        """
        device, mechanisms = self.accelerator.device, self.head.config.mechanisms
        motion = self.held_out.source(chunks, generator("held-out batch", 0))
        actions, _ = data.chunks(motion, self.head.config.space)
        noise = generator("held-out noise", 0, device=device)
        x0 = self.head.normalizer.normalize(actions.to(device))
        losses = [loss(self.head, None, x0, None, mechanism, noise) for mechanism in mechanisms]
        return float(torch.stack(losses).mean())


def go_on_from(name: str, head: ActionHead) -> Normalizer:
    """Copy the weights of a pretrained head, and return its normalizer, in whose units it computes."""
    first = ActionHead.from_pretrained(name)
    theirs, ours = first.config.to_dict(), head.config.to_dict()
    shape = ours.keys() - {"name", "training", "fingerprint"}
    if other := [key for key in ours if key in shape and theirs.get(key) != ours[key]]:
        had = ", ".join(f"{key} {theirs.get(key)}" for key in other)
        asked = ", ".join(f"{key} {ours[key]}" for key in other)
        raise ValueError(f"--init {name} has {had}, but this run makes a head with {asked}. Make them the same.")
    head.load_state_dict(first.state_dict())
    return first.normalizer


def signal_width(config: PretrainConfig, joints: int) -> int:
    """Width c of what Stage 1 conditions on, given that of the joints the sources have (0 for none)."""
    if config.signal == "joints" and not joints:
        raise ValueError(
            f"signal is 'joints', but of {', '.join(config.sources)} not every source knows joints: "
            "use --signal code, which needs none"
        )
    head = config.head()
    return joints if config.signal == "joints" else head.space.dim * head.horizon
