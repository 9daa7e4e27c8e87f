"""Fuzz every format of file: `uv run python tests/fuzz/run.py --count 20000 --seed 0`.

Each file is a mutation of a valid folder that depends only on the seed and its number. A worker process with a memory
limit loads them. This process watches the time that each takes, and starts another worker after a hang or a crash. It
counts:

- raw: an error that is not documented (WeightFileError, ValueError, HeadNotFoundError), or a crash;
- hangs: longer than the time limit;
- other: loaded without an error or a warning, with another meaning than the valid folder;
- unnamed: a documented error that does not name the file.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parent / "reproduce")]  # Small heads and synthetic results.
FAULTS = ("raw", "hang", "other")
MEMORY = 3 << 30  # Bytes beyond what a worker has at its start.


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--formats", nargs="*", default=[], help="whose names begin so; all if not given")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for one file")
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        work(given)
        return 0
    found = fuzz(given.count, given.seed, given.formats, given.limit, given.start)
    print(report(found))
    return int(any(record["outcome"] in FAULTS for record in found))


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────


def fuzz(count: int, seed: int, formats: list[str] | None = None, limit: float = 30.0, start: int = 0) -> list[dict]:
    """Fuzz files, and return the outcome of every one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        return watch(count, seed, formats, limit, start, scratch)  # A worker that is killed leaves its folder.


def watch(count: int, seed: int, formats: list[str] | None, limit: float, start: int, scratch: str) -> list[dict]:
    """Start workers until every file has its outcome."""
    found: list[dict] = []
    end = start + count
    while start < end:
        command = [sys.executable, str(Path(__file__)), "--worker", "--count", str(end - start), "--seed", str(seed)]
        command += ["--start", str(start), "--scratch", scratch, *(["--formats", *formats] if formats else [])]
        quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet)
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=listen, args=(worker, lines), daemon=True).start()
        wait = 600.0  # Until it has imported everything and made the valid folders.
        while start < end:
            try:
                line = lines.get(timeout=wait)
            except queue.Empty:
                worker.kill()
                found.append({"number": start, "outcome": "hang", "what": f"more than {limit:g} s"})
                start += 1
                break
            if not line and wait > limit:
                raise RuntimeError(f"a valid folder could not be made or loaded: {' '.join(command)} says why")
            if not line:
                found.append({"number": start, "outcome": "raw", "what": f"the process ended with {worker.wait()}"})
                start += 1
                break
            record = json.loads(line)
            wait = 600.0 if "making" in record else limit
            if "number" in record:
                found.append(record)
                start = record["number"] + 1
                if start % 1000 == 0:
                    print(report(found), file=sys.stderr, flush=True)
        worker.wait()
    return found


def listen(worker: subprocess.Popen, lines: queue.SimpleQueue[str]) -> None:
    assert worker.stdout
    for line in worker.stdout:
        if line.startswith('{"'):
            lines.put(line)
    lines.put("")


def report(found: list[dict]) -> str:
    """Return the counts, followed by every fault."""
    count = Counter(record["outcome"] for record in found)
    unnamed = [record for record in found if record.get("unnamed")]
    lines = [
        f"{len(found)} files: {count['raw']} raw errors, {count['hang']} hangs, {count['other']} accepted with another "
        f"meaning; {count['refused']} refused ({len(unnamed)} without the name of the file), {count['warned']} loaded "
        f"with a warning, {count['same']} loaded as they were; the slowest took "
        f"{max(record.get('seconds', 0) for record in found):.2f} s"
    ]
    shown: Counter[str] = Counter()
    for record in [record for record in found if record["outcome"] in FAULTS] + unnamed:
        kind = "unnamed" if record.get("unnamed") else record["outcome"]
        key = f"{kind} {record.get('format', '')} {record['what'][:60]}"
        shown[key] += 1
        if shown[key] == 1:
            lines.append(f"  {kind}: {record}")
    return "\n".join(lines)


# ── working ──────────────────────────────────────────────────────────────────────────────────────────────────────


def work(given: Any) -> None:
    """Load one file after the other in a worker process, and report the outcomes."""
    import torch
    from formats import FORMATS

    torch.set_num_threads(1)
    formats = [f for f in FORMATS if not given.formats or f.name.startswith(tuple(given.formats))]
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        cases: dict[str, Case] = {}
        for number in range(given.start, given.start + given.count):
            rng = random.Random(f"{given.seed}-{number}")
            form = rng.choices(formats, [form.share for form in formats])[0]
            if form.name not in cases:
                print(json.dumps({"making": form.name}), flush=True)
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                cases[form.name] = Case(form, Path(scratch) / form.name)
                limit_memory()  # On top of what is imported by now.
                print(json.dumps({"made": form.name}), flush=True)
            print(json.dumps({"number": number, "format": form.name, **cases[form.name].attempt(rng)}), flush=True)


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


class Case:
    """A valid folder of a format, a second one to swap files with, and the meaning of the first."""

    def __init__(self, form: Any, folder: Path):
        self.form, self.folder = form, folder / "case"
        form.make(self.folder, 0)
        form.make(folder / "other", 1)
        self.files, self.other = contents(self.folder), contents(folder / "other")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # A valid folder gives none.
            self.meaning = form.load(self.folder)
            self.other_meaning = form.load(folder / "other")
            assert self.other_meaning != self.meaning, f"two folders of {form.name} mean the same"
            assert form.load(self.folder) == self.meaning, f"loading {form.name} twice differs"

    def attempt(self, rng: random.Random) -> dict[str, Any]:
        """Mutate a folder, load it and restore it."""
        from mutators import mutate

        how, mutated = mutate(rng, self.files, self.other)
        changed = [name for name in self.files if mutated[name] != self.files[name]]
        for name in changed:
            (self.folder / name).write_bytes(mutated[name])
        began = time.monotonic()
        try:
            # Files of the other folder may form a valid folder. Then the other one was loaded.
            return {"how": how, **self.load(swapped="swap" in how), "seconds": round(time.monotonic() - began, 3)}
        finally:
            for name in changed:
                (self.folder / name).write_bytes(self.files[name])

    def load(self, swapped: bool) -> dict[str, Any]:
        from action_heads import HeadNotFoundError

        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                meaning = self.form.load(self.folder)
        except (ValueError, HeadNotFoundError) as error:
            what = f"{type(error).__name__}: {str(error)[:200]}"
            if isinstance(error, (UnicodeError, json.JSONDecodeError)):
                return {"outcome": "raw", "what": what}
            return {"outcome": "refused", "what": what, "unnamed": str(self.folder) not in str(error)}
        except BaseException as error:
            import traceback

            where = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{Path(where.filename).name}:{where.lineno}"
            return {"outcome": "raw", "what": f"{type(error).__name__}: {str(error)[:200]} ({at})"}
        if told:
            return {"outcome": "warned", "what": str(told[0].message)[:80]}
        valid = meaning == self.meaning or (swapped and meaning == self.other_meaning)
        return {"outcome": "same" if valid else "other", "what": ""}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files to mutate: weights and configurations, but no cards."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.suffix in (".json", ".safetensors")}


if __name__ == "__main__":
    sys.exit(main())
