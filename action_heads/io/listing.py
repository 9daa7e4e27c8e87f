"""Parameter counts of heads, and a line for each bundled head.

Counts are read from shapes without importing torch, so that `action-heads heads` answers at once.
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
    """The parameter counts of a head.

    Attributes:
        denoiser: parameters of the backbone with its step embedding. The size in a head's name is this count: "5m"
            stands for 4,782,346.
        modulation: parameters of the head's own modulation, by mechanism. A policy uses one mechanism.
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
    """Count parameters by the names of a head's tensors. Tensors of other parts are statistics and do not count."""
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
    """Count the parameters in a head's model.safetensors from its header: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sizes({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})


def lines() -> Iterator[str]:
    """Yield a line that describes each bundled head."""
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
