"""Run Stage 1's reader on a simulated corpus of DROID's size: time, memory, chunks per second, processes, resume.

    uv run benchmarks/droid_size.py --episodes 76000        # or some parts, as in --parts first second
    uv run benchmarks/droid_size_report.py                  # the tables of docs/results/droid-size.md

Every part runs in a process of its own, with one thread of torch. The memory is that of /proc/PID/status: VmHWM is the
peak resident memory, which getrusage would give too, but getrusage counts the parent's memory before exec. RssAnon is
the part that no other process can share; the rest is mostly pages of the cache file, which all processes share.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import droid_corpus
import psutil
import torch
from common import command_line, times_to_keep, write_results

from action_heads._util.machine import cache_home
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import EE_ABSOLUTE
from action_heads.data import Spec, open_windows
from action_heads.pretrain import data
from action_heads.pretrain.batches import Batches

# First and second opening, chunks per second, and pretraining with one and with two processes.
PARTS = ("first", "second", "drawing", "one", "two")
HORIZON, BATCH, DRAWS = 16, 2048, 8
FLAGS = ["--arch", "mixer", "--size", "0.3m", "--batch-size", "64", "--steps", "30", "--save-every", "10"]
FLAGS += ["--precision", "fp32", "--workers", "1"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def memory(pid: int | str = "self") -> dict[str, float]:
    """Return the peak resident memory of a process, and the part of its memory that is its own now, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = {key: text.split()[0] for key, _, text in (line.partition(":") for line in lines) if text.strip()}
    return {"peak_mb": int(found["VmHWM"]) / 1e3, "own_mb": int(found["RssAnon"]) / 1e3}


class Clock:
    """Seconds since its making: of the wall, and of the processor in all threads of this process."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"seconds": round(wall, 4), "cpu_seconds": round(cpu, 4)}


def opening(spec: str) -> dict[str, Any]:
    """Open the corpus as pretraining does, once."""
    before, clock = memory(), Clock()
    windows = open_windows(Spec.parse(spec), HORIZON)
    found = clock.read() | {"imports_mb": before["peak_mb"]} | memory()
    return found | {"episodes": len(windows.trajectories), "windows": len(windows)}


def drawing(spec: str) -> dict[str, Any]:
    """Measure the chunks per second of one thread: of whole batches, of the source, and of synthetic motion."""
    windows = open_windows(Spec.parse(spec), HORIZON)
    actions, _ = data.chunks(windows(2000, torch.Generator().manual_seed(0)), EE_ABSOLUTE)
    batches = Batches(windows, EE_ABSOLUTE, Normalizer.fit(actions, EE_ABSOLUTE), "code", 0.5)
    draws: dict[str, Callable[[int, torch.Generator], object]] = {
        "batches": batches.draw,
        "source": windows,
        "windows without kinematics": lambda n, g: windows.gather(torch.randint(len(windows), (n,), generator=g)),
        "synthetic:droid": data.source("synthetic:droid", HORIZON),
    }
    found, drawn = {}, torch.Generator().manual_seed(1)
    for name, draw in draws.items():
        rates = []
        for _ in range(7):
            clock = Clock()
            for _ in range(DRAWS):
                draw(BATCH, drawn)
            rates.append({key: DRAWS * BATCH / value for key, value in clock.read().items()})
        middle = {key: int(sorted(rate[key] for rate in rates)[3]) for key in rates[0]}
        found[name] = {"per_second": middle["seconds"], "per_cpu_second": middle["cpu_seconds"]}
    return {"rates": found} | memory()


def part(name: str, spec: str) -> dict[str, Any]:
    """Run a part in a fresh process and return what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", name, "--spec", spec], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def pretrain(processes: int, spec: str, out: Path, killed_at: int = 0) -> dict[str, Any]:
    """Run `action-heads pretrain` and watch its processes. Kill all of them once step `killed_at` is saved."""
    launch = LAUNCH if processes > 1 else []
    command = [sys.executable, *launch, "-m", "action_heads.pretrain", *FLAGS, "--data", spec, "--out", str(out)]
    peaks: dict[int, dict[str, float]] = {}
    clock = Clock()
    with out.with_suffix(".log").open("ab") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while run.poll() is None:
            for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
                try:
                    if "accelerate.commands.launch" not in process.cmdline():
                        now, before = memory(process.pid), peaks.get(process.pid, {})
                        peaks[process.pid] = {key: max(value, before.get(key, 0)) for key, value in now.items()}
                except (psutil.Error, OSError, KeyError):  # It has just ended.
                    continue
            if killed_at and saved(out) >= killed_at:
                for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
                    process.kill()
                run.wait()
            time.sleep(0.1)
    if not killed_at and run.returncode:
        raise RuntimeError(f"{command} failed; see {out.with_suffix('.log')}")
    return {"seconds": clock.read()["seconds"], "processes": [peak for peak in peaks.values() if peak["peak_mb"] > 100]}


