"""Run `action-heads evaluate-head`: measure a head on held-out motion, and compare it with a random head.

Three questions are answered for the head and for a random head of the same shape: how well does it denoise, by noise
level and mechanism; do its unconditional chunks resemble motion; and how few denoising steps does it need? Nothing is
conditioned here. Only the rollouts of a policy show whether an adapter can direct the head to a task.

Axes: b chunks, h horizon, a action.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from action_heads import evaluation_tables
from action_heads._util.flags import check_least, flag
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.diffusion.loss import Noise, corrupt
from action_heads.head import ActionHead
from action_heads.io import files
from action_heads.modes import random_like
from action_heads.pretrain import data, evaluation_report, objective
from action_heads.pretrain.measures import Mean, chunk_measures, energy_distance, reach
from action_heads.training.streams import generator

VERSION = 1
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # limits of the noise's share of a noisy chunk's variance
STEPS, FEW_STEPS = 10, (1, 2, 4)  # denoising steps, and smaller numbers of them to compare
BATCHES = 8  # batches of the loss, for its standard error
FLOOR_DRAWS = 8  # draws of held-out chunks that are compared with the first one


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a head on held-out motion, and write evaluation.json, evaluation.md and evaluation.png.

    Attributes:
        head: name, folder or Hub id of the head.
        data: source whose held-out split to use; repeat it for several; by default the sources the head was trained on.
        against: another head to compare with, besides a random one; repeat it for several.
        out: folder of the results; by default the head's folder, or outputs/evaluate-<name> if it is not local.
        chunks: held-out chunks for the losses, in equal parts from all sources.
        samples: number of chunks to sample, and of held-out chunks to compare them with.
    """

    head: str
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    against: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    out: Path | None = None
    chunks: int = 512
    samples: int = 192

    def __post_init__(self):
        check_least(self, BATCHES * 2, "chunks")  # Fewer give no standard error.
        check_least(self, 8, "samples")

    @property
    def folder(self) -> Path:
        """Return the folder of the results."""
        if self.out is not None:
            return self.out
        local = Path(self.head).expanduser()
        return local if local.is_dir() else Path("outputs") / f"evaluate-{self.head.rsplit('/', 1)[-1]}"


class HeldOut:
    """Held-out chunks in robot units, which are the same for every head and in every run.

    An endless source, such as synthetic motion, has no held-out episodes. Its chunks are drawn from a random stream
    that no training run uses.
    """

    def __init__(self, specs: Sequence[str], space: ActionSpace, horizon: int):
        self.space, self.horizon = space, horizon
        self.sources = {spec: data.Mixture((spec,), data.window(space, horizon), "held_out") for spec in specs}

    @property
    def episodes(self) -> dict[str, int]:
        """Return the number of held-out episodes of each recorded source."""
        counts = {spec: source.record[0].get("episodes") for spec, source in self.sources.items()}
        return {spec: int(count) for spec, count in counts.items() if count}

    def draw(self, n: int, number: int) -> dict[str, Tensor]:
        """Return the draw of this number by source: n chunks (b h a) in total, in equal parts."""
        drawn = {}
        for i, (spec, source) in enumerate(self.sources.items()):
            share = n // len(self.sources) + (i < n % len(self.sources))
            drawn[spec], _ = data.chunks(source(share, generator("evaluation", 0, number)), self.space)
            self.space.validate(drawn[spec], self.horizon)
        return drawn


