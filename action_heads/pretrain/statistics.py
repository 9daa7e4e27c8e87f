"""`action-heads statistics`: the statistics of a recording's motion, which shape synthetic motion to it.

A lab can pretrain a head for its own motion on a machine that never sees its recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from action_heads._util.flags import Shown
from action_heads.data import Spec, open_windows
from action_heads.io import files
from action_heads.kinematics.statistics import MotionStatistics


@dataclass(frozen=True)
class StatisticsConfig:
    """Write the statistics of a recording's motion, which shape Stage 1's synthetic motion to it.

    `action-heads pretrain --data synthetic:FILE.json` makes motion with them.

    Attributes:
        data: a recording with the joints of a known arm.
        out: the file to write.
        credit: whose the recording is, and its licence; the file carries it.
    """

    data: Annotated[str, Shown("none: it is needed", "SOURCE")] = ""
    out: Path = Path("statistics.json")
    credit: str = ""

    def __post_init__(self):
        if not self.data:
            raise ValueError("--data is missing. Name a recording, such as lerobot:REPO_OR_FOLDER.")
        if Spec.parse(self.data).kind == "synthetic":
            raise ValueError(f"--data {self.data} is not a recording. Name one, such as lerobot:REPO_OR_FOLDER.")
        if self.out.suffix != ".json":
            raise ValueError(f"--out {self.out} must end in .json, by which `synthetic:` knows statistics.")


def statistics(config: StatisticsConfig) -> MotionStatistics:
    """Measure all episodes of the recording and write the file."""
    spec = Spec.parse(config.data)
    table = open_windows(spec, 1, "all").trajectories
    hours = table.lengths.sum() / table.rate_hz / 3600
    about = f"{spec}: {len(table)} episodes, {hours:.2f} hours at {table.rate_hz:g} Hz"
    found = MotionStatistics.of(table, spec.options.get("arm", "panda"), about, config.credit)
    files.write_text(config.out, found.to_json())
    print(f"{about}\nwrote {config.out}; next:\n    action-heads pretrain --data synthetic:{config.out} ...")
    return found
