"""Compare a training step of `--policy.type=dae` and of LeRobot's own `diffusion` policy: time and memory.

    uv run benchmarks/lerobot_policies.py

All read two cameras through a ResNet-18 each and train on the same batch with their own optimisers. They take turns in
one process, so that other load on the machine slows all. Memory is measured in a process for each policy, with glibc's
own settings. Times are measured with freed memory kept, which favours the U-Net.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import KEEP_FREED_MEMORY, command_line, write_results
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

import lerobot_policy_dae  # noqa: F401  # registers the policy

HORIZON, STATE, ACTIONS = 16, 8, 7
POLICIES: dict[str, dict[str, Any]] = {
    "diffusion": {"type": "diffusion", "pretrained_backbone_weights": None, "use_group_norm": True, "horizon": HORIZON},
    "dae/mlp-5m-fk-delta": {"type": "dae", "head": "dae/mlp-5m-fk-delta", "action_layout": "libero"},
    "dae/mixer-5m-fk": {"type": "dae", "head": "dae/mixer-5m-fk", "action_layout": "libero"},
}


def make(name: str, pixels: int):
    """Build a policy and its optimiser for two cameras, a state of 8 and LIBERO's actions."""
    settings = dict(POLICIES[name])
    inputs = {f"{OBS_IMAGES}.{camera}": PolicyFeature(FeatureType.VISUAL, (3, pixels, pixels)) for camera in ("a", "b")}
    inputs[OBS_STATE] = PolicyFeature(FeatureType.STATE, (STATE,))
    config = make_policy_config(
        settings.pop("type"),
        **settings,
        device="cpu",
        n_obs_steps=2,
        n_action_steps=8,
        input_features=inputs,
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
    )
    torch.manual_seed(0)
    stats = {ACTION: {"min": -np.ones(ACTIONS), "max": np.ones(ACTIONS)}}
    policy = get_policy_class(config.type)(config, dataset_stats=stats)
    policy.train()
    return policy, config.get_optimizer_preset().build(policy.get_optim_params())


def batch(rows: int, pixels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        **{
            f"{OBS_IMAGES}.{camera}": torch.rand(rows, 2, 3, pixels, pixels, generator=generator)
            for camera in ("a", "b")
        },
        OBS_STATE: torch.randn(rows, 2, STATE, generator=generator),
        ACTION: 2 * torch.rand(rows, HORIZON, ACTIONS, generator=generator) - 1,
        "action_is_pad": torch.zeros(rows, HORIZON, dtype=torch.bool),
    }


def step(policy, optimizer, data) -> tuple[float, float]:
    """Run a training step, and return its wall and processor time in s."""
    wall, cpu = time.perf_counter(), time.process_time()
    loss, _ = policy.forward(data)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak(name: str, rows: int, pixels: int) -> None:
    """Print the peak memory of this process after two steps, in GB."""
    before = largest()
    policy, optimizer = make(name, pixels)
    for _ in range(2):
        step(policy, optimizer, batch(rows, pixels))
    print(largest() - before)


def largest() -> float:
    """Return the peak memory of this process in GB. getrusage would count what the process inherited."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--memory-of", choices=POLICIES, help="print only the memory of this policy")
    options = parser.parse_args()
    if options.memory_of:
        return peak(options.memory_of, options.batch_size, options.pixels)
    if KEEP_FREED_MEMORY.items() - os.environ.items():  # glibc reads these at the start of a process.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_FREED_MEMORY)
    torch.set_num_threads(1)
    made = {name: make(name, options.pixels) for name in POLICIES}
    data, times = batch(options.batch_size, options.pixels), {name: [] for name in POLICIES}
    for turn in range(options.steps + 1):
        for name, (policy, optimizer) in made.items():
            spent = step(policy, optimizer, data)
            if turn:  # The first turn creates the state of the optimiser.
                times[name].append(spent)
    rows = []
    for name, (policy, _) in made.items():
        walls, cpus = zip(*times[name], strict=True)
        command = [sys.executable, __file__, "--memory-of", name, "--batch-size", str(options.batch_size)]
        command += ["--pixels", str(options.pixels)]
        plain = {key: value for key, value in os.environ.items() if key not in KEEP_FREED_MEMORY}
        memory = subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.splitlines()[-1]
        rows.append(
            {
                "policy": name,
                "parameters": sum(p.numel() for p in policy.parameters()),
                "trained": sum(p.numel() for p in policy.parameters() if p.requires_grad),
                "wall_s_per_step": round(statistics.median(walls), 3),
                "cpu_s_per_step": round(statistics.median(cpus), 3),
                "memory_gb": round(float(memory), 2),
            }
        )
        print(rows[-1], flush=True)
    settings = {"steps": options.steps, "batch_size": options.batch_size, "pixels": options.pixels, "cameras": 2}
    write_results("lerobot_policies", {"lerobot": version("lerobot"), **settings, "rows": rows})


if __name__ == "__main__":
    main()
