"""How large a head is, counted one way everywhere, and a table of the bundled heads.

Read from their files alone, without torch: `action-heads heads` answers at once.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads.io import hub


@dataclass(frozen=True)
class Sizes:
    """Parameters of a head.

    Attributes:
        denoiser: of the network with its step embedding. It is what a size in a name means: 4,782,346 is "5m".
        modulation: mechanism -> those of the head's own modulation for it. A policy uses one of them.
    """

    denoiser: int
    modulation: dict[str, int]

    @property
    def total(self) -> int:
        """The number of all parameters."""
        return self.denoiser + sum(self.modulation.values())

    def __str__(self) -> str:
        modulation = ", ".join(f"{count:,} for {name}" for name, count in self.modulation.items())
        denoiser = f"{self.denoiser:,} in the denoiser (the size in the head's name)"
        return f"{self.total:,}: {denoiser}; in the modulation {modulation}"


def sizes(shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Count parameters by their names in a head; what belongs to neither part is statistics, not parameters."""
    denoiser, modulation = 0, {}
    for name, shape in shapes.items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            denoiser += math.prod(shape)
        elif part == "modulation":
            mechanism = rest.partition(".")[0]
            modulation[mechanism] = modulation.get(mechanism, 0) + math.prod(shape)
    return Sizes(denoiser, modulation)


def sizes_of_file(path: Path) -> Sizes:
    """Count the parameters of a head's model.safetensors by its header: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sizes({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})


@dataclass(frozen=True)
class Entry:
    """A bundled head, as its files describe it.

    Attributes:
        name: by which `from_pretrained` loads it.
        counts: its parameters.
        bytes: size of its weights' file.
        actions: "absolute" or "delta".
        keeps_mode: whether the backbone mixes time steps, so that a chunk follows one motion and can go on.
        ms: shortest time of a chunk of ten denoising steps at batch 1; None if it was not measured.
        motion: source of Stage 1 -> share; heads that this one goes on from included.
        trial: run -> successes and episodes on Lift; empty if there was no trial.
    """

    name: str
    counts: Sizes
    bytes: int
    actions: str
    keeps_mode: bool
    ms: float | None
    motion: dict[str, float]
    trial: dict[str, tuple[int, int]]

    @classmethod
    def read(cls, name: str, folder: Path) -> Entry:
        """Read config.json, the header of model.safetensors, evaluation.json, latency.json and trial.json."""
        config, evaluation, latency, trial = (
            json.loads(path.read_text(encoding="utf-8")) if (path := folder / f"{stem}.json").is_file() else {}
            for stem in ("config", "evaluation", "latency", "trial")
        )
        weights = folder / "model.safetensors"
        measured = evaluation.get("heads", {}).get(config["name"], {})
        return cls(
            name,
            sizes_of_file(weights),
            weights.stat().st_size,
            config["space"]["mode"],
            measured.get("mixes_time", config["backbone"] != "mlp"),
            min((row["ms"] for row in latency.get("results", ())), default=None),
            {row["source"].rpartition("@")[0] or row["source"]: row["share"] for row in config["training"]["sources"]},
            {row["name"]: (row["successes"], row["episodes"]) for row in trial.get("rows", ())},
        )

    def cells(self) -> tuple[str, ...]:
        """Return the entries of the table."""
        return (
            f"`{self.name}`",
            f"{self.counts.denoiser / 1e6:.1f}M",
            f"{self.bytes / 1e6:.1f}",
            "-" if self.ms is None else f"{self.ms:.1f}",
            self.actions,
            "yes" if self.keeps_mode else "no",
            ", ".join(f"{100 * share:.3g} % `{source}`" for source, share in self.motion.items()),
            " / ".join("{} of {}".format(*self.trial[run]) for run in RUNS if run in self.trial) or "-",
        )


RUNS = ("decoupled", "random-frozen")
COLUMNS = (
    "head",
    "denoiser",
    "MB",
    "ms per chunk",
    "actions",
    "mixes time steps",
    "motion of Stage 1",
    "successes on Lift: this head / a random head",
)


@dataclass(frozen=True)
class Want:
    """What a user may want of a head: which heads have it, in which order, and where the evidence is."""

    has: Callable[[Entry], bool]
    key: Callable[[Entry], float | tuple[float, ...]]
    evidence: str


def _slow(entry: Entry) -> float:
    return math.inf if entry.ms is None else entry.ms


def _fails(entry: Entry) -> tuple[float, ...]:
    """Return by what a head with more successes comes first, and of equal ones that with fewer on a random head."""
    own, random = (won / tried for won, tried in (entry.trial.get(run, (-1, 1)) for run in RUNS))
    return -own, random


def _mixing(purpose: str) -> Want:
    return Want(lambda e: e.keeps_mode, _slow, f"the backbone, which mixes time steps, {purpose}; sorted by time")


LIFT = (
    "the action space in config.json; sorted by trial.json: successes on Lift, then those of a random head. "
    "Differences of five successes of 50 or fewer are within chance"  # by Fisher's exact test at 5 %
)
WANTS = {
    "smallest": Want(lambda e: True, lambda e: e.bytes, "the size of model.safetensors"),
    "fastest": Want(lambda e: e.ms is not None, _slow, "latency.json: shortest time of a chunk, ten denoising steps"),
    "absolute": Want(lambda e: e.actions == "absolute", _fails, LIFT),
    "delta": Want(lambda e: e.actions == "delta", _fails, LIFT),
    "mode": _mixing("so that a chunk follows one motion"),
    "real-time": _mixing("as real-time chunking needs"),
    "droid": Want(
        lambda e: any("droid" in source for source in e.motion),
        lambda e: -sum(share for source, share in e.motion.items() if "droid" in source),
        "the sources in config.json; sorted by the share of sources that contain or imitate DROID's motion",
    ),
}


def entries(want: str | None = None) -> list[Entry]:
    """Return the bundled heads that have what is wanted, best first; all by name if nothing is."""
    found = [Entry.read(name, folder) for name, folder in hub.bundled().items()]
    if want is None:
        return found
    wanted = WANTS[want]
    return sorted(filter(wanted.has, found), key=wanted.key)


def table(want: str | None = None) -> str:
    """Return the bundled heads that have what is wanted as a Markdown table, best first."""
    rows = [COLUMNS, ("---", "---:", "---:", "---:", *["---"] * 4), *(entry.cells() for entry in entries(want))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
