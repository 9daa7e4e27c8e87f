"""Compare Stage 2 with normal training: time per step, counted work, memory, and time to a validation loss.

uv run benchmarks/training_speed.py [--steps 300] [--unet-steps 5] [--device cuda] [--graph] [--head dae/mixer-5m-fk]

The data is synthetic motion of the Panda. The condition is a fixed random map of the chunk to 1,024 features, with
noise. All systems see the same batches. A step is the one of `fit`: loss, gradient, clipping and a fused AdamW. With
`--graph` every system also trains by one CUDA graph. A CPU has none, so there these rows only use its static buffers.
The results of a head other than the default are in a file of their own, whose name ends in the head's.

Axes: n samples, h horizon, a action, c condition.
"""

from __future__ import annotations

import resource
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from common import command_line, write_results
from torch import Tensor
from work import count

from action_heads import ActionHead, HeadConfig, Normalizer
from action_heads._util.training_step import TrainingStep, adamw
from action_heads.adapters import AdaLNZero, FiLM
from action_heads.kinematics.synthetic import pose_actions, synthetic_chunks
from action_heads.policy import ConditionedHead

COND_DIM, BATCH, VALIDATION = 1024, 64, 512
HEAD = "dae/mlp-5m-fk"


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return conditions (n c) and chunks (n h a). The map between them does not depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    actions = pose_actions(*synthetic_chunks(n, generator=generator))
    to_cond = torch.randn(actions[0].numel(), COND_DIM, generator=torch.Generator().manual_seed(99)) / 8
    return actions.flatten(1) @ to_cond + 0.1 * torch.randn(n, COND_DIM, generator=generator), actions


class Run:
    """The training of one system."""

    def __init__(self, name: str, policy: ConditionedHead, steps: int, device: str, graph: bool = False):
        kind = "CUDA graph" if device == "cuda" else "static buffers"
        self.name, self.steps, self.device = f"{name}, {kind}" if graph else name, steps, device
        self.policy = policy.to(device).train()
        self.generator = torch.Generator(device)
        loss = partial(self.policy.loss, generator=self.generator)
        optimizer = adamw(self.policy.trainable_parameters(), 1e-3, graph)
        self.take_step = TrainingStep(loss, optimizer, 1.0, [self.generator], graph)
        self.times: list[float] = []
        self.losses: list[tuple[int, float]] = []

    def step(self, cond: Tensor, actions: Tensor, seed: int) -> None:
        self.generator.manual_seed(seed)
        began = time.perf_counter()
        self.take_step(actions, cond)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - began)

    @torch.no_grad()
    def validate(self, cond: Tensor, actions: Tensor) -> None:
        """Record the validation loss, with the same noise every time."""
        loss = self.policy.loss(actions, cond, generator=torch.Generator().manual_seed(0))
        self.losses.append((len(self.times), float(loss)))

    def row(self, cond: Tensor, actions: Tensor, target: float) -> dict:
        """Return the cost of a training step and when the validation loss was first at most `target`."""
        work = count(lambda: self.policy.loss(actions, cond).backward())
        self.take_step.optimizer.zero_grad()
        reached = next((at for at, loss in self.losses if loss <= target), None)
        return {
            "what": self.name,
            "trained": self.policy.num_trainable,
            **({"fell_back": self.take_step.reason} if self.take_step.graph else {}),
            "steps": len(self.times),
            "ms": round(1e3 * statistics.median(self.times), 2),
            "least_ms": round(1e3 * min(self.times), 2),
            "gflop": round(work.flops / 1e9, 2),
            "mb_allocated": round(work.bytes / 1e6),
            "state_mb": round(sum(8 * p.numel() for p in self.policy.trainable_parameters()) / 1e6, 1),
            "validation": self.losses,
            "target": target,
            "steps_to_target": reached,
            "seconds_to_target": None if reached is None else round(sum(self.times[:reached]), 1),
        }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--unet-steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--target", type=float, default=0.15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graph", action="store_true", help="also train every system by one CUDA graph")
    parser.add_argument("--head", default=HEAD, help="a bundled head or a folder")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    head = ActionHead.from_pretrained(options.head)
    cond, actions = (x.to(options.device) for x in data(20_000, seed=0))
    unseen = [x.to(options.device) for x in data(VALIDATION, seed=1)]
    normalizer = Normalizer.fit(actions.cpu(), head.config.space)
    attach = partial(ActionHead.attach, normalizer=normalizer)
    policies = {
        "decoupled, through code and blocks": lambda: attach(head, AdaLNZero(COND_DIM)),
        "decoupled, through the code": lambda: attach(head, AdaLNZero(COND_DIM, through="code")),
        "normal": lambda: attach(head.in_mode("normal"), AdaLNZero(COND_DIM)),
    }
    lengths: dict[str, int] = {name: options.steps for name in policies}
    if options.unet_steps:
        config = HeadConfig(backbone="unet", mechanisms=("film",), width=512, depth=3)
        policies["U-Net, 244M, normal"] = lambda: attach(ActionHead(config), FiLM(COND_DIM))
        lengths["U-Net, 244M, normal"] = options.unet_steps
    runs = []
    for name, build in policies.items():
        for graph in [False, True] if options.graph else [False]:
            torch.manual_seed(0)
            runs.append(Run(name, build(), lengths[name], options.device, graph))
    for step in range(options.steps):
        rows = torch.randint(len(actions), (options.batch,), generator=torch.Generator().manual_seed(step))
        for run in runs:
            if step < run.steps:
                run.step(cond[rows], actions[rows], seed=step)
            if step % 25 == 24 and step < run.steps:
                run.validate(*unseen)
    rows = [run.row(cond[: options.batch], actions[: options.batch], options.target) for run in runs]
    for row in rows:
        print({key: value for key, value in row.items() if key != "validation"})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    name = f"training_speed_{options.device}" + f"_{Path(head.config.name).name}" * (head.config.name != HEAD)
    found = {"note": options.note, "head": head.config.name, "peak_mb": round(peak), "rows": rows}
    write_results(name, found)


if __name__ == "__main__":
    main()
