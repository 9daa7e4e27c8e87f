"""`action-heads evaluate-head`: what a head knows of motion it was not trained on, beside heads that know less.

Three questions, each with the answer of a random head of the same shape: how well does it denoise (by noise level and
mechanism), are its unconditional chunks motion, and how few sampling steps does it need? Nothing here is conditioned:
whether a task can steer the head is for a policy's roll-outs to tell.

Axes: b chunks, h horizon, a action, T diffusion steps.
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
BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the noise's share of a noisy chunk's variance
STEPS, FEW_STEPS = 10, (1, 2, 4)  # of sampling, and how few may do
BATCHES = 8  # of the loss, for its standard error
FLOOR_DRAWS = 8  # of held-out chunks, compared with each other


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure what a head knows of held-out motion: a table, evaluation.json, evaluation.md and evaluation.png.

    Attributes:
        head: name, folder or Hub id of the head.
        data: source whose held-out split to use; repeat it for several; those of the head's record if none is given.
        against: another head to measure beside it and a random one; repeat it for several.
        out: folder of the results; the head's own folder, or outputs/evaluate-<name> where it is not a local folder.
        chunks: held-out chunks for the losses, in equal parts from all sources.
        samples: chunks to sample, and held-out chunks to compare them with.
    """

    head: str
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    against: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    out: Path | None = None
    chunks: int = 512
    samples: int = 192

    def __post_init__(self):
        for name, least in (("chunks", BATCHES * 2), ("samples", 8)):
            if isinstance(value := getattr(self, name), int) and value < least:
                raise ValueError(f"{name} must be at least {least} for a mean with an error, got {value}")

    @property
    def folder(self) -> Path:
        """Return the folder of the results."""
        if self.out is not None:
            return self.out
        local = Path(self.head).expanduser()
        return local if local.is_dir() else Path("outputs") / f"evaluate-{self.head.rsplit('/', 1)[-1]}"


class HeldOut:
    """Held-out chunks in robot units, the same ones whoever asks and whenever.

    An endless source such as synthetic motion is held out by its generator alone, which no trainer's stream meets.
    """

    def __init__(self, specs: Sequence[str], space: ActionSpace, horizon: int):
        self.space, self.horizon = space, horizon
        self.sources = {spec: data.mixture((spec,), data.window(space, horizon), "held_out") for spec in specs}

    @property
    def episodes(self) -> dict[str, int]:
        """Return the number of held-out episodes of each recorded source."""
        counts = {spec: source.record[0].get("episodes") for spec, source in self.sources.items()}
        return {spec: int(count) for spec, count in counts.items() if count}

    def draw(self, n: int, number: int) -> dict[str, Tensor]:
        """Draw `number`: n chunks (b h a) in all, in equal parts by source."""
        drawn = {}
        for i, (spec, source) in enumerate(self.sources.items()):
            share = n // len(self.sources) + (i < n % len(self.sources))
            drawn[spec], _ = data.chunks(source(share, generator("evaluation", 0, number)), self.space)
            self.space.validate(drawn[spec], self.horizon)
        return drawn


