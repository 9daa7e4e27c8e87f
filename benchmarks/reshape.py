"""Measure the benefit of a frozen backbone under other horizons and action layouts, in closed loop on Lift.

The layouts are chunks of 8 and of 50; joint targets of one arm, with seven joints (Panda) or six (UR5e); and joint
targets of two arms, which lift a cube each in their own scenes and succeed only together. Joint targets reach the
simulator through forward kinematics.

    uv run benchmarks/stage2.py heads base && uv run benchmarks/reshape.py [LAYOUT ...] [SYSTEM ...]

Layouts and systems that a run leaves out keep their rows.

Axes: m windows, h horizon, a action, j joints of an arm, c condition.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from action_heads_lab.sim import make
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.interval import wilson
from action_heads_lab.sim.record import record
from action_heads_lab.sim.rollout_worker import Play
from action_heads_lab.sim.tasks import get_task
from common import check_known, read_results, stamped, write_results
from stage2 import DEMOS, OUT, pretrained
from torch import Tensor

from action_heads import EE_ABSOLUTE, ActionHead, ActionSpace, ConditionedHead, Normalizer
from action_heads._util.progress import progress_bar
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit

USED, EPISODES, EXECUTE, STEPS = 100, 50, 8, 800
AHEAD = 3  # Ticks. The arm follows its target with a delay, so the joints of a target are those of a later tick.
SYSTEMS = ("decoupled", "random-frozen", "normal")


@dataclass(frozen=True)
class Layout:
    """The layout of chunks, and their arms: how many, and which task."""

    name: str
    space: ActionSpace
    horizon: int = 16
    arms: int = 1
    task: str = "Lift"
    partners: int = 1  # Episodes of the right arm for each one of the left arm.

    @property
    def execute(self) -> int:
        return min(EXECUTE, self.horizon // 2)


def joints(count: int, arms: int = 1) -> ActionSpace:
    return ActionSpace(arms * (("joint", count), ("gripper", 1)), frame="joint positions")


LAYOUTS = (
    Layout("as pretrained", EE_ABSOLUTE),
    Layout("chunks of 8", EE_ABSOLUTE, horizon=8),
    Layout("chunks of 50", EE_ABSOLUTE, horizon=50),
    Layout("joints", joints(7)),
    Layout("joints of two arms", joints(7, arms=2), arms=2),
    Layout("six joints", joints(6), task="Lift@UR5e"),
    Layout("joints of two six-joint arms", joints(6, arms=2), arms=2, task="Lift@UR5e"),
    Layout("the same, eight partners", joints(6, arms=2), arms=2, task="Lift@UR5e", partners=8),
)


def demonstrations(task: str) -> Demonstrations:
    """Return the first USED demonstrations of a recording."""
    total = DEMOS.get(task, USED)
    recording = record(task, total, path=OUT / f"{task}-{total}.npz")
    end = int(recording.episode_length[:USED].sum())
    return dataclasses.replace(
        recording,
        observation=recording.observation[:end],
        action=recording.action[:end],
        joint_position=recording.joint_position[:end],
        episode_length=recording.episode_length[:USED],
        seed=recording.seed[:USED],
    )


def windows(recording: Demonstrations, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Return conditions (m c), chunks (m h a) and padding (m h). Two arms see two episodes, paired at random."""
    if layout.space != EE_ABSOLUTE:
        recording = dataclasses.replace(recording, action=joint_targets(recording))
    cond, actions, is_pad = (torch.from_numpy(np.array(part)) for part in recording.chunks(layout.horizon))
    if layout.arms == 1:
        return cond, actions, is_pad
    episodes = list(
        zip(*(part.split(recording.episode_length.tolist()) for part in (cond, actions, is_pad)), strict=True)
    )
    order, pairs = np.random.default_rng(0), []
    for left in layout.partners * episodes:
        right = episodes[order.integers(len(episodes))]
        # An arm that finishes first holds still, so its last window is repeated.
        rows = torch.arange(max(len(left[0]), len(right[0])))
        both = [[part[rows.clamp(max=len(part) - 1)] for part in side] for side in (left, right)]
        (c1, a1, p1), (c2, a2, p2) = both
        pairs.append((torch.cat([c1, c2], 1), torch.cat([a1, a2], 2), p1 & p2))
    return tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))  # type: ignore[return-value]


