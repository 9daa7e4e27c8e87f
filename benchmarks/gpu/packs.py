"""Parts that all GPU packs share: the clock, commands with a time limit, and results that go on over several packs.

A pack is a script of at most nine minutes for a machine with a GPU that is lent for a short time and may have no
network. It installs nothing, measures how fast the machine is before it decides on numbers of training steps, writes
each result as soon as it has it, and prints all of them last.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # a machine of which the project is not installed

from action_heads._util.machine import cores, machine  # noqa: E402
from action_heads.io import files  # noqa: E402

PATHS = (ROOT, ROOT / "lab", ROOT / "lerobot_policy_dae", ROOT / "benchmarks")
EARLIER = Path(__file__).parent / "results"  # results of earlier packs, which are not computed again
MINUTES = 9  # The machine ends a command after ten, and nothing that was not written by then comes back.
GRACE = 15  # seconds after the end of a pack that a measurement may take before it is ended


class Pack:
    """One pack: its name, its clock and its results.

    Args:
        name: name of the results, `<out>/<name>.json`.
        minutes: time until which every command must have ended.
        out: folder of the results, by default $OUT or outputs/gpu.
        toy: whether everything is so small that it runs on a CPU in seconds.
    """

    def __init__(self, name: str, minutes: float = MINUTES, out: Path | None = None, toy: bool = False):
        self.name, self.toy, self.end = name, toy, time.monotonic() + 60 * minutes
        self.out = (out or Path(os.environ.get("OUT") or ROOT / "outputs" / "gpu")).resolve()
        self.work = self.out / "work" if toy else Path(os.environ.get("PACK_WORK", "/tmp/action-heads-pack"))
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        self.path, self.log = self.out / f"{name}.json", self.out / f"{name}.log"
        self.results: dict[str, Any] = {}
        for path in (self.path,) if toy else (EARLIER / f"{name}.json", self.path):
            if path.exists():
                self.results |= files.read_json(path)["results"]
        self.environment = environment(self.work)

    @property
    def left(self) -> float:
        """Seconds until the end of the pack."""
        return self.end - time.monotonic()

    def once(self, key: str, seconds: float, measure: Callable[[], Any]) -> Any:
        """Return a result: an earlier one, or that of `measure`, which is written at once.

        If fewer than `seconds` are left, or `measure` returns None, the result is left for the next pack.
        """
        if key in self.results:
            print(f"{key}: found", flush=True)
        elif self.left < seconds:
            print(f"{key}: left for the next pack, since {self.left:.0f} s of {seconds:.0f} s are left", flush=True)
        else:
            print(f"{key}: {self.left:.0f} s are left", flush=True)
            if (found := measure()) is not None:
                self.results[key] = found
                self.write()
        return self.results.get(key)

    def write(self) -> None:
        """Write the results with command, date and machine."""
        record = {"command": shlex.join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
        files.write_text(self.path, json.dumps(record | {"results": self.results}, indent=2) + "\n")

    def run(self, commands: Mapping[str, Sequence[str]], seconds: float | None = None) -> dict[str, int | None]:
        """Run commands at once, and return their exit codes by name; None for those that the time ended.

        The output of each goes to `log_of` its name, and from there to `<out>/<pack>.log`, since few files come back
        from a lent machine. Its end is printed if the command fails. The processes of a command that takes longer than
        `seconds`, or than the pack, are ended together.
        """
        limit = (seconds or self.left) * (10 if self.toy else 1)  # a CPU that others use may be slow
        end, running = time.monotonic() + min(self.left, limit), {}
        for name, command in commands.items():
            log = open(self.log_of(name), "w", encoding="utf-8")  # noqa: SIM115  closed when the process ends
            log.write(shlex.join(command) + "\n")
            log.flush()
            streams = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
            running[name] = subprocess.Popen(command, cwd=ROOT, env=self.environment, **streams), log
        codes: dict[str, int | None] = {}
        for name, (process, log) in running.items():
            try:
                codes[name] = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                codes[name] = None
            log.close()
            text = self.log_of(name).read_text(encoding="utf-8", errors="replace")
            with open(self.log, "a", encoding="utf-8") as all_logs:
                all_logs.write(f"== {name}\n{text}\n")
            if codes[name] != 0:
                why = "took too long" if codes[name] is None else f"failed with code {codes[name]}"
                print(f"{name} {why}:\n{text[-2000:]}", flush=True)
        return codes

    def log_of(self, name: str) -> Path:
        """Return the file with the output of a command."""
        return self.work / f"{name}.log"

    def watch(self, report: Callable[[], None]) -> threading.Timer:
        """Return a clock that reports and ends the process if a measurement goes on long after the end of the pack."""

        def stop() -> None:
            print("\nThe time is over, and the measurement that is under way was ended.")
            report()
            sys.stdout.flush()
            os._exit(3)  # A compilation or a kernel that hangs can't be interrupted.

        clock = threading.Timer(max(0.0, self.left) + GRACE, stop)
        clock.daemon = True
        clock.start()
        return clock

    def report(self, last: Sequence[str] = ()) -> None:
        """Print all results, then the lines in `last`."""
        print(f"\n{self.name}: {len(self.results)} results in {self.path}, {self.left:.0f} s left")
        for key, value in list(self.results.items()):
            print(f"{key}: {json.dumps(value)}"[:400])
        for line in last:
            print(line)


def options(about: str, name: str, **more: Any) -> tuple[Pack, argparse.Namespace]:
    """Return the pack that the command line asks for, and the options. `more` holds further ones by name."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time limit")
    parser.add_argument("--out", type=Path, help="folder of the results; by default $OUT or outputs/gpu")
    parser.add_argument("--toy", action="store_true", help="small enough for seconds of a CPU, to see that it works")
    for option, default in more.items():
        several = isinstance(default, (list, tuple))
        flag, kind = f"--{option}", type(default[0] if several else default)
        parser.add_argument(flag, type=kind, default=default, nargs="*" if several else None)
    chosen = parser.parse_args()
    return Pack(name, chosen.minutes, chosen.out, chosen.toy), chosen


