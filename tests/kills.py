"""Kill runs at random moments and restart them; they must leave the same files as an undisturbed run.

    uv run python tests/kills.py --kills 50                 # alternates between pretrain, adapt and record

A reader loads the folder all the time, since whatever is visible must be complete. Runs are forked from this process,
which has imported everything, so that kills hit work instead of imports. It runs nothing itself: once a library has
started threads (Arrow, OpenMP), a process that is forked may hang for ever. Recording draws random episodes in place of
simulating them, since the simulation writes no files.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "adapt"), str(Path(__file__).parent)]
os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}  # one thread, or a process must not be forked

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from action_heads import ActionHead, ObservedPolicy  # noqa: E402
from action_heads.adapt.run import adapt  # noqa: E402
from action_heads.io import files  # noqa: E402
from action_heads.pretrain import trainer  # noqa: E402
from action_heads.pretrain.loop import pretrain  # noqa: E402
from action_heads.pretrain.settings import PretrainConfig  # noqa: E402
from action_heads.training import curve  # noqa: E402
from action_heads.training.optimiser import OptimiserConfig  # noqa: E402

# The bytes of these files depend on time and speed.
TIMED = {"config.json", "README.md", "policy.json", "results.json", "state.json"}


def quick_figure(curves: dict, path: Path, title: str) -> None:
    """Return a file in place of the figure of the curves, whose drawing takes longer than a run."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, format="PNG")
    files.write_together(path.parent, {path.name: picture.getvalue()})


def run_pretrain(out: Path, work: Path) -> None:
    pretrain(
        PretrainConfig(
            **{
                "out": out,
                "arch": "mlp",
                "width": 16,
                "depth": 2,
                "save_every": 2,
                "precision": "fp32",
                "name": "test",
            },
            optimiser=OptimiserConfig(steps=16, batch_size=8),
        )
    )


def run_adapt(out: Path, work: Path) -> None:
    from recorded import tiny

    shape = {"encoder": "none", "cameras": (), "steps": 12, "save_every": 2, "checkpoints": 3, "workers": 1}
    adapt(tiny(work, out=out, mode="random-frozen", **shape))


def run_record(out: Path, work: Path) -> None:
    from action_heads_lab.sim import dataset
    from action_heads_lab.sim.record import SEEDS, Episode

    def episodes(task, n, seed, noise, workers):
        time.sleep(0.1)
        return [Episode(SEEDS * (seed + 1) + i, True, *drawn(i)) for i in range(n)]

    def drawn(i: int) -> tuple[np.ndarray, ...]:
        rng, upright = np.random.default_rng(i), np.tile(np.float32([1, 0, 0, 0, 1, 0]), (20, 1))
        rest = [rng.normal(size=(20, n)).astype(np.float32) for n in (3, 14, 3, 1, 7)]
        observation, action = np.hstack([rest[0], upright, rest[1]]), np.hstack([rest[2], upright, rest[3]])
        return observation, action, rest[4]

    sys.modules["action_heads_lab.sim.record"]._record_episodes = episodes  # type: ignore[attr-defined]
    dataset.record_dataset(dataset.RecordConfig(task="Lift", out=out, demos=4))


RUNS: dict[str, Callable[[Path, Path], None]] = {
    "pretrain": run_pretrain,
    "adapt": run_adapt,
    "record": run_record,
}

TRAINING = ["accelerate", "tensorboardX", "torch._dynamo", "torch._inductor.config", "yaml"]
LATE_IMPORTS = {
    "pretrain": TRAINING,
    "adapt": TRAINING,
    "record": ["action_heads_lab.sim.dataset", "lerobot.datasets.lerobot_dataset"],
}


def read(out: Path) -> None:
    """Load everything in the folder, as a reader who knows nothing of the run."""
    if not out.is_dir():
        return
    for path in sorted(out.rglob("*")):
        try:
            if path.name.endswith(".tmp") or not path.is_file():
                continue
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                files.load_tensors(path)
            elif path.suffix == ".png":
                data = path.read_bytes()
                assert data.endswith(b"IEND\xaeB`\x82"), f"{path} is half a picture"
        except FileNotFoundError:
            pass  # It was removed, as older training states are.
        except files.WeightFileError:
            if path.exists():
                raise
    if (out / "config.json").exists():
        ActionHead.from_pretrained(out)
    if (out / "policy.json").exists():
        ObservedPolicy.from_pretrained(out)
    if (out / "meta").exists():
        episodes = json.loads((out / "meta" / "info.json").read_text())["total_episodes"]
        assert len(json.loads((out / "meta" / "recording.json").read_text())["seeds"]) == episodes


