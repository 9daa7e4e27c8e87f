"""Sizes of heads, counted one way everywhere, and a table of the bundled heads.

Read from their files alone, without torch: `action-heads heads` answers at once.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads._util.mixing import MIXES_TIME
from action_heads.io import hub
from action_heads.io.sources import DROID, origin


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

    def size_in(self, name: str) -> str | None:
        """Return the size in a head's name, in millions, if there is one that the denoiser has when it is rounded."""
        found = re.search(r"-(\d+(?:\.(\d+))?)m(?=-|$)", name)
        if found is None or round(self.denoiser / 1e6, len(found[2] or "")) != float(found[1]):
            return None
        return found[1]

    def text(self, name: str) -> str:
        """Return all counts as text for the card of a head of this name."""
        modulation = ", ".join(f"{count:,} for {mechanism}" for mechanism, count in self.modulation.items())
        named = " (the size in the head's name)" if self.size_in(name) else ""
        return f"{self.total:,}: {self.denoiser:,} in the denoiser{named}; in the modulation {modulation}"


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
        ms: median time of a chunk of ten denoising steps at batch 1; None if it was not measured.
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
        """Read config.json, the header of model.safetensors, latency.json and trial.json."""
        config, latency, trial = (
            json.loads(path.read_text(encoding="utf-8")) if (path := folder / f"{stem}.json").is_file() else {}
            for stem in ("config", "latency", "trial")
        )
        weights = folder / "model.safetensors"
        return cls(
            name,
            sizes_of_file(weights),
            weights.stat().st_size,
            config["space"]["mode"],
            MIXES_TIME[config["backbone"]],
            min((row["ms"] for row in latency.get("results", ())), default=None),
            {origin(row["source"]): row["share"] for row in config["training"]["sources"]},
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
    """What a user may want of a head: which heads have it, in which order, and where the evidence is.

    Attributes:
        has: whether a head has it.
        worth: a number by which heads are sorted, the smallest first.
        alike: largest difference of that number that tells nothing, such as measurements vary by.
        evidence: where all this comes from, for the user.
    """

    has: Callable[[Entry], bool]
    worth: Callable[[Entry], float]
    alike: Callable[[float], float]
    evidence: str

    def ranked(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the heads that have it, best first. Those that are not told apart are sorted by `suits`."""
        groups: list[list[Entry]] = []
        for entry in sorted(filter(self.has, entries), key=self.worth):
            best = self.worth(groups[-1][0]) if groups else -math.inf
            if groups and self.worth(entry) - best <= self.alike(best):
                groups[-1].append(entry)
            else:
                groups.append([entry])
        return [entry for group in groups for entry in sorted(group, key=suits)]


def suits(entry: Entry) -> tuple[float, ...]:
    """Return by what the head that suits most tasks comes first.

    It mixes time steps, knows general motion, predicts absolute actions, and is large.
    """
    return not entry.keeps_mode, _droid(entry), entry.actions != "absolute", -entry.counts.denoiser


def _slow(entry: Entry) -> float:
    return math.inf if entry.ms is None else entry.ms


def _fails(entry: Entry) -> float:
    """Return the share of episodes that fail on Lift; of a head without a trial more than all."""
    won, tried = entry.trial.get("decoupled", (-1, 1))
    return 1 - won / tried


def _droid(entry: Entry) -> float:
    return sum(share for source, share in entry.motion.items() if source in DROID)


def _none(best: float) -> float:
    return 0.0


def _by_time(has: Callable[[Entry], bool], evidence: str) -> Want:
    # Medians of one head, measured twice on a shared machine, differ by as much.
    return Want(has, _slow, lambda best: 0.05 * best, f"{evidence}. Times within 5 % count as equal")


def _on_lift(actions: str, more: str = "") -> Want:
    return Want(
        lambda e: e.actions == actions,
        _fails,
        lambda best: 0.1 + 1e-9,  # five of 50: by Fisher's exact test at 5 %
        "the action space in config.json; sorted by successes on Lift in trial.json. Differences of five successes of "
        f"50 or fewer are within chance and count as equal{more}",
    )


WANTS = {
    "smallest": Want(
        lambda e: True,
        lambda e: e.bytes,
        lambda best: 0.01 * best,
        "the size of model.safetensors. Sizes within 1 % count as equal",
    ),
    "fastest": _by_time(lambda e: e.ms is not None, "latency.json: median time of a chunk, ten denoising steps"),
    "absolute": _on_lift(
        "absolute", ". Four of these heads were also run on PickPlaceCan, where more fail (docs/results/droid-heads.md)"
    ),
    "delta": _on_lift("delta"),
    "mode": _by_time(
        lambda e: e.keeps_mode,
        "the backbone, which mixes time steps, so that a chunk can follow one motion, and does so more often with an "
        "adapter through both paths than through the code (docs/results/backbones.md); sorted by time",
    ),
    "real-time": _by_time(
        lambda e: e.keeps_mode, "the backbone, which mixes time steps, as real-time chunking needs; sorted by time"
    ),
    "droid": Want(
        lambda e: _droid(e) > 0,
        lambda e: -_droid(e),
        _none,
        "the sources in config.json; sorted by the share of sources that contain or imitate DROID's motion. On "
        "held-out DROID episodes the loss of these heads is on average below that of their `fk` siblings, but not on "
        "every episode (docs/results/droid-heads.md)",
    ),
}


def entries(want: str | None = None) -> list[Entry]:
    """Return the bundled heads that have what is wanted, best first; all by name if nothing is."""
    found = [Entry.read(name, folder) for name, folder in hub.bundled().items()]
    return found if want is None else WANTS[want].ranked(found)


def table(want: str | None = None) -> str:
    """Return the bundled heads that have what is wanted as a Markdown table, best first."""
    rows = [COLUMNS, ("---", "---:", "---:", "---:", *["---"] * 4), *(entry.cells() for entry in entries(want))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def aligned(want: str | None = None) -> str:
    """Return the same table in aligned columns for a terminal, with the motion last, since it is long."""
    rows = [[cell.replace("`", "") for cell in row] for row in (COLUMNS, *(entry.cells() for entry in entries(want)))]
    last = COLUMNS.index("motion of Stage 1")
    rows = [[*row[:last], *row[last + 1 :], row[last]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