def action_heads(*arguments: object) -> list[str]:
    """Return the command line of an `action-heads` command."""
    return [sys.executable, "-m", "action_heads.cli", *map(str, arguments)]


def tests_marked_gpu(pack: Pack, name: str, files: Sequence[str], seconds: float, *flags: str) -> dict | None:
    """Run the tests of some files that are marked gpu, and return how many passed and which failed."""
    what = ["--collect-only", "-n", "0"] if pack.toy else ["-n", str(min(12, cores()))]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--continue-on-collection-errors", *files, *what, *flags]
    if pack.run({name: command}, seconds)[name] is None:
        return None
    log = pack.log_of(name).read_text(encoding="utf-8", errors="replace")
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", log)}
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
    listed = len(re.findall(r"^tests\S*::", log, re.MULTILINE))
    return {**counts, "collected": listed if pack.toy else sum(counts.values()), "failures": found}


def device() -> str:
    """Return cuda or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of commands, in which the repository is found although it is not installed.

    Commands and simulators register by entry points. Where they are not installed, `folder` gets their metadata.
    """
    paths = [str(path) for path in PATHS if path.exists()]
    if "record" not in entry_points(group="action_heads.commands").names:
        paths.append(str(registered(folder / "metadata")))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **threads, "PYTHONPATH": path}


def registered(folder: Path) -> Path:
    """Write the entry points of the lab, as an installation would, and return the folder."""
    import tomllib

    project = tomllib.loads((ROOT / "lab" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"action_heads_lab-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    rows = []
    for group, points in project["entry-points"].items():
        rows += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(rows), encoding="utf-8")
    return folder


def stage1_record(head: Path) -> dict[str, Any]:
    """Return what a pretrained head's folder says of its training."""
    return files.read_json(head / "config.json")["training"]


def steps_in(seconds: float, rate: float, most: int) -> int:
    """Return how many training steps fit into a time at a rate per second, at least 1 and at most `most`."""
    return max(1, min(most, int(seconds * rate)))


def workers(runs: int) -> int:
    """Return the number of processes for each of several runs at once."""
    return max(1, cores() // max(1, runs))
