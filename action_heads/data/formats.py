"""The readers of all formats, and `open_recording`, which opens a recording with its observations."""

from __future__ import annotations

from action_heads.data.lerobot import LeRobot
from action_heads.data.npz import Npz
from action_heads.data.recording import Recording
from action_heads.data.robomimic import Robomimic
from action_heads.data.spec import OBSERVED, Spec

READERS: dict[str, type[Recording]] = {"npz": Npz, "lerobot": LeRobot, "robomimic": Robomimic}

__all__ = ["READERS", "Recording", "open_recording"]


def open_recording(spec: Spec) -> Recording:
    """Open a recording for Stage 2, and check its episodes, tasks and columns.

    Raises:
        ValueError: the format has no observations.
        BadData: the recording is damaged or contradicts itself.
    """
    if spec.kind not in OBSERVED:
        raise ValueError(f"{spec} has no observations. Stage 2 reads lerobot:FOLDER_OR_REPO and robomimic:FILE.hdf5.")
    return READERS[spec.kind](spec, observed=True)
