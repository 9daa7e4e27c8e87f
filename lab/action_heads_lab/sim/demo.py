"""Run `action-heads demo`: record demonstrations, train adapters on a frozen head, roll out, and compare.

Axes: n samples, c condition, h horizon, a action, e episodes.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads import ActionHead, __version__
from action_heads._util.flags import check_choices, check_least, check_positive
from action_heads._util.names import nearest
from action_heads.adapters import ADAPTERS
from action_heads.adapters.config import THROUGH, AdapterConfig
from action_heads.fit import FitConfig, fit
from action_heads.io import files, locks
from action_heads.modes import MODES
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab.policies import BLIND, actor, on_states
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.record import check_simulator, record
from action_heads_lab.sim.report import Row, draw, save_trial, smooth, table
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import get_task

RUNS = MODES | {
    "random-relearned": "as random-frozen, but the modulation of the head trains too: the strongest random control",
    **BLIND,
}
# The modes of runs that are not named after a mode.
MODE_OF = {"random-relearned": "random-frozen", "blind": "decoupled"}


@dataclass(frozen=True)
class DemoConfig:
    """Record demonstrations, train adapters on a frozen head, roll out, and compare with controls.

    Attributes:
        task: Lift, Stack, PickPlaceCan, PickPlaceMilk, PickPlaceBread, PickPlaceCereal, NutAssemblySquare, ...
        head: bundled name, folder or Hub id of the head; the result is also saved in a folder, for the head's card.
        adapter: film, adaln_zero or adarmsnorm.
        through: where the adapter acts: code (a few thousand parameters), blocks (as in the paper), or both.
        hidden: width of the adapter's network that reads the condition; 0 for the default of the head.
        runs: runs to compare, in this order; random-relearned and normal can be added.
        demos: number of demonstrations to record; 0 for the default of the task.
        steps: training steps of each run; 0 for the default of the task.
        lr: peak learning rate; 1e-2 suits small adapters, 2.5e-3 large ones (through blocks or both).
        episodes: number of episodes to roll out for each run, from starts that are not in the demonstrations; 0 for 50,
            or 10 with quick.
        seed: seed of demonstrations and training; rollouts always start from seeds 0, 1, 2, ...
        quick: for a first look, where no number is given: a sixth of the demonstrations and steps, and 10 episodes.
        device: device to train on: cpu or cuda.
        out: folder of the results; by default outputs/demo-<task>.
    """

    task: str = "Lift"
    head: str = "dae/mixer-5m-fk"
    adapter: str = "adaln_zero"
    through: str = "code"
    hidden: int = 64
    runs: tuple[str, ...] = ("decoupled", "random-frozen", "blind")
    demos: int = 0
    steps: int = 0
    lr: float = 1e-2
    episodes: int = 0
    seed: int = 0
    quick: bool = False
    device: str = "cpu"
    out: Path | None = None

    def __post_init__(self):
        if unknown := [name for name in self.runs if name not in RUNS]:
            near = nearest(unknown[0], RUNS)
            raise ValueError(f"unknown run {', '.join(unknown)}{near}; choose from {', '.join(RUNS)}")
        check_choices(self, adapter=ADAPTERS, through=THROUGH)
        check_least(self, 0, "hidden", "demos", "steps", "episodes", "seed")
        check_positive(self, "lr")
        get_task(self.task)

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.out or Path("outputs") / f"demo-{self.task.lower()}{'-quick' if self.quick else ''}"


SHOWS = (
    "How to read this: decoupled is the pretrained, frozen head with a trained adapter. If it succeeds more often\n"
    "than blind, the policy uses its observations. If it succeeds more often than random-frozen, pretraining helps.\n"
    "Where two intervals overlap, these episodes do not show a difference."
)

# Demonstrations and training steps of a task. The last entry holds for all tasks that are not listed.
EFFORT = {"Lift": (100, 600), "Stack": (200, 4000), "": (200, 4000)}


def demo(config: DemoConfig, command: str = "action_heads_lab.sim.demo") -> list[Row]:
    """Run the demo, and write table, figure, video, adapter and all results to `config.folder`.

    Raises:
        InUse: another process writes to the folder.
    """
    check_simulator(config.task)
    with locks.held(config.folder):
        return _demo(config, command)


def _demo(config: DemoConfig, command: str) -> list[Row]:
    demos, steps = EFFORT.get(config.task, EFFORT[""])
    share = 6 if config.quick else 1
    demos, steps = config.demos or demos // share, config.steps or steps // share
    config = dataclasses.replace(config, episodes=config.episodes or (10 if config.quick else 50))
    out = config.folder
    head = ActionHead.from_pretrained(config.head, device=config.device)
    print(head)
    began = time.monotonic()
    recording = record(config.task, demos, seed=config.seed, path=out / f"{config.task}-{demos}-{config.seed}.npz")
    recorded = time.monotonic() - began
    print(recording)
    rows = []
    for name in config.runs:
        print(f"\n{name}: {RUNS[name]}")
        rows.append(run(name, config, head, recording, steps, out / name))
        print(rows[-1])
    minutes = (recorded + sum(row.seconds for row in rows)) / 60
    title = f"{config.task}, {demos} demonstrations, {steps} training steps, {config.adapter} through {config.through}"
    text = f"{title}\n\n{table(rows)}\n\n{SHOWS}"
    print(f"\n{text}\n\n{minutes:.1f} minutes on {platform.machine()} with {torch.get_num_threads()} threads")
    record_of = {
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "demonstrations": demos,
        "steps": steps,
        "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "head": {"name": head.config.name, "fingerprint": head.fingerprint()},
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    texts = {"table.md": text + "\n", "results.json": json.dumps(record_of, indent=2) + "\n"}
    files.write_texts(out, texts)
    draw(rows, f"{config.task}: {demos} demonstrations", out / "results.png")
    if (folder := Path(config.head)).is_dir():
        save_trial(folder, head, rows, title, command)
    print(
        f"\nResults: {out}/results.png, {out}/table.md"
        + (f", {out}/decoupled/rollouts.mp4" if "decoupled" in config.runs else "")
    )
    return rows


def run(name: str, config: DemoConfig, pretrained: ActionHead, recording: Demonstrations, steps: int, out: Path) -> Row:
    """Train and roll out one row of the table. A finished row is loaded instead."""
    fitting = FitConfig(steps=steps, lr=config.lr, seed=config.seed)
    settings = {"task": config.task, "adapter": [config.adapter, config.through, config.hidden]}
    settings |= {"episodes": config.episodes, "demos": len(recording), "head": pretrained.fingerprint()}
    settings |= {"fit": dataclasses.asdict(fitting), "device": config.device, "version": __version__}
    if (out / "row.json").exists():
        saved = read_row(out / "row.json")
        if saved and saved[1] == settings:
            print(f"loaded from {out / 'row.json'}")
            return saved[0]
    cond, actions, is_pad = (torch.from_numpy(np.asarray(part)) for part in recording.chunks(pretrained.config.horizon))
    observed = build(name, config, pretrained, cond, actions)
    policy = observed.policy
    began = time.monotonic()
    losses = fit(
        policy,
        actions,
        observed.condition(state=cond[:, None]),
        is_pad=is_pad,
        config=fitting,
        description=f"{name}: training",
    )
    trained = time.monotonic() - began
    if policy.head is pretrained:  # a random head is not saved, so its adapter could not be loaded
        policy.save_adapter(out / "adapter")
    act = actor(observed, config.task, torch.Generator(config.device).manual_seed(config.seed))
    video = out / "rollouts.mp4" if name == "decoupled" else None
    result = rollout(config.task, act, range(config.episodes), video=video, description=f"{name}: rolling out")
    row = Row(
        name=name,
        frozen=policy.num_frozen,
        trainable=policy.num_trainable,
        successes=int(result.success.sum()),
        episodes=len(result.success),
        steps_to_success=float(result.length[result.success].mean()) if result.success.any() else None,
        training_seconds=round(trained, 1),
        seconds=round(time.monotonic() - began, 1),
        losses=[round(x, 5) for x in smooth(losses)],
    )
    files.write_text(out / "row.json", json.dumps(dataclasses.asdict(row) | {"settings": settings}) + "\n")
    return row


def read_row(path: Path) -> tuple[Row, Any] | None:
    """Return a finished row and its settings, or None with a printed note if the file is damaged."""
    try:
        saved = files.read_json(path)
        settings = saved.pop("settings")
        row = Row(**saved)
        table([row])  # fails if a value has a wrong type
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RecursionError) as error:
        print(f"{path} is damaged, so its row is run again ({error})")
        return None
    return row, settings


def build(name: str, config: DemoConfig, pretrained: ActionHead, state: Tensor, actions: Tensor) -> ObservedPolicy:
    """Return the untrained policy of a row. Rows differ only in the head and in which parameters train."""
    adapter = AdapterConfig(
        config.adapter,
        hidden_dim=config.hidden or None,
        through=config.through,
        # The modulation of a random head is noise. One control uses it as it is, the other trains it.
        relearn_step=name == "random-relearned",
    )
    head = pretrained.in_mode(MODE_OF.get(name, name), seed=config.seed)
    return on_states(head, adapter, state, actions, config.seed, blind=name in BLIND)
