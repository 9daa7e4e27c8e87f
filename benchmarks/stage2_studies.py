"""The heads and cells of every study of the Stage 2 benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from action_heads_lab.reproduce.studies import MECHANISMS, TOKENS

from action_heads.diffusion.levels import LEVELS


@dataclass(frozen=True)
class Cell:
    """A training run of an adapter or, in mode `normal`, of everything.

    `width` is that of a random head, for normal training at other sizes; 0 means the head's own. `trained` is a number
    of trained parameters, for which `hidden` is then chosen.
    """

    head: str = "base"
    mode: str = "decoupled"
    adapter: str = "adaln_zero"
    through: str = "both"
    hidden: int | None = None
    relearn_step: bool = False
    width: int = 0
    task: str = "Stack"
    demos: int = 200
    steps: int = 600
    lr: float = 2.5e-3
    seed: int = 0
    episodes: int = 0
    trained: int = 0
    levels: str = "uniform"
    noise_samples: int = 1
    per_step: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that affect the result, without newer ones at defaults, so that cells keep names."""
        later = {"trained": 0, "levels": "uniform", "noise_samples": 1, "per_step": False}
        return {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}

    def __str__(self) -> str:
        return f"{self.head} {self.mode} {self.adapter} {self.through} {self.hidden or ''} {self.task} {self.demos}"


# Stage 1 settings (`PretrainConfig`) of every head. They are small and short, so that many can be compared.
BASE: dict[str, Any] = {
    "width": 128,
    "depth": 4,
    "steps": 1500,
    "save_every": 1500,
    "mechanisms": ("adaln_zero",),
    "data": ("synthetic:panda",),
    "precision": "bf16",
}
HEADS: dict[str, dict[str, Any]] = {
    "base": BASE,
    "universal": BASE | {"mechanisms": ("film", "adaln_zero", "adarmsnorm")},
    "film": BASE | {"mechanisms": ("film",)},
    "adarmsnorm": BASE | {"mechanisms": ("adarmsnorm",)},
    "epsilon": BASE | {"prediction": "epsilon"},
    "v": BASE | {"prediction": "v"},
    "flow": BASE | {"prediction": "flow"},
    "joints": BASE | {"signal": "joints"},
    "pose": BASE | {"signal": "pose"},
    "none": BASE | {"signal": "none"},
    "recorded": BASE | {"data": ("recorded:panda",)},
    "both": BASE | {"data": ("synthetic:panda", "recorded:panda")},
    "mixer": BASE | {"arch": "mixer"},
}
SIZES = {"0.1m": (64, 4), "0.3m": (64, 8), "1m": (128, 8), "2m": (160, 8), "5m": (256, 8)}  # Width and depth.
HEADS |= {name: BASE | {"width": width, "depth": depth} for name, (width, depth) in SIZES.items()}

# The paper's Figure 3 uses one transformer whose Stage 1 is conditioned on joints.
TRANSFORMER = BASE | {"arch": "transformer", "signal": "joints", "steps": 1000, "save_every": 1000}
HEADS |= {f"transformer {m}": TRANSFORMER | {"mechanisms": (m,)} for m in MECHANISMS}
HEADS |= {f"DP-T {m}": TRANSFORMER | {"width": 256, "depth": 8, "steps": 20000, "mechanisms": (m,)} for m in MECHANISMS}

# The backbones of the paper's Table II, and `mixer`, with FiLM.
BACKBONES = {
    "DP-MLP": {},
    "mixer by FiLM": {"arch": "mixer"},
    "DP-T by FiLM": {"arch": "transformer"},
    "DP-C": {"arch": "unet", "width": 24, "depth": 3},
}
HEADS |= {
    name: BASE | {"mechanisms": ("film",), "steps": 1000, "save_every": 1000} | d for name, d in BACKBONES.items()
}

RUNS = (("Stack", 200, 0), ("Stack", 200, 1), ("Lift", 100, 0))  # Task, demonstrations, seed.
CODED = [name for name in HEADS if name not in ("joints", "pose", "none")]


def over_tasks(**changes: Any) -> list[Cell]:
    """Return a cell for every task, with two seeds on the harder one."""
    return [Cell(task=task, demos=demos, seed=seed, **changes) for task, demos, seed in RUNS]


def controls(**changes) -> list[Cell]:
    """Return cells of random-frozen runs, whose step modulation trains too, and of normal training."""
    frozen = over_tasks(mode="random-frozen", relearn_step=True, **changes)
    return frozen + over_tasks(mode="normal", **changes)


def paths(head: str, **changes) -> list[Cell]:
    """Return cells through the code and through both paths."""
    through = ("code", "both") if head in CODED else ("blocks",)
    return [cell for path in through for cell in over_tasks(head=head, through=path, **changes)]


ADAPTER_SIZES = [("code", h) for h in (16, 32, 128)] + [("blocks", h) for h in (8, 32, 128, 512)]


def lift(demos: int = 100, **changes: Any) -> Cell:
    """Return a cell on Lift that ends in 50 closed-loop episodes."""
    return Cell(task="Lift", demos=demos, steps=400, episodes=50, **changes)


def mechanisms(head: str, trained: int, **changes) -> list[Cell]:
    """Return cells of every mechanism and both controls, frozen as in the paper and with matched counts, by seed.

    In Stage 2 the paper trains everything whose shape differs from Stage 1: for modulation the whole generator,
    including the part for the noise level; for tokens only the map to them.
    """
    return [
        Cell(
            head=f"{head} {name}",
            mode=mode,
            adapter=name,
            through="blocks",
            relearn_step=not (matched or name in TOKENS or mode == "normal"),
            trained=trained if matched else 0,
            seed=seed,
            **changes,
        )
        for seed in range(3)
        for matched in (False, True)
        for mode in ("decoupled", "normal", "random-frozen")
        for name in MECHANISMS
    ]


