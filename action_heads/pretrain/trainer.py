"""The trainer of Stage 1: modules, optimiser, data, the training step and the evaluation.

All random numbers in training step n of process r come from generators that are seeded by (seed, n, r). A run that was
killed and resumed therefore equals one that was not, and the result does not depend on how far ahead batches are drawn.

Axes: b batch, h horizon, a action, c signal.
"""

from __future__ import annotations

import copy
from collections.abc import Generator

import torch
from torch import Tensor

from action_heads._util.training_step import adamw
from action_heads.actions.normalize import Normalizer
from action_heads.head import ActionHead
from action_heads.modes import fresh
from action_heads.pretrain import data
from action_heads.pretrain.batches import Batch, Batches, ahead, fit
from action_heads.pretrain.objective import Stage1, loss
from action_heads.pretrain.settings import PretrainConfig
from action_heads.training import checkpoint
from action_heads.training.accelerator import start
from action_heads.training.base import Training
from action_heads.training.streams import generator

EVALUATED = 2048  # held-out chunks of `evaluate_unconditional`


class Trainer(Training[Batch]):
    """The state of one pretraining run in each of its processes. Only the main process has average and history."""

    description = "pretraining"

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.accelerator = start(config.optimiser.batch_size, config.precision, config.folder, config.graph)
        data.check_shares(config.sources, self.share)
        checkpoint.refuse_others(self.settings(), config.folder)
        head_config = config.head()
        torch.manual_seed(config.seed)
        self.head = ActionHead(head_config)
        window = data.window(head_config.space, head_config.horizon)
        with self.accelerator.main_process_first():  # it downloads and unpacks what the others then find
            source = data.Mixture(config.sources, window)
            held_out = data.Mixture(config.sources, window, "held_out")
        self.sources = source.record
        self.inputs = {f"--data {spec}": content for spec, content in source.contents.items()}
        normalizer, joints = fit(source, head_config.space)
        if config.init:
            normalizer, self.inputs["--init"] = go_on_from(config.init, self.head)
        checkpoint.refuse_changed(self.inputs, config.folder)
        self.head.normalizer = copy.deepcopy(normalizer)  # a copy for the device; batches are made on the CPU
        seen = (head_config.space, normalizer, config.signal, config.task_boxes)
        self.batches, self.held_out = Batches(source, *seen), Batches(held_out, *seen)
        self.stage = Stage1(self.head, config.signal, signal_width(config, joints), config.levels)
        # Only the model is prepared. A wrapped optimiser would hide the state that is saved here without pickling.
        self.model = self.accelerator.prepare(self.stage)
        self.parameters = list(self.stage.parameters())
        lr = config.optimiser.lr
        self.optimizer = adamw(self.parameters, lr, config.graph, betas=(0.9, 0.99), weight_decay=1e-6)
        self.begin(config.graph)
        self._evaluation: list[Batch] = []

    def draw(self, step: int) -> Batch:
        """Draw the batch of this process for a training step, on the CPU."""
        rank = self.accelerator.process_index
        batch = self.batches.draw(self.share, generator("batch", self.config.seed, step, rank))
        return batch.pinned() if self.accelerator.device.type == "cuda" else batch

    def coming(self) -> Generator[Batch]:
        """Yield the batches from this training step to the last, drawn ahead."""
        return ahead(self.draw, range(self.step, self.config.optimiser.steps), self.config.workers)

    def train_step(self, batch: Batch) -> Tensor:
        """Take one training step on a batch. Return the loss (scalar) of this process."""
        return self.descend(batch.to(self.accelerator.device), self.stage.variant(self.step))

    @torch.no_grad()
    def evaluate(self, batches: int = 12) -> float:
        """Return the mean loss of the averaged weights on held-out chunks with their signal, always the same ones."""
        assert self.ema, "only the main process has an average to evaluate"
        seed, device = self.config.seed, self.accelerator.device
        for i in range(len(self._evaluation), batches):
            self._evaluation.append(self.held_out.draw(256, generator("held-out batch", seed, i)).to(device))
        with self.ema.averaged():
            losses = [
                self.stage(batch, self.stage.variant(i), generator("held-out noise", seed, i, device=device))
                for i, batch in enumerate(self._evaluation[:batches])
            ]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def evaluate_unconditional(self) -> float:
        """Return the mean loss on held-out chunks without a signal, in the head's own units, as a fresh adapter has it.

        All noise levels count equally, whatever `levels` training used, so that heads can be compared.
        """
        device, mechanisms = self.accelerator.device, self.head.config.mechanisms
        motion = self.held_out.source(EVALUATED, generator("held-out batch", 0))
        actions, _ = data.chunks(motion, self.head.config.space)
        noise = generator("held-out noise", 0, device=device)
        x0 = self.head.normalizer.normalize(actions.to(device))
        losses = [loss(self.head, None, x0, None, mechanism, noise) for mechanism in mechanisms]
        return float(torch.stack(losses).mean())


def before_training(config: PretrainConfig) -> ActionHead:
    """Return a frozen head with the shape and the statistics of a run's head, and random weights, without training it.

    It is all that a run in a mode with random weights takes of the pretrained head, see `modes.taken_of`.
    """
    shape = config.head()
    normalizer, _ = fit(data.Mixture(config.sources, data.window(shape.space, shape.horizon)), shape.space)
    head = fresh(ActionHead, shape, shape.name, config.seed)
    head.normalizer = copy.deepcopy(normalizer)
    return head.freeze()


def go_on_from(name: str, head: ActionHead) -> tuple[Normalizer, str]:
    """Copy the weights of a pretrained head into `head`. Return its normalizer, whose units are kept, and its hash."""
    first = ActionHead.from_pretrained(name)
    theirs, ours = first.config.to_dict(), head.config.to_dict()
    shape = ours.keys() - {"name", "training", "fingerprint"}
    if other := [key for key in ours if key in shape and theirs.get(key) != ours[key]]:
        had = ", ".join(f"{key} {theirs.get(key)}" for key in other)
        asked = ", ".join(f"{key} {ours[key]}" for key in other)
        raise ValueError(f"--init {name} has {had}, but this run makes a head with {asked}. Make them equal")
    head.load_state_dict(first.state_dict())
    return first.normalizer, first.fingerprint()


def signal_width(config: PretrainConfig, joints: int) -> int:
    """Return the width c of the signal. `joints` is the width of the sources' joint signal, 0 if they have none."""
    if config.signal == "joints" and not joints:
        raise ValueError(
            f"--signal joints needs joints from every source, but not all of {', '.join(config.sources)} have them, or "
            "their numbers differ. Use --signal code, which needs no joints"
        )
    head = config.head()
    return joints if config.signal == "joints" else head.space.dim * head.horizon
