"""Run the Stage 2 benchmark: rank heads without a robot, always beside random-frozen and normal training.

A cell is one head, one adapter, one task, one budget and one seed. Its results are errors on held-out demonstrations
and, if `episodes` is set, closed-loop success. Finished cells are kept in outputs/stage2/cells, so that a killed
benchmark can go on. Several processes may share the cells with --share 0/2, 1/2. STAGE2_OUT names another folder than
outputs/stage2.

    uv run benchmarks/stage2.py heads [NAME ...] [--share 0/2]     # first pretrains the heads that the studies compare
    uv run benchmarks/stage2.py STUDY [--share 0/2] [--device cuda]     # the studies are in stage2_studies.py
    uv run benchmarks/stage2_report.py     # makes tables and figures of all finished cells

Axes: n samples, c condition, h horizon, a action.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from action_heads_lab.reproduce.families import once
from action_heads_lab.sim.record import record
from action_heads_lab.sim.report import smooth
from action_heads_lab.sim.rollout import rollout
from common import command_line, machine
from stage2_studies import HEADS, STUDIES, Cell
from torch import Tensor

from action_heads import ActionHead, ConditionedHead, Normalizer, golden
from action_heads._util.progress import progress_bar
from action_heads.adapters import ADAPTERS
from action_heads.adapters.config import AdapterConfig
from action_heads.counts import match_trainable
from action_heads.fit import FitConfig, fit
from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig

OUT = Path(os.environ.get("STAGE2_OUT") or "outputs/stage2")
DEMOS = {"Lift": 220, "Stack": 220, "PickPlaceCan": 120}  # Recorded; the last HELD_OUT of each validate.
HELD_OUT = 20
SAMPLED = 512  # Chunks sampled for the action error.
STEPS = {name: settings["steps"] for name, settings in HEADS.items()}  # of Stage 1, unless --steps changes them


@dataclass(frozen=True)
class Data:
    """Conditions, actions and padding of the demonstrations for training, and of those held out."""

    train: tuple[Tensor, Tensor, Tensor]
    held_out: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def load(cls, task: str, demos: int) -> Data:
        total = DEMOS[task]
        path = OUT / f"{task}-{total}.npz"
        with once(path):  # processes that share the cells wait for the one that records
            recording = record(task, total, path=path)
        chunks = [torch.from_numpy(np.asarray(part)) for part in recording.chunks()]
        used, rest = (int(recording.episode_length[:n].sum()) for n in (demos, total - HELD_OUT))
        return cls(tuple(part[:used] for part in chunks), tuple(part[rest:] for part in chunks))  # type: ignore[arg-type]


def folder_of(head: str) -> Path:
    """Return the folder of a head. If --steps has changed its training, the folder is named after the steps too."""
    steps = HEADS[head]["steps"]
    return OUT / "heads" / (head if steps == STEPS[head] else f"{head}-{steps}")


def pretrained(name: str) -> ActionHead:
    """Return a head, which is trained in the first call and loaded afterwards."""
    config = PretrainConfig.from_flat(HEADS[name] | {"out": folder_of(name), "name": name})
    if not (config.folder / golden.NAME).exists():
        pretrain(config, "benchmarks/stage2.py heads")
    return ActionHead.from_pretrained(config.folder)


def head_of(cell: Cell) -> ActionHead:
    """Return the head of a cell: pretrained, or random with standard initialisation."""
    if cell.mode == "decoupled":
        return pretrained(cell.head)
    torch.manual_seed(1000 + cell.seed)
    # A random head has no meaning for a code, but gets the same paths, so that adapters of one size are compared.
    random = replace(PretrainConfig.from_flat(HEADS[cell.head]).head(), coded=True)
    if cell.width:
        random = replace(random, width=cell.width, rank=min(random.rank, 2 * cell.width))
    head = ActionHead(random)
    if cell.mode == "random-frozen-paper":
        with torch.no_grad():
            for p in head.backbone.embed.parameters():
                p.normal_()
    return head if cell.mode == "normal" else head.freeze()


def build(cell: Cell, data: Data, device: str) -> ConditionedHead:
    cond, actions, _ = data.train
    head = head_of(cell)
    torch.manual_seed(cell.seed)
    options = {"through": cell.through, "relearn_step": cell.relearn_step, "per_step": cell.per_step}
    if cell.trained:
        adapter = match_trainable(head, ADAPTERS[cell.adapter], cond.shape[1], cell.trained, **options)
    else:
        adapter = AdapterConfig(cell.adapter, hidden_dim=cell.hidden, **options).make(cond.shape[1])
    adapter.standardize(cond)
    return head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space, margin=0.05)).to(device)


@torch.no_grad()
def validate(policy: ConditionedHead, data: Data) -> dict[str, float]:
    """Return the denoising loss on held-out demonstrations, and the error of sampled chunks over 8 time steps."""
    device = policy.head.device
    cond, actions, is_pad = (part.to(device) for part in data.held_out)
    rows = torch.randint(len(cond), (2048,), generator=torch.Generator().manual_seed(1)).to(device)
    noise = torch.Generator().manual_seed(2)
    loss = policy.loss(actions[rows], cond[rows], is_pad=is_pad[rows], generator=noise).item()
    rows = rows[:SAMPLED]
    valid = ~is_pad[rows, :8]
    result = {"loss": loss}
    for steps in (1, 10):
        sampled = policy.sample(cond[rows], steps=steps, generator=torch.Generator().manual_seed(3))
        off = policy.normalizer.normalize(sampled) - policy.normalizer.normalize(actions[rows])
        result[f"error_{steps}"] = off[:, :8].square().mean(-1)[valid].mean().sqrt().item()
        result[f"mm_{steps}"] = 1e3 * (sampled - actions[rows])[:, :8, :3].norm(dim=-1)[valid].mean().item()
    return result


def run(cell: Cell, device: str, workers: int = 1) -> dict:
    data = Data.load(cell.task, cell.demos)
    policy = build(cell, data, device)
    cond, actions, is_pad = data.train
    config = FitConfig(
        steps=cell.steps,
        seed=cell.seed,
        lr=cell.lr,
        precision="bf16",
        levels=cell.levels,
        noise_samples=cell.noise_samples,
    )
    began = time.monotonic()
    losses = fit(policy, actions, cond, is_pad=is_pad, config=config, description=str(cell))
    row = {"trainable": policy.num_trainable, "frozen": policy.num_frozen, "seconds": round(time.monotonic() - began)}
    row |= {"train_loss": float(np.mean(losses[-50:])), "curve": smooth(losses)} | validate(policy, data)
    row["head"] = policy.head.fingerprint()
    if cell.episodes:
        generator = torch.Generator().manual_seed(cell.seed)

        def act(observed: np.ndarray) -> np.ndarray:
            return policy.sample(torch.from_numpy(observed).to(device), generator=generator).cpu().numpy()

        result = rollout(cell.task, act, range(cell.episodes), workers=workers, description=str(cell))
        row["successes"] = int(result.success.sum())
    return row


def path_of(cell: Cell) -> Path:
    """Return the file of a cell, named after everything that affects its result."""
    settings = json.dumps([cell.settings(), HEADS[cell.head]], sort_keys=True)
    return OUT / "cells" / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.json"


def shortened(cells: list[Cell], **changes: int | None) -> list[Cell]:
    """Return cells with other numbers of steps, episodes or demonstrations, which makes them other cells.

    Stage 1 gets as many training steps as Stage 2.
    """
    given = {name: number for name, number in changes.items() if number}
    if steps := given.get("steps"):
        HEADS.update({name: HEADS[name] | {"steps": steps, "save_every": steps} for name in HEADS})
    return [replace(cell, **given) for cell in cells]  # type: ignore[arg-type]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("study", choices=("heads", *STUDIES))
    parser.add_argument("names", nargs="*", help="heads to train; by default all that a CPU can train")
    parser.add_argument("--cells", type=int, nargs="+", help="numbers of cells of the study; by default all")
    parser.add_argument("--steps", type=int, help="training steps of both stages in place of the study's")
    parser.add_argument("--episodes", type=int, help="episodes in place of the study's")
    parser.add_argument("--demos", type=int, help="demonstrations in place of the study's; no more are recorded")
    parser.add_argument("--workers", type=int, default=1, help="simulation processes of a cell")
    parser.add_argument("--share", default="0/1", help="share of the work of this process, such as 0/2 or 1/2")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main() -> None:
    args = options()
    mine, of = (int(part) for part in args.share.split("/"))
    if args.demos:
        DEMOS.update({task: int(args.demos) + HELD_OUT for task in DEMOS})
    study = shortened(STUDIES.get(args.study, []), steps=args.steps, episodes=args.episodes, demos=args.demos)
    if args.study == "heads":
        small = [name for name in HEADS if not name.startswith("DP-T ")]
        names = args.names or small
        for name in names[mine::of]:
            pretrained(name)
        return
    cells = study if args.cells is None else [study[number] for number in args.cells]
    for cell in progress_bar(cells[mine::of], desc=args.study):
        if not path_of(cell).exists():
            record_of = {"cell": asdict(cell), "stage1": HEADS[cell.head], "machine": machine()}
            result = run(cell, args.device, args.workers)
            files.write_text(path_of(cell), json.dumps(record_of | {"result": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