def forked(act: Callable[[], None], log: Path) -> int:
    """Start a process that appends its errors to `log`."""
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    forkable = [thread for thread in threads if thread != "jemalloc_bg_thd"]  # which starts again after a fork
    assert len(forkable) <= 1, f"{threads}: a process with threads may hang when it is forked"
    if pid := os.fork():
        return pid
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        act()
    except BaseException:
        with log.open("a") as file:
            file.write(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def keeps_reading(work: Path, name: str) -> None:
    while True:
        for place in sorted(work.glob(f"{name}-killed-*"))[-1:]:
            read(place / "out")
        time.sleep(0.1)


def left(place: Path) -> dict[str, str]:
    """Return every file below, hidden ones included, with a digest if its bytes must be the same."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_file() and "tensorboard" not in name:
            found[name] = "" if path.name in TIMED else digest(path)
    return found


def digest(path: Path) -> str:
    """Return a digest of a file, but only of the tensors of an adapter, whose pointer names a folder."""
    if path.name == "adapter.safetensors":
        return files.fingerprint(files.load_tensors(path)[0])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undisturbed(name: str, work: Path, log: Path) -> tuple[dict[str, str], float]:
    """Return the files of an undisturbed run, and its duration."""
    began = time.monotonic()
    place = work / f"{name}-whole"
    pid = forked(functools.partial(RUNS[name], place / "out", work), log)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"{name} fails even undisturbed:\n{log.read_text()}")
    return left(place), time.monotonic() - began


def kill_and_compare(name: str, kills: int, dice: random.Random, work: Path) -> dict[str, int]:
    """Kill the command `kills` times, starting in an empty folder whenever it finished, and count the readings."""
    log, attempts = work / f"{name}.log", itertools.count()
    whole, seconds = undisturbed(name, work, log)
    counts = {"kills": 0, "finished": 0, "drafts": 0}
    place = work / f"{name}-killed-{next(attempts):03}"
    reader = forked(lambda: keeps_reading(work, name), log)
    try:
        while True:
            pid = forked(functools.partial(RUNS[name], place / "out", work), log)
            if counts["kills"] < kills:
                time.sleep(dice.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
                counts["kills"] += 1
                counts["drafts"] += any(".tmp" in path for path in left(place))
                continue
            if status:
                raise SystemExit(f"{name} can't go on after {counts}:\n{log.read_text()}")
            counts["finished"] += 1
            again = left(place)
            if other := sorted(path for path in whole.keys() | again.keys() if whole.get(path) != again.get(path)):
                raise SystemExit(f"{name}, after {counts}, left other files than an undisturbed run: {other}")
            if counts["kills"] >= kills:
                return counts
            if dice.random() < 0.5:  # Otherwise the finished run would be run again.
                place = work / f"{name}-killed-{next(attempts):03}"
    finally:
        if os.waitpid(reader, os.WNOHANG) != (0, 0):
            raise SystemExit(f"a reader met something half-written:\n{log.read_text()}")
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)


def main() -> None:
    curve.draw_curve = quick_figure
    trainer.Trainer.evaluate.__wrapped__.__defaults__ = (1,)
    trainer.EVALUATED = 64
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50, help="of each command")
    options.add_argument("--runs", nargs="*", default=list(RUNS), choices=RUNS)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # Its thread may hold a lock while a process is forked.
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, given.runs)
        for name in given.runs:
            counts = kill_and_compare(name, given.kills, random.Random(given.seed), work)
            finished = f"finished {counts['finished']} times and left the same files"
            print(f"{name}: {counts['kills']} kills, of which {counts['drafts']} left a draft; {finished}", flush=True)


def prepare(work: Path, runs: list[str]) -> None:
    """Make the data, and import what a run imports late, so that forked processes spend no time on imports."""
    if "adapt" in runs:
        from recorded import hdf5
        from small import tiny_head

        hdf5(work / "demos.hdf5")
        tiny_head().save_pretrained(work / "head")
    for name in runs:
        for module in LATE_IMPORTS[name]:
            importlib.import_module(module)


if __name__ == "__main__":
    main()