def evaluate(config: EvaluateConfig, command: str = "") -> dict[str, Any]:
    """Measure a head, write the results to `config.folder`, print the tables, and return the content of the JSON."""
    began = time.monotonic()
    head = ActionHead.from_pretrained(config.head)
    specs = config.data or tuple(head.config.training.get("data", ()))
    if not specs:
        raise ValueError(
            f"the record of {config.head} names no data to evaluate it on, since it is random or was not made by "
            "`action-heads pretrain`. Name the data, for example --data synthetic:panda"
        )
    for name in ("chunks", "samples"):
        if (count := getattr(config, name)) < len(specs):
            with flag(name):
                raise ValueError(
                    f"{count} are fewer than the {len(specs)} sources. Raise it, or name fewer with --data"
                )
    heads = {_label(head.config.name, config.head): head}
    for name in config.against:
        other = ActionHead.from_pretrained(name)
        heads[_label(other.config.name, name, taken=heads)] = _comparable(other, head)
    heads["random"] = random_like(head, "random", seed=0).freeze()

    held_out = HeldOut(specs, head.config.space, head.config.horizon)
    for_losses = held_out.draw(config.chunks, 0)
    real = torch.cat(list(held_out.draw(config.samples, 1).values()))
    units, space = head.normalizer, head.config.space
    far = reach(torch.cat([*for_losses.values(), real]), space) if space.slices("position") else 0.0
    results: dict[str, Any] = {
        "version": VERSION,
        "head": next(iter(heads)),
        "fingerprint": head.fingerprint(),
        "command": command,
        "data": list(specs),
        "episodes": held_out.episodes,
        "mode": space.mode,
        "task_boxes": head.config.training.get("settings", {}).get("task_boxes", 0.0),
        "chunks": config.chunks,
        "samples": config.samples,
        "reach_m": far,
        "held_out": _held_out_row(held_out, for_losses, real, units, far, config.samples),
        "heads": {},
    }
    paths = {"held out": real}
    for label, each in heads.items():
        # A random head is the same under every mechanism.
        few = each.config.mechanisms[:1] if label == "random" else each.config.mechanisms
        results["heads"][label], paths[label] = _head_row(each, few, for_losses, real, units, far)
    results["seconds"] = round(time.monotonic() - began, 1)
    text = evaluation_tables.markdown(results)
    contents = {
        "evaluation.json": (json.dumps(results, indent=2) + "\n").encode(),
        "evaluation.md": text.encode(),
        "evaluation.png": evaluation_report.draw(results, paths, space),
    }
    files.write_together(config.folder, contents)
    print(f"{text}\nwritten to {config.folder}: {', '.join(contents)}")
    return results


def sample(head: ActionHead, n: int, steps: int, mechanism: str) -> Tensor:
    """Sample unconditional chunks (n h a) from the same noise for every head, in at most the steps that it has."""
    steps = min(steps, head.config.objective.train_steps)
    return head.sample(n, mechanism=mechanism, steps=steps, generator=noise_generator())


@torch.no_grad()
def own_loss(head: ActionHead, actions: Tensor, mechanism: str) -> Mean:
    """Return the head's unconditional training loss on chunks (b h a), in its own normalised units."""
    rng, x0 = noise_generator(), head.normalizer.normalize(actions)
    losses = [objective.loss(head, None, part, None, mechanism, rng) for part in x0.chunk(BATCHES)]
    return Mean.of(torch.stack(losses))


def noise_generator() -> torch.Generator:
    """Return a generator of the same noise for every head. It is independent of the one that draws the chunks."""
    return generator("evaluation noise", 0)


