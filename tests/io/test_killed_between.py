"""A writer that is killed between any two changes of the disk leaves nothing behind once it has been run again."""

from __future__ import annotations

import functools
import io
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from forked import done_before, names, needs_fork

from action_heads.data import cache
from action_heads.data.convert import Steps
from action_heads.io import drafts, files, locks
from action_heads.kinematics import PANDA
from action_heads.kinematics.panda import HOME

needs_lab = pytest.mark.skipif(find_spec("action_heads_lab") is None, reason="needs action_heads_lab")
needs_h5py = pytest.mark.skipif(find_spec("h5py") is None, reason="needs the data extra")


def folder(place: Path) -> None:
    """Write a folder in the way of another library, unless it is there."""
    if not drafts.exists(place / "made"):
        with drafts.drafted(place / "made") as draft:
            draft.mkdir()
            (draft / "part").write_bytes(b"part")
            (draft.parent / "beside").write_bytes(b"a file that the library forgot")


def tensors(place: Path) -> None:
    """Write two files together."""
    files.write_together(place, {"made": b"1", "other": b"2"})


def table(place: Path) -> None:
    """Write a table of the cache, unless it is there."""
    steps = Steps(HOME.numpy() + np.zeros((5, 7), np.float32), None, np.zeros(5, np.float32))
    cache.cached("x", 15.0, PANDA, lambda made: made.append("corpus", "episode", steps))


def episodes(task, n, seed, noise, workers):
    """Return episodes of two ticks, as `_record_episodes`, but not simulated."""
    from action_heads_lab.sim.record import SEEDS, Episode

    upright, rng = np.tile(np.float32([1, 0, 0, 0, 1, 0]), (2, 1)), np.random.default_rng(seed)
    rest = [rng.normal(size=(2, k)).astype(np.float32) for k in (3, 14, 3, 1, 7)]
    observation, action = np.hstack([rest[0], upright, rest[1]]), np.hstack([rest[2], upright, rest[3]])
    return [Episode(SEEDS * (seed + 1) + i, True, observation, action, rest[4]) for i in range(n)]


def recording(place: Path) -> None:
    """Record, unless the file is there."""
    from action_heads_lab.sim.record import record

    record("Lift", 2, path=place / "made")


def dataset(place: Path) -> None:
    """Record a file of robomimic, unless it is there."""
    from action_heads_lab.sim.dataset import RecordConfig, record_dataset

    record_dataset(RecordConfig("Lift", place / "made.hdf5", demos=2))


def configuration(place: Path) -> None:
    """Write LIBERO's configuration, unless it is there."""
    from action_heads_lab.sim import libero_files

    root = Path(__file__).parent
    for name in ("bddl_files", "init_files"):
        (place.parent / "libero" / name).mkdir(parents=True, exist_ok=True)
    libero_files.configure(place.parent / "libero", root)


def benchmark(place: Path) -> None:
    """Unpack an archive, unless its files are there."""
    from action_heads_lab.setup.archives import Archive
    from action_heads_lab.setup.fetch import Source, fetch
    from action_heads_lab.setup.trees import git_hash

    local, content = place.parent / "usb", io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("package/wall.xml", "<wall/>")
    if not local.exists():
        local.mkdir()
    (local / "wall.xml").write_text("<wall/>", encoding="utf-8")
    (local / "walls-1.whl").write_bytes(content.getvalue())
    source = Source("the walls", [Archive("walls-1.whl", "walls", {"package/": ""}, None)])
    fetch(place / "made", [source], {"wall.xml": (git_hash(local / "wall.xml"),)}, local)


WRITERS: dict[str, Callable[[Path], None]] = {
    "folder": folder,
    "tensors": tensors,
    "table": table,
    "recording": recording,
    "dataset": dataset,
    "configuration": configuration,
    "benchmark": benchmark,
}
MARKS = {
    "recording": [needs_lab],
    "dataset": [needs_lab, needs_h5py],
    "configuration": [needs_lab],
    "benchmark": [needs_lab],
}


def left(place: Path) -> set[str]:
    """Return all names in a folder but those of locks, which the next run that writes there removes."""
    return {name for name in names(place) if not name.endswith(locks.NAME)}


@needs_fork
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, [])) for name in WRITERS])
def test_nothing_is_left_wherever_a_writer_is_killed(name, tmp_path, monkeypatch):
    write = WRITERS[name]
    if name in ("recording", "dataset"):
        from action_heads_lab.sim import dataset  # noqa: F401 - imported here, or every process would import it

        module = sys.modules["action_heads_lab.sim.record"]
        monkeypatch.setattr(module, "_record_episodes", episodes)
        monkeypatch.setattr(module, "check_simulator", lambda task: None)

    def place_of(run: object) -> Path:
        place = tmp_path / str(run) / "place"
        place.mkdir(parents=True)
        monkeypatch.setattr(cache, "folder", lambda: place)
        monkeypatch.setenv("LIBERO_CONFIG_PATH", str(place))
        return place

    undisturbed = place_of("undisturbed")
    write(undisturbed)
    assert left(undisturbed)
    for change in range(1, 200):
        place = place_of(change)
        ended = done_before(change, functools.partial(write, place))
        write(place)
        assert left(place) == left(undisturbed), f"killed at change {change}"
        if ended:
            assert change > 2  # Before Python 3.11, changes by pathlib are not counted.
            return
    pytest.fail("it never ended")
