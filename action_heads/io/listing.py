"""How large a head is, counted one way everywhere, and a line for each bundled head.

Read from shapes alone, without torch: `action-heads heads` answers at once.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
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


def lines() -> Iterator[str]:
    """Describe each bundled head in a line."""
    for name, folder in hub.bundled().items():
        c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        space, dim = c["space"], sum(width for _, width in c["space"]["parts"])
        counts = sizes_of_file(folder / "model.safetensors")
        yield (
            f"{name}: {c['backbone']} {c['width']}x{c['depth']}, chunks of {c['horizon']} x {dim} ({space['mode']}), "
            f"predicts {c['objective']['prediction']}, adapters {', '.join(c['mechanisms'])}"
            f"{', motion code of {} numbers'.format(c['rank']) if c['coded'] else ''}; "
            f"{counts.total:,} parameters, {counts.denoiser:,} of them the denoiser"
        )
