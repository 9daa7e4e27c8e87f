"""Compare Stage 2 with normal training: time per step, counted work, memory, and time to a validation loss.

uv run benchmarks/training_speed.py [--steps 300] [--unet-steps 5] [--device cuda]

The data is synthetic motion of the Panda. The condition is a fixed random map of the chunk to 1,024 features, with
noise. All systems see the same batches. A step is loss, gradient, clipping and a fused AdamW, as in `fit`.

Axes: n samples, h horizon, a action, c condition.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from functools import partial

import torch
from common import write_results
from torch import Tensor

from action_heads import ActionHead, HeadConfig, Normalizer
from action_heads.adapters import AdaLNZero, FiLM
from action_heads.kinematics.synthetic import pose_actions, synthetic_chunks
from action_heads.policy import ConditionedHead
from action_heads.runtime.work import count

COND_DIM, BATCH, VALIDATION = 1024, 64, 512


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return conditions (n c) and chunks (n h a). The map between them does not depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    actions = pose_actions(*synthetic_chunks(n, generator=generator))
    to_cond = torch.randn(actions[0].numel(), COND_DIM, generator=torch.Generator().manual_seed(99)) / 8
    return actions.flatten(1) @ to_cond + 0.1 * torch.randn(n, COND_DIM, generator=generator), actions


class Run:
    """The training of one system."""

    def __init__(self, name: str, policy: ConditionedHead, steps: int, device: str):
        self.name, self.steps, self.device = name, steps, device
        self.policy = policy.to(device).train()
        self.optimizer = torch.optim.AdamW(self.policy.trainable_parameters(), 1e-3, fused=True)
        self.times: list[float] = []
        self.losses: list[tuple[int, float]] = []

    def step(self, cond: Tensor, actions: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        began = time.perf_counter()
        self.policy.loss(actions, cond, generator=generator).backward()
        torch.nn.utils.clip_grad_norm_(list(self.policy.trainable_parameters()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
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
        self.optimizer.zero_grad()
        reached = next((at for at, loss in self.losses if loss <= target), None)
        return {
            "what": self.name,
            "trained": self.policy.num_trainable,
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--unet-steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--target", type=float, default=0.15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    cond, actions = (x.to(options.device) for x in data(20_000, seed=0))
    unseen = [x.to(options.device) for x in data(VALIDATION, seed=1)]
    head = ActionHead.from_pretrained("dae/mlp-5m-fk")
    normalizer = Normalizer.fit(actions.cpu(), head.config.space)
    torch.manual_seed(0)
    attach = partial(ActionHead.attach, normalizer=normalizer)
    policies = {
        "decoupled, through code and blocks": attach(head, AdaLNZero(COND_DIM)),
        "decoupled, through the code": attach(head, AdaLNZero(COND_DIM, through="code")),
        "normal": attach(head.in_mode("normal"), AdaLNZero(COND_DIM)),
    }
    runs = [Run(name, policy, options.steps, options.device) for name, policy in policies.items()]
    if options.unet_steps:
        unet = ActionHead(HeadConfig(backbone="unet", mechanisms=("film",), width=512, depth=3))
        runs.append(Run("U-Net, 244M, normal", attach(unet, FiLM(COND_DIM)), options.unet_steps, options.device))
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
    write_results(f"training_speed_{options.device}", {"note": options.note, "peak_mb": round(peak), "rows": rows})


if __name__ == "__main__":
    main()
