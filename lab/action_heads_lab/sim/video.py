"""Write several episodes side by side to one mp4.

Axes: t frames, s x s pixels, RGB uint8.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from action_heads._util.extras import require
from action_heads.io.drafts import drafted
from action_heads_lab.sim.envs import CONTROL_HZ

BORDER = 6  # pixels
RUNNING, SUCCESS, FAILURE = (40, 40, 40), (60, 180, 75), (220, 50, 47)


def write_grid(path: str | Path, clips: list[tuple[np.ndarray, bool]], fps: int = CONTROL_HZ) -> None:
    """Write a grid of `clips`, each (frames (t, s, s, 3), success). Ended clips show their last frame and outcome."""
    imageio = require("imageio.v2", extra="sim")
    columns = math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    blank = np.zeros_like(clips[0][0][0])
    # The video stands still for half a second at the end, so that the last outcome can be seen.
    longest = max(len(frames) for frames, _ in clips) + fps // 2
    # x264 halves the colour planes, so it needs even sizes. macro_block_size=2 stops imageio from requiring 16.
    with drafted(path) as draft, imageio.get_writer(draft, format="FFMPEG", fps=fps, macro_block_size=2) as writer:
        for t in range(longest):
            tiles = [_tile(frames, success, t) for frames, success in clips]
            tiles += [blank] * (rows * columns - len(tiles))
            lines = [np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
            writer.append_data(np.concatenate(lines, axis=0))


def _tile(frames: np.ndarray, success: bool, t: int) -> np.ndarray:
    """Return the image (s, s, 3) of a clip at frame t, with a border that shows the outcome after its end."""
    over = t >= len(frames) - 1
    tile = np.empty_like(frames[0])
    tile[:] = (SUCCESS if success else FAILURE) if over else RUNNING
    inside = slice(BORDER, -BORDER)
    tile[inside, inside] = frames[min(t, len(frames) - 1)][inside, inside]
    return tile
