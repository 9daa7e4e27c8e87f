"""Damage recordings of every format at random, and count the outcomes of reading them.

    uv run python tests/fuzz/fuzz_recordings.py --count 5000 --seed 0

prints three counts: raw errors (crashes, and errors other than a ValueError that names the file), hangs, and recordings
that were accepted with another meaning although the damage is detectable. Checksums cover the pages of the parquet
files, the arrays of the npz and (here) the datasets of the HDF5 file, and values of another type are detectable too.

Each trial runs in a child process with a limit on time and memory.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from lerobot_fixture import write

from action_heads.actions.rotations import from_matrix
from action_heads.data import Schema, Spec
from action_heads.data.formats import open_recording
from action_heads.data.opening import read
from action_heads.kinematics.panda import HOME, forward

SECONDS, MEMORY = 20.0, 3 * 2**30
WRONG = (None, True, -1, 0, 1.5, 10**30, 1e300, float("nan"), "x", "", [], {}, [None], {"a": None}, "9" * 400, [[[]]])


class Outcome(NamedTuple):
    """The outcome of a reader: "fine" with a digest of its result, or "refused", "raw" or "hang" with the error."""

    kind: str
    text: str


def motion(length: int, phase: float) -> np.ndarray:
    """Return joints (length 7) that move a little around the Panda's home."""
    return HOME.numpy() + 0.1 * np.sin(phase + np.linspace(0, 3, length))[:, None] * np.ones(7)


def poses(joints: np.ndarray) -> np.ndarray:
    position, matrix = forward(torch.from_numpy(joints), "tcp")
    return torch.cat((position, from_matrix(matrix, "6d")), dim=-1).numpy()


def gripper(length: int) -> np.ndarray:
    return (np.arange(length) > length / 2).astype(float)


def make_lerobot(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    episodes = [
        {
            "observation.joint_position": motion(20 + i, i),
            "observation.eef": poses(motion(20 + i, i)),
            "action": np.concatenate([np.zeros((20 + i, 9)), 2 * gripper(20 + i)[:, None] - 1], axis=1),
        }
        for i in range(4)
    ]
    write(folder, episodes, 15, robot_type="panda")
    features = {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("task_index", "index")}
    info = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))
    info["features"] |= features
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    pq.write_table(pa.table({"task_index": [1, 0], "task": ["push", "move"]}), folder / "meta/tasks.parquet")
    for path in folder.rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path, write_page_checksum=True)


def make_hdf5(folder: Path) -> None:
    import h5py

    folder.mkdir()
    with h5py.File(folder / "demos.hdf5", "w", libver="latest") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20, "robots": ["Panda"]}})
        data.attrs["problem_info"] = json.dumps({"language_instruction": "push"})
        for i in range(3):
            group = data.create_group(f"demo_{i}")
            parts = {
                "obs/robot0_joint_pos": motion(20 + i, i),
                "obs/agentview_rgb": np.full((20 + i, 4, 4, 3), i, "u1"),
            }
            parts["actions"] = np.tile(2 * gripper(20 + i)[:, None] - 1, (1, 7))
            for name, values in parts.items():
                group.create_dataset(name, data=values, fletcher32=True, chunks=True)
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])


def make_npz(folder: Path) -> None:
    folder.mkdir()
    lengths = np.array([20, 21, 22])
    np.savez_compressed(
        folder / "motion.npz",
        joint_position=np.concatenate([motion(n, n) for n in lengths]),
        gripper=np.concatenate([gripper(n) for n in lengths]),
        episode_start=np.cumsum(lengths) - lengths,
        episode_length=lengths,
        name=np.array(["a", "b", "c"]),
        rate_hz=np.array(15.0),
    )


def make_map(folder: Path) -> None:
    folder.mkdir()
    columns = {"joints": "q[0:7]", "position": "p[0:3]", "rotation": "p[3:7]", "gripper": "a[-1]", "arm": "panda"}
    (folder / "map.json").write_text(json.dumps(columns | {"gripper_open": 0.5, "world": False}), encoding="utf-8")


def make_cache(folder: Path) -> None:
    make_npz(folder)
    os.environ["ACTION_HEADS_CACHE"] = str(folder / "cache")
    os.utime(folder / "motion.npz", (0, 0))
    read(Spec.parse(f"npz:{folder}/motion.npz"))


MAKERS = {"lerobot": make_lerobot, "hdf5": make_hdf5, "npz": make_npz, "map": make_map, "cache": make_cache}


def digest(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode("utf-8", "replace"))
    return found.hexdigest()