def joint_targets(recording: Demonstrations) -> np.ndarray:
    """Return (m j+1): the joints AHEAD ticks later, in rad, and the gripper's target."""
    ends = np.repeat(np.cumsum(recording.episode_length), recording.episode_length) - 1
    later = np.minimum(np.arange(len(ends)) + AHEAD, ends)
    return np.concatenate([recording.joint_position[later], recording.action[:, 9:]], axis=1).astype(np.float32)


def for_simulator(chunk: Tensor, layout: Layout, plays: list[Play]) -> list[np.ndarray]:
    """Return the targets (execute, 10) of each arm's scene for a chunk (h a)."""
    arms = np.split(chunk[: layout.execute].numpy(), layout.arms, axis=1)
    if layout.space == EE_ABSOLUTE:
        return arms
    return [play.sim.at_joints(arm) for play, arm in zip(plays, arms, strict=True)]


def policy_of(system: str, layout: Layout, cond: Tensor, actions: Tensor) -> ConditionedHead:
    """Build a system. All have the same shape and adapter, and differ in what is pretrained and what trains.

    The modulation of a random head is noise, so the random-frozen control trains it too.
    """
    base = pretrained("base")
    if system != "decoupled":
        base = base.in_mode("random-frozen")
    torch.manual_seed(0)
    changed = layout.space != EE_ABSOLUTE or layout.horizon != 16
    head = base.reshape(space=layout.space, horizon=layout.horizon) if changed else base
    if system == "normal":
        head = ActionHead(head.config)
    adapter = AdaLNZero(cond.shape[1], hidden_dim=128, through="both", relearn_step=system == "random-frozen")
    adapter.standardize(cond)
    return head.attach(adapter, normalizer=Normalizer.fit(actions, layout.space, margin=0.05))


def roll_out(policy: ConditionedHead, layout: Layout, description: str) -> int:
    """Return the number of episodes in which every arm succeeds."""
    limit = get_task(layout.task).rollout_steps
    plays = [Play(make(layout.task), limit) for _ in range(layout.arms)]
    generator, successes = torch.Generator().manual_seed(0), 0
    for episode in progress_bar(range(EPISODES), desc=description):
        reports = [play.start(layout.arms * episode + i) for i, play in enumerate(plays)]
        while not all(report.done for report in reports):
            cond = torch.from_numpy(np.concatenate([report.cond["state"].ravel() for report in reports]))[None]
            told = for_simulator(policy.sample(cond, generator=generator)[0], layout, plays)
            for i, play in enumerate(plays):
                if not reports[i].done:
                    reports[i] = play.act(told[i])
        successes += all(report.success for report in reports)
    for play in plays:
        play.sim.close()
    return successes


def earlier() -> dict[tuple[str, str], dict]:
    """Return the existing rows by layout and system."""
    return {(row["layout"], row["system"]): row for row in read_results("reshape", [])}


def main(named: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    check_known(named, [*(layout.name for layout in LAYOUTS), *SYSTEMS])
    layouts = [layout for layout in LAYOUTS if layout.name in named] or LAYOUTS
    systems = [system for system in SYSTEMS if system in named] or SYSTEMS
    rows = earlier()
    for layout, system in itertools.product(layouts, systems):
        cond, actions, is_pad = windows(demonstrations(layout.task), layout)
        policy = policy_of(system, layout, cond, actions)
        name = f"{layout.name}, {system}"
        losses = fit(
            policy, actions, cond, is_pad=is_pad, config=FitConfig(steps=STEPS, precision="bf16"), description=name
        )
        successes = roll_out(policy, layout, name)
        low, high = wilson(successes, EPISODES)
        rows[layout.name, system] = stamped(
            {"layout": layout.name, "system": system, "horizon": layout.horizon, "action": layout.space.dim}
            | {"frozen": policy.num_frozen, "trained": policy.num_trainable}
            | {"projections": sum(p.numel() for p in policy.head.projections.values())}
            | {"loss": round(float(np.mean(losses[-50:])), 4), "successes": successes, "episodes": EPISODES}
            | {"interval": [round(low, 3), round(high, 3)]}
        )
        print(rows[layout.name, system])
        write_results("reshape", list(rows.values()))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