@torch.no_grad()
def clean_errors(head: ActionHead, actions: Tensor, mechanism: str, units: Normalizer) -> tuple[Tensor, Tensor]:
    """Return the mean squared error (b,) of the predicted clean chunks, and the noise's share of the variance (b,).

    The error is in `units`, whatever the units and the prediction of the head, so that heads can be compared. Every
    head gets the same noise, spread evenly over its noise levels.
    """
    modulation = head.modulation_of(mechanism)
    rng, n = noise_generator(), len(actions)
    t = (torch.arange(n) * head.config.objective.train_steps // n)[torch.randperm(n, generator=rng), None]
    noise = head.noise(n, rng)
    x0 = head.normalizer.normalize(actions)
    x_t = corrupt(head, x0, Noise(t, noise))
    output = head.predict(x_t, head.step_values(modulation, t), modulation)
    error = (head.objective.to_x0(output, x_t, t) - x0) * (head.normalizer.scale / units.scale)
    power = [share.square() for share in head.objective.shares(t)]
    return error.square().mean((1, 2)), (power[1] / (power[0] + power[1])).squeeze(1)


def denoising(head: ActionHead, chunks: dict[str, Tensor], units: Normalizer) -> dict[str, Any]:
    """Return the `error` by source and mechanism, overall and in `BANDS`, and its `curve` over the share of noise."""
    error: dict[str, dict] = {}
    curve = []
    for spec, actions in chunks.items():
        error[spec] = {}
        for mechanism in head.config.mechanisms:
            errors, share = clean_errors(head, actions, mechanism, units)
            band = torch.bucketize(share, torch.tensor(BANDS[1:-1]))
            bands = [Mean.of(errors[band == i])._asdict() if (band == i).any() else None for i in range(len(BANDS) - 1)]
            error[spec][mechanism] = {"all": Mean.of(errors)._asdict(), "bands": bands}
            if mechanism == head.config.mechanisms[0]:
                curve.append(torch.stack([share, errors]))
    share, errors = torch.cat(curve, dim=1)
    groups = share.argsort().chunk(10)
    points = [{"noise": float(share[g].mean()), **Mean.of(errors[g])._asdict()} for g in groups]
    return {"error": error, "curve": points}


def _held_out_row(
    held_out: HeldOut, chunks: dict[str, Tensor], real: Tensor, units: Normalizer, far: float, samples: int
) -> dict[str, Any]:
    """Return the measures of real chunks, the distance between draws of them, and the error of the mean chunk."""
    space = held_out.space
    others = [torch.cat(list(held_out.draw(samples, 2 + i).values())) for i in range(FLOOR_DRAWS)]
    floor = torch.tensor([energy_distance(units.normalize(x), units.normalize(real)).mean for x in others])
    centre = units.normalize(torch.cat(others)).mean(0)
    off = {spec: (units.normalize(x) - centre).square().mean((1, 2)) for spec, x in chunks.items()}
    return {
        "samples": {spec: _means(chunk_measures(x, space, far)) for spec, x in chunks.items()},
        "floor": Mean.of(floor)._asdict() | {"largest": float(floor.max())},
        "mean_chunk_error": _means(off),
    }


def _head_row(
    head: ActionHead, few: Sequence[str], chunks: dict[str, Tensor], real: Tensor, units: Normalizer, far: float
) -> tuple[dict[str, Any], Tensor]:
    """Return the measures of a head, sampled with the mechanisms `few`, and the samples (n h a) with the first one."""
    mechanisms = head.config.mechanisms
    sampled = {m: sample(head, len(real), STEPS, m) for m in few}
    by_steps = {n: sample(head, len(real), n, mechanisms[0]) for n in FEW_STEPS}
    by_steps[STEPS] = sampled[mechanisms[0]]
    row = {
        "fingerprint": head.fingerprint(),
        "parameters": head.num_parameters,
        "mixes_time": head.backbone.mixes_time,
        "loss": {s: {m: own_loss(head, x, m)._asdict() for m in mechanisms} for s, x in chunks.items()},
        **denoising(head, chunks, units),
        "samples": {m: _means(chunk_measures(x, head.config.space, far)) for m, x in sampled.items()},
        "distance": {m: _distance(x, real, units) for m, x in sampled.items()},
        "distance_by_steps": {str(n): _distance(x, real, units) for n, x in by_steps.items()},
    }
    return row, by_steps[STEPS]


def _distance(actions: Tensor, real: Tensor, units: Normalizer) -> dict[str, float]:
    return energy_distance(units.normalize(actions), units.normalize(real))._asdict()


def _means(values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {name: Mean.of(each)._asdict() for name, each in values.items()}


def _label(name: str, given: str, taken: Collection[str] = ()) -> str:
    """Return a head's label in the tables: its own name, or the given one if that is missing or taken."""
    return given if name == "unnamed" or name in taken else name


def _comparable(other: ActionHead, head: ActionHead) -> ActionHead:
    ours, theirs = ((h.config.horizon, h.config.space.parts, h.config.space.mode) for h in (head, other))
    if ours != theirs:
        raise ValueError(
            f"{other.config.name} makes chunks of {theirs[0]} {theirs[2]} actions {theirs[1]}, but {head.config.name} "
            f"makes chunks of {ours[0]} {ours[2]} actions {ours[1]}, so their errors cannot be compared. Leave out "
            f"--against {other.config.name}, and evaluate it on its own"
        )
    return other