def table_of(spec: str) -> list[object]:
    table = read(Spec.parse(spec))
    joints, gripped = (None if x is None else x.numpy() for x in (table.joints, table.gripper))
    return [table.names, table.corpora, table.lengths, table.rate_hz, joints, gripped]


def recording_of(spec: str) -> list[object]:
    found = open_recording(Spec.parse(spec))
    columns = [found.column(name) for name in sorted(found.widths)]
    words = [found.tasks[i] for i in found.task_of.tolist()]
    seen = [found.images_of(name, 0, np.array([0, 3])) for name in found.cameras]
    return [
        found.names,
        found.lengths,
        found.rate_hz,
        sorted(found.widths),
        *columns,
        words,
        *seen,
        found.default_state(True),
    ]


def both(spec: str) -> str:
    parts, refused = [], []
    for call in (table_of, recording_of):
        try:
            parts += call(spec)
        except ValueError as error:
            refused.append(error)
    if refused:
        raise next((e for e in refused if not named(e, spec)), refused[0])
    return digest(*parts)


def named(error: BaseException, path: str) -> bool:
    return isinstance(error, ValueError) and Path(path.split(":", 1)[-1].split("?")[0]).name in str(error)


def call_of(kind: str, folder: Path) -> tuple[Callable[[], str], str]:
    """Return the reader of a corpus, and the file that its errors must name."""
    if kind == "lerobot":
        return lambda: both(f"lerobot:{folder}"), f"{folder}"
    if kind == "hdf5":
        return lambda: both(f"robomimic:{folder}/demos.hdf5"), "demos.hdf5"
    if kind == "map":
        return lambda: digest(Schema.from_json(folder / "map.json")), "map"
    if kind == "cache":
        os.environ["ACTION_HEADS_CACHE"] = str(folder / "cache")
        return lambda: digest(*table_of(f"npz:{folder}/motion.npz")), str(folder.parent)
    return lambda: digest(*table_of(f"npz:{folder}/motion.npz")), "motion.npz"


def damage_bytes(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        if not data:
            break
        at = rng.choice((rng.randrange(len(data)), max(0, len(data) - 1 - int(rng.expovariate(1 / 60)))))
        size = rng.choice((1, 2, 4, 8, 100))
        how = rng.randrange(7)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        elif how == 2:
            # Fletcher's checksum of HDF5 does not distinguish bytes of 255 from bytes of 0.
            fills = (1, 127, 128) if path.suffix == ".hdf5" else (0, 255, 127, 128)
            data[at : at + size] = bytes([rng.choice(fills)]) * len(data[at : at + size])
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = rng.randbytes(size)
        elif how == 5:
            del data[at:]
        else:
            other = rng.randrange(len(data))
            data[at : at + size] = data[other : other + len(data[at : at + size])]
    path.write_bytes(bytes(data))


def damage_json(value: object, rng: random.Random) -> object:
    """Change the type of a value, or remove one."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: damage_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], damage_json(value[at], rng), *value[at + 1 :]]
    return rng.choice(WRONG)


def damage_attributes(path: Path, rng: random.Random) -> None:
    """Change an attribute, dataset or link in an HDF5 file."""
    import h5py

    with h5py.File(path, "r+") as file:
        node = file[rng.choice(("data", "data/demo_0", "data/demo_1"))]
        name = rng.choice(("env_args", "problem_info", "language_instruction", "ep_meta", "num_samples"))
        value = rng.choice((*WRONG, *map(json.dumps, WRONG[:-3]), json.dumps({"env_kwargs": rng.choice(WRONG)})))
        if rng.random() < 0.5:
            try:
                node.attrs[name] = rng.choice((str(value), value, np.zeros(3), b"\xff\xfe"))
            except (TypeError, ValueError, OverflowError):
                node.attrs[name] = str(value)[:1000]
            return
        place = f"data/demo_{rng.randrange(3)}/" + rng.choice(
            ("actions", "obs", "obs/robot0_joint_pos", "obs/agentview_rgb")
        )
        del file[place]
        new = rng.choice(
            ("none", "soft", "loop", "external", "text", "compound", "scalar", "group", "long", "empty", "wide")
        )
        if new == "soft":
            file[place] = h5py.SoftLink("/nowhere")
        elif new == "loop":
            file[place] = h5py.SoftLink(f"/{place}")
        elif new == "external":
            file[place] = h5py.ExternalLink("other.hdf5", "/data")
        elif new == "text":
            file[place] = np.array([b"a"] * 20)
        elif new == "compound":
            file[place] = np.zeros(20, [("a", "f4"), ("b", "i4")])
        elif new == "scalar":
            file[place] = 3.0
        elif new == "group":
            file.create_group(place)
        elif new == "long":
            file.create_dataset(place, (2**50, 7), "f4", chunks=(1000, 7))
        elif new == "empty":
            file[place] = np.zeros((0, 7))
        elif new == "wide":
            file[place] = np.zeros((20, 3))


def damage(kind: str, folder: Path, rng: random.Random) -> bool:
    """Damage one file, and return whether the damage is detectable in the file."""
    if kind == "hdf5" and rng.random() < 0.5:
        damage_attributes(folder / "demos.hdf5", rng)
        return False  # Any of these may be intended.
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.7:
        record = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(damage_json(record, rng)), encoding="utf-8")
        return False
    if kind == "cache":  # The file that it is made from stays unchanged.
        path = rng.choice([path for path in files if path.suffix in (".json", ".npy")])
    if rng.random() < 0.03:
        path.write_bytes(b"")
    elif rng.random() < 0.02:
        path.unlink()
        return False  # Without meta/tasks.parquet there are no descriptions, and reading them raises an error.
    else:
        damage_bytes(path, rng)
    return path.suffix in (".npz", ".hdf5", ".parquet")


def attempt(call: Callable[[], str], name: str) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Outcome("fine", call())
    except (ValueError, FileNotFoundError) as error:
        where = Path(name).name
        kind = "refused" if where in str(error) else "raw"
        return Outcome(kind, f"{type(error).__name__}: {error}"[:400])
    except BaseException as error:
        return Outcome("raw", f"{type(error).__name__}: {error}"[:400])


def in_a_child(call: Callable[[], str], name: str) -> Outcome:
    """Run a trial in a child process with limits on time and memory."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        size = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(theirs, json.dumps(attempt(call, name)).encode()[:60_000])
        os._exit(0)
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], SECONDS)
    data = os.read(ours, 65_536) if ready else b""
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ours)
    if not ready:
        return Outcome("hang", f"more than {SECONDS:g} s")
    return Outcome(*json.loads(data)) if data else Outcome("raw", f"the process ended by signal {os.WTERMSIG(status)}")