STUDIES: dict[str, list[Cell]] = {
    # Figure 3 of the paper: the mechanisms that survive freezing. At full scale it needs a GPU.
    "mechanism": mechanisms("transformer", 40_000, task="Lift", demos=100, steps=400, lr=5e-3, episodes=25),
    "mechanism-full": mechanisms("DP-T", 1_000_000, task="Stack", demos=200, steps=20000, lr=1e-3, episodes=50),
    # Table II of the paper, on states: every backbone with FiLM, frozen as in the paper.
    "backbones": [
        lift(head=head, mode=mode, adapter="film", through="blocks", relearn_step=mode != "normal", lr=5e-3)
        for mode in ("decoupled", "normal", "random-frozen")
        for head in BACKBONES
    ],
    # The distribution of noise levels and their number per condition, beside samples of one step.
    "levels": [
        *(lift(through="code", hidden=32, lr=1e-2, levels=name) for name in LEVELS),
        lift(through="code", hidden=32, lr=1e-2, noise_samples=8),
        *(Cell(levels=name) for name in LEVELS),
        Cell(noise_samples=8),
    ],
    # (a) One head for all adapters, or one for each.
    "universal": [
        cell
        for adapter, own in (("film", "film"), ("adaln_zero", "base"), ("adarmsnorm", "adarmsnorm"))
        for head in ("universal", own)
        for cell in over_tasks(head=head, adapter=adapter)
        if cell.task == "Stack"
    ],
    # (b) The prediction target.
    "prediction": [cell for head in ("base", "epsilon", "v", "flow") for cell in paths(head)] + controls(),
    # (c) The condition of Stage 1.
    "signal": [
        *(cell for head in ("base", "joints", "pose", "none") for cell in over_tasks(head=head, through="blocks")),
        *paths("base"),
        *controls(),
    ],
    # (d) The motion of Stage 1.
    "data": [cell for head in ("base", "both", "recorded") for cell in paths(head)] + controls(),
    # (e) The size, with a small adapter in closed loop, and with a large one on harder tasks.
    "size": [
        *(
            lift(head=size, mode=mode, through="code", hidden=32, lr=1e-2, seed=seed)
            for size in SIZES
            for mode, seed in (("decoupled", 0), ("decoupled", 1), ("random-frozen", 0))
        ),
        *(Cell(head=size, through=path) for size in SIZES for path in ("code", "both")),
        *(Cell(head=size, mode="normal") for size in SIZES),
    ],
    # Closed loop on a task for which the other studies only measure the error.
    "stack": [
        Cell(steps=3000, episodes=50, mode=mode, through=path, hidden=hidden, relearn_step=relearn, lr=lr)
        for mode, path, hidden, relearn, lr in (
            ("decoupled", "code", 32, False, 1e-2),
            ("random-frozen", "code", 32, False, 1e-2),
            ("decoupled", "both", 128, False, 2.5e-3),
            ("random-frozen", "both", 128, True, 2.5e-3),
            ("normal", "both", None, False, 2.5e-3),
        )
    ],
    # (g) A code for every time step of a chunk, where one for all is not enough.
    "per_step": [
        Cell(steps=3000, episodes=50, mode=mode, through="code", hidden=32, lr=1e-2, per_step=per_step)
        for mode in ("decoupled", "random-frozen")
        for per_step in (False, True)
    ],
    # (f) Mixing of time steps.
    "mixer": [cell for head in ("base", "mixer") for cell in paths(head) + controls(head=head)],
    # (g) The expressiveness of the adapter, against success.
    "adapter": [
        *(lift(through=path, hidden=h) for path, h in ADAPTER_SIZES),
        *(lift(mode="random-frozen", through=path, hidden=h) for path, h in ADAPTER_SIZES),
        *(lift(mode="random-frozen", through="both", hidden=h, relearn_step=True) for h in (8, 32, 128)),
        # The paper's initialisation of a frozen random head has unscaled input maps.
        *(lift(mode="random-frozen-paper", through=path, hidden=h) for path, h in (("code", 32), ("blocks", 128))),
        # Another learning rate, for small adapters.
        *(lift(mode=m, through="code", hidden=h, lr=1e-2) for m in ("decoupled", "random-frozen") for h in (32, 16)),
        *(lift(mode="normal", through="both", width=w, lr=1e-2) for w in (8, 16)),
        *(lift(mode="random-frozen", through="blocks", hidden=h, lr=1e-2) for h in (32, 128)),
        *(lift(mode=m, through="blocks", hidden=8, lr=1e-2) for m in ("decoupled", "random-frozen")),
        *(lift(mode="random-frozen", through="both", hidden=h, relearn_step=True, lr=1e-2) for h in (8, 32)),
        lift(mode="random-frozen", through="code", hidden=128, lr=1e-2),
        *(lift(mode="normal", through="both", width=w) for w in (8, 16, 32, 128)),
    ],
    # (g) The number of demonstrations.
    "demonstrations": [
        lift(
            demos, mode=mode, through=path, hidden=hidden, relearn_step=relearn, lr=1e-2 if path == "code" else Cell.lr
        )
        for demos in (25, 10, 100)
        for mode, path, hidden, relearn in (
            ("decoupled", "code", 32, False),
            ("decoupled", "both", 128, False),
            ("random-frozen", "code", 32, False),
            ("random-frozen", "both", 128, True),
            ("normal", "both", None, False),
        )
    ],
}
STUDIES["all"] = list(dict.fromkeys(cell for cells in STUDIES.values() for cell in cells))
