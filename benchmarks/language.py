"""Do words decide which cube is lifted? Policies of the task two_cubes, rolled out with right, wrong and no words.

Every episode has the instruction of a red or of a green cube, at random positions. A policy reads its words through a
frozen MiniLM. It observes either the poses of both cubes ("states"), or two cameras through a frozen MobileNetV2
("images"). All systems train on the same conditions, for as many training steps. Finished runs are kept.

    uv run action-heads record two_cubes outputs/language/two_cubes --demos 150 \
      --cameras agentview robot0_eye_in_hand --size 128
    uv run benchmarks/language.py --observe states images

Axes: N rows, c condition, h horizon, a action.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from action_heads_lab.policies import actor
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.report import wilson
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.two_cubes import CUBES, colour, other
from common import RESULTS, write_results
from torch import Tensor

from action_heads import ActionHead, HeadConfig, Normalizer
from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig, Text, Vision
from action_heads.adapters.config import AdapterConfig
from action_heads.diffusion.objectives import ObjectiveConfig
from action_heads.fit import FitConfig, fit
from action_heads.observed_policy import ObservedPolicy

TASK, HEAD, CAMERAS = "two_cubes", "dae/mlp-0.7m-fk", ("agentview", "robot0_eye_in_hand")
EXECUTE, AT_ONCE, DENOISING = 8, 8, 10
NEUTRAL = "lift the cube"  # names neither
Say = Callable[[str], str]
WORDS: dict[str, Say] = {"right": str, "wrong": other, "none": lambda _: NEUTRAL}


@dataclass(frozen=True)
class System:
    """What trains, and on what."""

    mode: Literal["decoupled", "random-frozen", "normal", "expert"] = "decoupled"
    reads: bool = True  # the words
    sees: bool = True  # anything; without, the whole condition is zero
    mechanism: str = "adaln_zero"
    through: str | None = "both"
    lr: float = 2.5e-3

    def head(self, seed: int) -> ActionHead:
        """Return the head. An expert is a small transformer of SmolVLA's kind: flow matching and cross-attention."""
        if self.mode != "expert":
            return ActionHead.from_pretrained(HEAD).in_mode(self.mode, seed=seed)
        shape: dict[str, Any] = {"width": 96, "depth": 4, "coded": False, "mechanisms": ("cross_attention",)}
        torch.manual_seed(seed)
        return ActionHead(HeadConfig(name="expert", backbone="transformer", objective=ObjectiveConfig("flow"), **shape))


SYSTEMS = {
    "decoupled": System(),
    "random-frozen": System("random-frozen"),
    "normal": System("normal"),
    "expert": System("expert", mechanism="cross_attention", through=None, lr=1e-3),
    "without words": System(reads=False),
    "without observations": System(sees=False),
}


class Demonstrations(NamedTuple):
    """The training data of all systems, and the parts of their policies that no system changes."""

    template: ObservedPolicy
    cond: Tensor  # (N c)
    neutral: Tensor  # (N c), with words that name no cube
    actions: Tensor  # (N h a)
    is_pad: Tensor  # (N h)


@cache
def demonstrations(observe: str, data: Path, encoders: Path) -> Demonstrations:
    """Encode a recording, as `action-heads adapt --text ... --train-encoder cached` does."""
    images = observe == "images"
    seeing: dict[str, Any] = {"state": ("observation.state", "observation.environment_state")}
    vision = Vision("none")
    if images:
        seeing = {"cameras": CAMERAS, "state": ("observation.state",)}
        frozen: dict[str, Any] = {"train_encoder": "cached", "pool": "keypoints", "stride": 16}
        vision = Vision(str(encoders / "mobilenetv2"), **frozen)
    text = Text(str(encoders / "minilm"))
    common: dict[str, Any] = {"observation_steps": 1, "held_out": 0.0, "workers": 0}
    windows: Any
    template, windows, _ = build(
        AdaptConfig(data=f"lerobot:{data}", head=HEAD, vision=vision, text=text, **seeing, **common)
    )
    rows = [windows[i] for i in range(len(windows))]
    said = [windows.recording.tasks[row["task"]] for row in rows]
    given: dict[str, Any] = {"state": windows.state.unsqueeze(1)}
    if images:
        given["outputs"] = {camera: windows.outputs[camera][:].unsqueeze(1) for camera in CAMERAS}
    with torch.no_grad():
        cond, neutral = (template.condition(task=words, **given) for words in (said, [NEUTRAL] * len(rows)))
    actions, is_pad = (torch.stack([row[key] for row in rows]) for key in ("actions", "is_pad"))
    return Demonstrations(template, cond, neutral, actions, is_pad)