def saved(out: Path) -> int:
    """Return the last training step that a run has saved, or 0."""
    path = out / "state" / "state.json"
    return json.loads(path.read_text(encoding="utf-8"))["step"] if path.exists() else 0


def resumed(processes: int, spec: str, folder: Path) -> dict[str, Any]:
    """Pretrain once, and once more with a kill in the middle; compare weights and losses."""
    whole, cut = folder / f"whole-{processes}", folder / f"cut-{processes}"
    found = pretrain(processes, spec, whole)
    pretrain(processes, spec, cut, killed_at=10)
    found |= {"killed_after_step": saved(cut), "finished_before": (cut / "model.safetensors").exists()}
    pretrain(processes, spec, cut)
    for name, file in (("same_weights", "model.safetensors"), ("same_losses", "curves.json")):
        found[name] = (whole / file).read_bytes() == (cut / file).read_bytes()
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))["training"]
    return found | {key: config[key] for key in ("chunks_per_second", "sources")}


def size(folder: Path) -> float:
    """Return the size of all files in a folder in MB."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def measure(episodes: int, work: Path, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Write the corpus if it is not there, and yield what each part measures on it. Part `first` begins anew."""
    corpus, counts = work / f"droid_{episodes}", work / f"droid_{episodes}.json"
    if not counts.exists():
        shutil.rmtree(corpus, ignore_errors=True)
        counts.write_text(json.dumps(droid_corpus.write(corpus, episodes)), encoding="utf-8")
    os.environ |= {"ACTION_HEADS_CACHE": str(work / f"cache-{episodes}"), "ACCELERATE_USE_CPU": "true"}
    spec = f"lerobot:{corpus}?bad=skip&short=skip"
    yield json.loads(counts.read_text(encoding="utf-8")) | {"corpus_mb": size(corpus)}
    for name in parts:
        if name in ("one", "two"):
            heads = work / f"heads-{episodes}-{name}"
            shutil.rmtree(heads, ignore_errors=True)
            heads.mkdir()
            yield {name: resumed(1 if name == "one" else 2, spec, heads)}
            continue
        if name == "first":
            shutil.rmtree(cache_home(), ignore_errors=True)
        yield {name: part("drawing" if name == "drawing" else "opening", spec), "cache_mb": size(cache_home())}


def main() -> None:
    """Measure one size, and add it to the results of the others."""
    parser = command_line(__doc__)
    parser.add_argument("--episodes", type=int, default=760)
    parser.add_argument("--folder", type=Path, default=Path("outputs/droid_size"), help="where the corpus is kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; all if not given")
    parser.add_argument("--part", help="for the processes that this command starts")
    parser.add_argument("--spec", help="for the processes that this command starts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part:
        print(json.dumps({"opening": opening, "drawing": drawing}[given.part](given.spec)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    key, results = str(given.episodes), times_to_keep("droid_size") or {}
    for found in measure(given.episodes, given.folder.resolve(), given.parts):
        results |= {key: results.get(key, {}) | found}
        write_results("droid_size", results)


if __name__ == "__main__":
    main()
