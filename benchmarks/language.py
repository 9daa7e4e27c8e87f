"""Do words decide which cube is lifted? Policies of the task two_cubes, rolled out with right, wrong and no words.

Every episode has the instruction of a red or of a green cube, at random positions. A policy reads its words through a
frozen MiniLM. It observes either the poses of both cubes ("states"), or two cameras through a frozen MobileNetV2
("images"). All systems train on the same conditions, for as many training steps. What is in
benchmarks/results/language.json is not measured again.

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

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from action_heads_lab.sim.interval import error_bars, interval_text, wilson
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.two_cubes import CUBES, colour, other
from common import DOCS, check_known, check_row, fill, read_results, row_of, stamped, table, with_row, write_results
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from action_heads import ActionHead, ConditionedHead, HeadConfig, Normalizer
from action_heads.adapt.build import Built, build
from action_heads.adapt.settings import AdaptConfig, Text, Vision
from action_heads.adapters.condition_reader import Standardizer
from action_heads.adapters.config import AdapterConfig
from action_heads.diffusion.objectives import ObjectiveConfig
from action_heads.encoders.text import folder_content
from action_heads.encoders.trunk import IMAGENET_MEAN, IMAGENET_STD
from action_heads.fit import FitConfig, fit
from action_heads.io.contents import combined, sampled_all
from action_heads.observed_policy import ObservedPolicy

TASK, HEAD, CAMERAS = "two_cubes", "dae/mlp-0.7m-fk", ("agentview", "robot0_eye_in_hand")
EXECUTE, AT_ONCE, DENOISING = 8, 8, 10
PIXELS, SIDE, FEATURES = 128, 224, 192  # pixels of a recorded image and of the network's; coordinates of 96 keypoints
NEUTRAL = "lift the cube"  # names neither
Say = Callable[[str], str]
WORDS: dict[str, Say] = {"right": str, "wrong": other, "none": lambda _: NEUTRAL}

SAID = {"right": "right words", "wrong": "wrong words", "none": "no words"}


@dataclass(frozen=True)
class System:
    """A part that trains, and its data."""

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


@dataclass(frozen=True)
class Observer:
    """The frozen encoders of all systems, from observations to a condition.

    Attributes:
        policy: a policy whose encoder standardises the state and reads the words with MiniLM.
        look: MobileNetV2, from images (b 3 H W) to features (b f); None for policies of states.
    """

    policy: ObservedPolicy
    look: Callable[[Tensor], Tensor] | None

    @property
    def cameras(self) -> dict[str, int]:
        """The pixels of every camera that is seen."""
        return dict.fromkeys(CAMERAS, PIXELS) if self.look else {}

    def see(self, images: np.ndarray) -> Tensor:
        """Return the features (b f) of a camera's images (b H W 3)."""
        assert self.look is not None
        return self.look(torch.from_numpy(images).permute(0, 3, 1, 2))

    @torch.no_grad()
    def condition(self, words: list[str], state: Tensor, features: list[Tensor]) -> Tensor:
        """Return the condition (b c) for the state (b d) and the features (b f) of every camera."""
        cond = self.policy.condition(state=state[:, None], task=words)
        assert isinstance(cond, Tensor)
        return torch.cat([cond, *features], dim=-1)

    def statistics(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation (c) by which adapters standardise conditions like these (N c)."""
        standard: Any = self.policy.policy.adapter.standard
        if not self.cameras:
            return standard.mean, standard.std
        images = Standardizer(len(self.cameras) * FEATURES)
        images.fit(cond[:, len(standard.mean) :])
        return torch.cat([standard.mean, images.mean]), torch.cat([standard.std, images.std])


class Demonstrations(NamedTuple):
    """The training data of all systems."""

    observer: Observer
    cond: Tensor  # (N c)
    neutral: Tensor  # (N c), with words that name no cube
    actions: Tensor  # (N h a)
    is_pad: Tensor  # (N h)


def keypoints(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return a frozen MobileNetV2 that makes each channel of its last map of stride 16 a keypoint (x, y).

    The softmax over the map is of three times the channel, standardised, so that its largest values decide.
    """
    model = AutoModel.from_pretrained(folder).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    y, x = (grid.flatten() for grid in torch.meshgrid(*[torch.linspace(-1, 1, SIDE // 16)] * 2, indexing="ij"))

    @torch.no_grad()
    def look(images: Tensor) -> Tensor:
        pixels = F.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)
        maps = model(pixel_values=(pixels - mean) / std, output_hidden_states=True).hidden_states
        last = [each for each in maps if each.shape[-1] == SIDE // 16][-1].flatten(2)
        p = (3 * F.layer_norm(last, last.shape[-1:])).softmax(-1)
        return torch.cat([p @ x, p @ y], dim=-1)

    return look


@cache
def read(observe: str, data: Path, encoders: Path) -> Built:
    """Read a recording. `inputs` also has hashes of the images and of their network, if these are observed."""
    images = observe == "images"
    state = ("observation.state",) if images else ("observation.state", "observation.environment_state")
    settings: dict[str, Any] = {"observation_steps": 1, "held_out": 0.0, "workers": 0}
    built = build(
        AdaptConfig(
            data=f"lerobot:{data}",
            head=HEAD,
            state=state,
            vision=Vision("none"),
            text=Text(str(encoders / "minilm")),
            **settings,
        )
    )
    if not images:
        return built
    files = sampled_all(built.windows.recording.image_paths(CAMERAS))
    own = {"--data (images)": combined(files), "--encoders": folder_content(str(encoders / "mobilenetv2"))}
    return built._replace(inputs=built.inputs | own)


@cache
def demonstrations(observe: str, data: Path, encoders: Path) -> Demonstrations:
    """Encode a recording."""
    policy, windows, *_ = read(observe, data, encoders)
    observer = Observer(policy.eval(), keypoints(encoders / "mobilenetv2") if observe == "images" else None)
    recording = windows.recording
    rows = [windows[i] for i in range(len(windows))]
    said = [recording.tasks[row["task"]] for row in rows]
    features = []
    for camera in observer.cameras:
        episodes = (recording.images_of(camera, i, np.arange(n)) for i, n in enumerate(recording.lengths))
        features.append(torch.cat([observer.see(images) for images in episodes]))
    cond, neutral = (observer.condition(words, windows.state, features) for words in (said, [NEUTRAL] * len(rows)))
    actions, is_pad = (torch.stack([row[key] for row in rows]) for key in ("actions", "is_pad"))
    return Demonstrations(observer, cond, neutral, actions, is_pad)


def train(system: System, data: Demonstrations, steps: int, hidden: int, seed: int) -> tuple[ConditionedHead, dict]:
    """Train a system, and return its policy with its costs."""
    cond = data.cond if system.reads else data.neutral
    head = system.head(seed)
    torch.manual_seed(seed)
    settings = AdapterConfig(system.mechanism, hidden_dim=hidden, through=system.through)
    adapter = settings.make(cond.shape[1])
    adapter.standard.set(*data.observer.statistics(data.cond))  # type: ignore[operator]
    policy = head.attach(adapter, normalizer=Normalizer.fit(data.actions, head.config.space, margin=0.05))
    began = time.process_time()
    config = FitConfig(steps=steps, lr=system.lr, seed=seed)
    losses = fit(policy, data.actions, cond if system.sees else 0 * cond, is_pad=data.is_pad, config=config)
    return policy.eval(), {
        "trained": policy.num_trainable,
        "training_cpu_seconds": round(time.process_time() - began),
        "loss": round(float(np.mean(losses[-50:])), 4),
    }


def roll_out(
    system: System, policy: ConditionedHead, observer: Observer, say: Say, episodes: int, seed: int
) -> dict[str, Any]:
    """Return how many episodes lifted the named cube and the other one, in all and by colour."""
    noise = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def act(seen: dict[str, np.ndarray]) -> np.ndarray:
        words = [say(str(sentence)) if system.reads else NEUTRAL for sentence in seen["instruction"][:, -1]]
        features = [observer.see(seen[camera][:, -1]) for camera in observer.cameras]
        cond = observer.condition(words, torch.from_numpy(seen["state"][:, -1]), features)
        return policy.sample(cond if system.sees else 0 * cond, generator=noise, steps=DENOISING).numpy()

    outcome = rollout(
        TASK,
        act,
        range(episodes),
        execute=EXECUTE,
        batch=AT_ONCE,
        workers=1,
        progress=False,
        sight=Sight(observer.policy.contract.state, observer.cameras, steps=1, apart=True),
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


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write the table and the figure of docs/results/language.md."""

    def lifted(row: dict[str, Any], kind: str) -> str:
        if kind not in row:
            return ""
        found = row[kind]
        return f"{found['named']} ({interval_text(*wilson(found['named'], found['episodes']))}) / {found['other']}"

    header = ["observes", "system", *SAID.values(), "trained parameters", "training, CPU s"]
    costs = [(f"{row['trained']:,}", str(row["training_cpu_seconds"])) for row in rows]
    words = [[lifted(row, kind) for kind in WORDS] for row in rows]
    cells = [[row["observe"], row["system"], *words[i], *costs[i]] for i, row in enumerate(rows)]
    fill(DOCS / "language.md", {"results": table(header, cells, 2)})
    colours = {"named": "#2a6f97", "other": "#e09f3e"}
    figure, axes = plt.subplots(1, len(WORDS), figsize=(9, 3.4), sharey=True, layout="constrained")
    for ax, kind in zip(axes, WORDS, strict=True):
        at = np.flatnonzero([kind in row for row in rows])
        for i, which in enumerate(colours):
            found = [error_bars(rows[j][kind][which], rows[j][kind]["episodes"]) for j in at]
            shares, errors = zip(*found, strict=True)
            style: dict[str, Any] = {"color": colours[which], "error_kw": {"lw": 0.8}}
            ax.barh(at + 0.4 * i - 0.2, shares, 0.4, xerr=np.hstack(errors), label=f"lifts the {which} cube", **style)
        ax.set(title=SAID[kind], xlim=(0, 1), yticks=range(len(rows)))
        ax.set_yticklabels([f"{row['system']}, {row['observe']}" for row in rows])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(DOCS / "language.png", dpi=120)
    plt.close(figure)


def kept() -> list[dict[str, Any]]:
    """Return the runs so far."""
    return read_results("language", [])


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
    for given, known in ((observe, ("states", "images")), (systems, SYSTEMS), (words, WORDS)):
        check_known(given, known)
    torch.set_num_threads(1)
    for seen in observe:
        for name in systems:
            run = {"observe": seen, "system": name, "steps": steps, "hidden": hidden, "seed": seed}
            system = SYSTEMS[name] if lr is None else replace(SYSTEMS[name], lr=lr)
            before = row_of(kept() if keep else [], run)
            row = before or run
            kinds = words if system.reads and system.sees else ("right",)
            whole = row.keys() >= {*kinds}
            if whole and "inputs" not in row:  # of an earlier release, so there is nothing to compare
                continue
            inputs = read(seen, data, encoders).inputs
            check_row("language", row, run, inputs)
            if whole:
                continue
            shown = demonstrations(seen, data, encoders)
            policy, costs = train(system, shown, steps, hidden, seed)
            row = asdict(system) | costs | row | {"inputs": inputs}
            if row["loss"] != costs["loss"]:
                raise ValueError(f"the run so far has a loss of {row['loss']}, this one of {costs['loss']}: {run}")
            for kind in (kind for kind in kinds if kind not in row):
                row[kind] = roll_out(system, policy, shown.observer, WORDS[kind], episodes, seed)
                print(json.dumps(row), flush=True)
                if keep:
                    write_results("language", with_row(kept(), run, stamped(row, before)))
    if keep:
        write_page(kept())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