def train(system: System, data: Demonstrations, steps: int, hidden: int, seed: int) -> tuple[ObservedPolicy, dict]:
    """Train a system, and return its policy with its costs."""
    cond = data.cond if system.reads else data.neutral
    head = system.head(seed)
    torch.manual_seed(seed)
    settings = AdapterConfig(system.mechanism, hidden_dim=hidden, through=system.through)
    adapter = settings.make(cond.shape[1])
    standard = data.template.policy.adapter.standard
    adapter.standard.set(standard.mean, standard.std)  # type: ignore[operator]
    policy = head.attach(adapter, normalizer=Normalizer.fit(data.actions, head.config.space, margin=0.05))
    began = time.process_time()
    config = FitConfig(steps=steps, lr=system.lr, seed=seed)
    losses = fit(policy, data.actions, cond if system.sees else 0 * cond, is_pad=data.is_pad, config=config)
    costs = {
        "trained": policy.num_trainable,
        "training_cpu_seconds": round(time.process_time() - began),
        "loss": round(float(np.mean([float(loss) for loss in losses[-50:]])), 4),
    }
    return ObservedPolicy(data.template.encoder.eval(), policy.eval(), data.template.contract), costs


def roll_out(system: System, policy: ObservedPolicy, say: Say, episodes: int, seed: int) -> dict[str, Any]:
    """Return how many episodes lifted the named cube and the other one, in all and by colour."""
    contract, noise = policy.contract, torch.Generator().manual_seed(seed)
    act = actor(policy, "", noise, say if system.reads else WORDS["none"], steps=DENOISING)

    def without(seen: dict[str, np.ndarray]) -> np.ndarray:
        nothing = torch.zeros(len(seen["state"]), policy.encoder.cond_dim)
        return policy.policy.sample(nothing, generator=noise, steps=DENOISING).numpy()

    sizes = {name: size[0] for name, size in contract.sizes.items()} if system.sees else {}
    with torch.no_grad():
        outcome = rollout(
            TASK,
            act if system.sees else without,
            range(episodes),
            **{"execute": EXECUTE, "batch": AT_ONCE, "workers": 1, "progress": False},
            sight=Sight(contract.state, sizes, steps=1, apart=True),
        )
    named = np.array([colour(int(number)) for number in outcome.seed])
    successes = int(outcome.success.sum())
    return {
        "named": successes,
        "other": int(outcome.failed.sum()),
        "episodes": episodes,
        "interval": [round(end, 3) for end in wilson(successes, episodes)],
        "by colour": {name: int(outcome.success[named == name].sum()) for name in CUBES},
    }


def finished() -> list[dict[str, Any]]:
    """Return the finished runs."""
    path = RESULTS / "language.json"
    return json.loads(path.read_text())["results"] if path.exists() else []


def main(
    observe: tuple[str, ...] = ("states",),
    systems: tuple[str, ...] = tuple(SYSTEMS),
    data: Path = Path("outputs/language/two_cubes"),
    encoders: Path = Path("outputs/encoders"),
    steps: int = 2000,
    hidden: int = 128,
    seed: int = 0,
    episodes: int = 50,
    words: tuple[str, ...] = tuple(WORDS),
    lr: float | None = None,
    keep: bool = True,
) -> None:
    """Train and roll out systems, and keep their results.

    Args:
        observe: states, images, or both.
        systems: names of `SYSTEMS`.
        data: the recording.
        encoders: folder with mobilenetv2 and minilm.
        steps: training steps.
        hidden: width of the adapter.
        seed: seed of everything but the episodes.
        episodes: number of episodes for each kind of words, half of them for each cube.
        words: right, wrong, none.
        lr: learning rate instead of that of the system.
        keep: write the results to benchmarks/results/language.json.
    """
    torch.set_num_threads(1)
    for seen in observe:
        for name in systems:
            run = {"observe": seen, "system": name, "steps": steps, "hidden": hidden, "seed": seed}
            if keep and any(run.items() <= row.items() for row in finished()):
                continue
            system = SYSTEMS[name] if lr is None else replace(SYSTEMS[name], lr=lr)
            policy, costs = train(system, demonstrations(seen, data, encoders), steps, hidden, seed)
            row = run | asdict(system) | costs
            for kind in words if system.reads and system.sees else ("right",):
                row[kind] = roll_out(system, policy, WORDS[kind], episodes, seed)
                print(json.dumps(row), flush=True)
            if keep:
                write_results("language", [*finished(), row])


if __name__ == "__main__":
    tyro.cli(main)