def fuzz(count: int, seed: int, folder: Path, kinds: tuple[str, ...] = tuple(MAKERS)) -> dict[str, list[str]]:
    """Try `count` damaged recordings, and return a line for each fault by its kind: raw, hang, meaning."""
    for module in ("h5py", "pyarrow.parquet", "lerobot.utils.utils", "datasets", "PIL.Image"):
        importlib.import_module(module)  # Once, before the children are forked.
    wrong: dict[str, list[str]] = {"raw": [], "hang": [], "meaning": []}
    seen = {"fine": 0, "refused": 0}
    trial = folder / "trial"
    sound = {}
    for kind in kinds:
        MAKERS[kind](folder / kind)
        trial.mkdir(exist_ok=True)
        for number in [None, *range(seed, seed + -(-count // len(kinds)))]:
            os.environ["ACTION_HEADS_CACHE"] = str(trial / "none")
            shutil.rmtree(trial)
            shutil.copytree(folder / kind, trial / kind, copy_function=shutil.copy2)
            told = number is not None and damage(kind, trial / kind, random.Random(f"{kind} {number}"))
            call, name = call_of(kind, trial / kind)
            outcome = in_a_child(call, name)
            if number is not None and not (number - seed + 1) % 100:
                found = ", ".join(f"{len(lines)} {name}" for name, lines in wrong.items())
                print(f"{kind}: {number - seed + 1} files; so far {found}", flush=True)
            if number is None:
                assert outcome.kind == "fine", outcome
                sound[kind] = outcome.text
            elif outcome.kind in ("raw", "hang"):
                wrong[outcome.kind].append(f"{kind} {number}: {outcome.text}")
            else:
                seen[outcome.kind] += 1
                if outcome.kind == "fine" and told and outcome.text != sound[kind]:
                    wrong["meaning"].append(f"{kind} {number}")
    print(f"{seen['refused']} refused, {seen['fine']} read")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = fuzz(options.count, options.seed, Path(folder), tuple(options.kinds))
    for name, lines in wrong.items():
        for line in lines[:40]:
            print(f"  {name}: {line}")
    print(
        f"{options.count} files in {time.monotonic() - began:.0f} s: {len(wrong['raw'])} raw errors, "
        f"{len(wrong['hang'])} hangs, {len(wrong['meaning'])} accepted with another meaning"
    )
    raise SystemExit(any(wrong.values()))


if __name__ == "__main__":
    main()
