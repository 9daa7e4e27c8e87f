"""Run `action-heads statistics`: write the statistics of a recording's motion, by which to shape synthetic motion.

With them a head can be pretrained for the motion of a lab on a machine that does not have its recordings.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from action_heads._util.flags import Shown
from action_heads._util.paths import path_from
from action_heads.data import Spec, open_windows
from action_heads.data.spec import RECORDED
from action_heads.io import files
from action_heads.kinematics.statistics import MotionStatistics


@dataclass(frozen=True)
class StatisticsConfig:
    """Write the statistics of a recording's motion, by which Stage 1 can shape synthetic motion.

    `action-heads pretrain --data synthetic:FILE.json` generates motion with these statistics.

    Attributes:
        data: recording with the joints of a known arm.
        out: file to write.
        credit: owner and licence of the recording, which the file states.
    """

    data: Annotated[str, Shown("none; required", "SOURCE")] = ""
    out: Path = Path("statistics.json")
    credit: str = ""

    def __post_init__(self):
        if not self.data:
            raise ValueError("--data is missing. Name a recording, such as lerobot:FOLDER_OR_REPO")
        if Spec.parse(self.data, RECORDED).kind == "synthetic":
            raise ValueError(f"--data {self.data} is not a recording. Name one, such as lerobot:FOLDER_OR_REPO")
        if self.out.suffix != ".json":
            raise ValueError(f"--out {self.out} must end in .json, by which synthetic:FILE is recognised")


def statistics(config: StatisticsConfig) -> MotionStatistics:
    """Measure all episodes of the recording, write the file, and return the statistics."""
    spec = Spec.parse(config.data)
    table = open_windows(spec, 1, "all").trajectories
    hours = table.lengths.sum() / table.rate_hz / 3600
    about = f"{spec}: {len(table)} episodes, {hours:.2f} hours at {table.rate_hz:g} Hz"
    found = MotionStatistics.of(table, about, config.credit)
    if table.arm is not None and table.arm.file is not None:
        found = replace(found, arm=path_from(table.arm.file, config.out))
    files.write_text(config.out, found.to_json())
    given = shlex.quote(f"synthetic:{config.out}")
    print(f"{about}\nwrote {config.out}; next:\n    action-heads pretrain --data {given} ...")
    return found
