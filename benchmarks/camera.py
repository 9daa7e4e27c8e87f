"""Stand for the driver of a camera: write frames into shared memory, resize each, and encode it for a recording.

    uv run benchmarks/camera.py /dev/shm/camera    # until it is killed

`control_loop.py` starts it beside a policy that acts. A file in /dev/shm is shared memory.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, SMALL, RATE = 480, 640, 224, 30  # pixels, and frames a second
# Each image has two places, which take turns, so that a reader of the newest one does not see it half written.
LAYOUT = np.dtype([("count", "i8"), ("frame", "u1", (2, HEIGHT, WIDTH, 3)), ("small", "u1", (2, SMALL, SMALL, 3))])


class Frames:
    """The memory that the camera shares with its readers.

    Args:
        path: File of the memory. The camera creates it; a reader waits until it holds a first frame.
        camera: Whether this is the camera.
    """

    def __init__(self, path: Path, camera: bool = False):
        if camera:
            path.write_bytes(bytes(LAYOUT.itemsize))
        while not path.exists() or path.stat().st_size < LAYOUT.itemsize:
            time.sleep(0.01)
        self.memory = np.memmap(path, dtype=LAYOUT, mode="r+", shape=())
        while not camera and not self.count:
            time.sleep(0.01)

    @property
    def count(self) -> int:
        """Number of frames that were written."""
        return int(self.memory["count"])

    def newest(self) -> np.ndarray:
        """Return a copy of the newest resized image (224 224 3)."""
        return self.memory["small"][self.count % 2].copy()

    def write(self, frame: np.ndarray, small: np.ndarray) -> None:
        """Write a frame (480 640 3) and its resized image, and then count it."""
        count = self.count + 1
        self.memory["frame"][count % 2], self.memory["small"][count % 2] = frame, small
        self.memory["count"] = count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("/dev/shm/camera"))
    frames = Frames(parser.parse_args().file, camera=True)
    scene = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(scene).resize((WIDTH, 2 * HEIGHT)))  # smooth, so that it is encoded as a photo
    due = time.monotonic()
    while True:
        row = frames.count % HEIGHT
        image = Image.fromarray(scene[row : row + HEIGHT])  # moves by a row from frame to frame
        frames.write(np.asarray(image), np.asarray(image.resize((SMALL, SMALL))))
        image.save(io.BytesIO(), "JPEG", quality=90)
        due = max(due + 1 / RATE, time.monotonic())  # a camera drops the frames that its driver has no time for
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