def evaluate(config: EvaluateConfig, command: str = "") -> dict[str, Any]:
    """Measure, write the files to `config.folder`, print the table, and return what evaluation.json holds."""
    began = time.monotonic()
    head = ActionHead.from_pretrained(config.head)
    specs = config.data or tuple(head.config.training.get("data", ()))
    if not specs:
        raise ValueError(
            f"the record of {config.head} names no data to evaluate it on: it is random, or was not made by "
            "`action-heads pretrain`. Say what to use, for example --data recorded:panda"
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
        mechanisms = each.config.mechanisms
        few = mechanisms[:1] if label == "random" else mechanisms  # random is random by any mechanism
        sampled = {m: sample(each, config.samples, STEPS, m) for m in few}
        paths[label] = sampled[mechanisms[0]]
        results["heads"][label] = {
            "fingerprint": each.fingerprint(),
            "parameters": each.num_parameters,
            "mixes_time": each.backbone.mixes_time,
            "loss": {s: {m: own_loss(each, x, m)._asdict() for m in mechanisms} for s, x in for_losses.items()},
            **denoising(each, for_losses, units),
            "samples": {m: _means(chunk_measures(x, space, far)) for m, x in sampled.items()},
            "distance": {m: _distance(x, real, units) for m, x in sampled.items()},
            "distance_by_steps": {
                str(n): _distance(sample(each, config.samples, n, mechanisms[0]), real, units) for n in FEW_STEPS
            }
            | {str(STEPS): _distance(sampled[mechanisms[0]], real, units)},
        }
    results["seconds"] = round(time.monotonic() - began, 1)
    text = evaluation_report.markdown(results)
    contents = {
        "evaluation.json": (json.dumps(results, indent=2) + "\n").encode(),
        "evaluation.md": text.encode(),
        "evaluation.png": evaluation_report.draw(results, paths, space),
    }
    files.write_together(config.folder, contents)
    print(f"{text}\nwritten to {config.folder}: {', '.join(contents)}")
    return results


def sample(head: ActionHead, n: int, steps: int, mechanism: str) -> Tensor:
    """Unconditional chunks (n h a), from the same noise for every head; never more steps than the head has."""
    steps = min(steps, head.config.objective.train_steps)
    return head.sample(n, mechanism=mechanism, steps=steps, generator=noise_generator())


@torch.no_grad()
def own_loss(head: ActionHead, actions: Tensor, mechanism: str) -> Mean:
    """Return the head's own training loss on chunks (b h a), unconditional, in its own normalised units."""
    rng, x0 = noise_generator(), head.normalizer.normalize(actions)
    losses = [objective.loss(head, None, part, None, mechanism, rng) for part in x0.chunk(BATCHES)]
    return Mean.of(torch.stack(losses))


@torch.no_grad()
def noise_generator() -> torch.Generator:
    """Return the generator of the noise: the same for every head, and not the one that drew the chunks."""
    return generator("evaluation noise", 0)


def clean_errors(head: ActionHead, actions: Tensor, mechanism: str, units: Normalizer) -> tuple[Tensor, Tensor]:
    """Return the error of the clean chunk that the head predicts: mean squares (b,), and noise shares (b,).

    In `units`, whatever the head's own and whatever it predicts, so that heads can be compared. Every head meets the
    same noise, spread evenly over its noise levels.
    """
    modulation = head.modulation_of(mechanism)
    rng, n = noise_generator(), len(actions)
    t = (torch.arange(n) * head.config.objective.train_steps // n)[torch.randperm(n, generator=rng), None]
    noise = head.noise(n, rng)
    x0 = head.normalizer.normalize(actions)
    x_t = corrupt(head, x0, Noise(t, noise))
    output = head.predict(x_t, head.step_values(modulation, t), modulation)
    error = (head.objective.to_x0(output, x_t, t) - x0) * (head.normalizer.scale / units.scale)
    power = (head.objective.alpha[t].square(), head.objective.sigma[t].square())
    return error.square().mean((1, 2)), (power[1] / (power[0] + power[1])).squeeze(1)


def denoising(head: ActionHead, chunks: dict[str, Tensor], units: Normalizer) -> dict[str, Any]:
    """`error`: by source and mechanism, over all noise and in `BANDS`; `curve`: by noise, of the first mechanism."""
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
    """Measure real chunks in the same way: their measures, the distance of draws, the error of the mean chunk."""
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


def _distance(actions: Tensor, real: Tensor, units: Normalizer) -> dict[str, float]:
    return energy_distance(units.normalize(actions), units.normalize(real))._asdict()


def _means(values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    return {name: Mean.of(each)._asdict() for name, each in values.items()}


def _label(name: str, given: str, taken: Collection[str] = ()) -> str:
    """Return a head's label in the table: its own name, or what the user typed where that says more."""
    return given if name == "unnamed" or name in taken else name


def _comparable(other: ActionHead, head: ActionHead) -> ActionHead:
    ours, theirs = ((h.config.horizon, h.config.space.parts, h.config.space.mode) for h in (head, other))
    if ours != theirs:
        raise ValueError(
            f"{other.config.name} makes chunks of {theirs[0]} {theirs[2]} actions {theirs[1]}, {head.config.name} of "
            f"{ours[0]} {ours[2]} actions {ours[1]}: their errors can't stand in one table. Evaluate it on its own"
        )
    return other
