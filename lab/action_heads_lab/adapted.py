"""Roll out a policy that `action-heads adapt` trained: the evaluator of `action-heads adapt --task`."""

from __future__ import annotations

from dataclasses import dataclass

from action_heads.actions.spaces import EE_ABSOLUTE
from action_heads.adapt.settings import AdaptConfig, flag
from action_heads.observed_policy import ObservedPolicy
from action_heads.training.streams import generator
from action_heads_lab.policies import AT_ONCE, actor, sight_of
from action_heads_lab.sim.interval import wilson
from action_heads_lab.sim.observations import shown
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import check_starts, description, get_task


@dataclass(frozen=True)
class Outcome:
    """Results of rollouts. `success` and `length` have one entry per episode, from seeds 0, 1, 2 ..."""

    task: str
    episodes: int
    successes: int
    interval: tuple[float, float]  # Wilson's 95 % interval
    steps_to_success: float | None
    success: list[bool]
    length: list[int]
    execute: int
    sampler: str
    sampling_steps: int | None
    video: str | None


def check_task(config: AdaptConfig, policy: ObservedPolicy) -> None:
    """Raise a ValueError before training if the simulation lacks the observations or takes other actions."""
    task = config.rollout.task
    assert task is not None
    with flag("task"):
        get_task(task)
        with flag("episodes"):
            check_starts(task, config.rollout.episodes)
        if policy.layout.space().parts != EE_ABSOLUTE.parts:
            raise ValueError(
                f"the simulation takes poses of one hand, absolute or delta, but the actions of the policy are "
                f"{policy.layout}. Train without --task"
            )
        contract = policy.contract
        sight = sight_of(policy)
        if contract.state and sight.dialect == "own":
            width, there = policy.encoder.config.state_dim, shown(task, contract.state, sight.apart)
            if width != there:
                raise ValueError(
                    f"the policy observes {width} numbers, {', '.join(contract.state)}, but the simulation of "
                    f"{task} provides {there}. Name the recorded task, or choose other columns with --state"
                )
        if odd := {name: size for name, size in contract.sizes.items() if size[0] != size[1]}:
            raise ValueError(f"the simulation renders square images, but the recording has {odd}. Train without --task")


def roll_out(config: AdaptConfig, policy: ObservedPolicy) -> Outcome:
    """Roll out episodes from seeds 0, 1, 2 ..., which no recording uses."""
    asked = config.rollout
    assert asked.task is not None
    video = config.out / "rollouts.mp4" if asked.videos else None
    result = rollout(
        asked.task,
        actor(
            policy,
            description(asked.task),
            generator("acting", config.seed, device=policy.device),
            sampler=asked.sampler,
            steps=asked.sampling_steps,
        ),
        range(asked.episodes),
        execute=asked.execute,
        batch=AT_ONCE,
        workers=asked.simulations,
        video=video,
        film=asked.videos,
        sight=sight_of(policy),
    )
    successes = int(result.success.sum())
    return Outcome(
        task=asked.task,
        episodes=len(result.success),
        successes=successes,
        interval=wilson(successes, len(result.success)),
        steps_to_success=float(result.length[result.success].mean()) if successes else None,
        success=result.success.tolist(),
        length=result.length.tolist(),
        execute=asked.execute,
        sampler=asked.sampler,
        sampling_steps=asked.sampling_steps,
        video=video.name if video else None,
    )
