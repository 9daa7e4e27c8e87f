"""LIBERO's init files are read as torch wrote them, and no file can run code.

Axes: n states, s numbers of each.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from action_heads_lab.sim.init_states import NotStates, read_init_states

ROOT = Path(__file__).parents[2]
STATES = np.random.default_rng(0).normal(size=(5, 7))


class Runs:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "states", [STATES, STATES.astype(np.float32), np.asfortranarray(STATES), STATES.astype(">f8"), list(STATES)]
)
def test_reads_what_torch_saves(tmp_path, states, protocol, zipped):
    torch.save(states, tmp_path / "a", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_init_states(tmp_path / "a")
    np.testing.assert_array_equal(found, np.asarray(states))
    assert found.dtype.isnative


def test_reads_what_older_numpys_wrote(tmp_path):
    content = pickle.dumps(STATES, protocol=2)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        (tmp_path / "a").write_bytes(re.sub(rb"numpy\._?core\.multiarray", module, content))
        np.testing.assert_array_equal(read_init_states(tmp_path / "a"), STATES)


def test_reads_arrays_of_numpy_and_unpickles_none(tmp_path):
    np.savez(tmp_path / "good.npz", states=STATES)
    np.testing.assert_array_equal(read_init_states(tmp_path / "good.npz"), STATES)
    np.savez(tmp_path / "bad.npz", states=np.array([[Runs(tmp_path / "made")]], dtype=object))
    with pytest.raises(NotStates, match=r"bad\.npz is not an init file.* Fetch it again$"):
        read_init_states(tmp_path / "bad.npz", remedy="Fetch it again")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [lambda bad: bad, lambda bad: [STATES, bad], lambda bad: {"a": bad}])
def test_a_malicious_file_runs_nothing(tmp_path, zipped, hidden):
    made = tmp_path / "made"
    torch.save(hidden(Runs(made)), tmp_path / "bad", _use_new_zipfile_serialization=zipped)
    with pytest.raises(NotStates, match=r"bad is not an init file of LIBERO: it names (posix|nt)\.mkdir"):
        read_init_states(tmp_path / "bad")
    assert not made.exists()
    with (tmp_path / "bad").open("rb") as file:
        torch.load(file, weights_only=False)
    assert made.exists(), "the pickle is harmless, so the test shows nothing"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, 3), "it names torch|holds tensors"),
        (np.array([{}]), "the type 'O8'"),
        (np.array(["x"]), "the type 'U1'"),
        (np.ones(3), r"float64 \(3,\)"),
        (STATES * np.nan, "finite"),
        ({"a": 1}, "object"),
        (7, "expected finite numbers"),
    ],
)
def test_anything_but_states_is_refused(tmp_path, value, message):
    torch.save(value, tmp_path / "a")
    with pytest.raises(NotStates, match=message):
        read_init_states(tmp_path / "a")


def test_sizes_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"\x80\x02Nr\xff\xff\xff\xff.")  # stores memo entry 4,294,967,295
    with pytest.raises(NotStates, match="memo is larger"):
        read_init_states(tmp_path / "a")
    monkeypatch.setattr("action_heads_lab.sim.init_states.LARGEST", 10_000)
    with zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(NotStates, match="unpacks to 1000000 bytes"):
        read_init_states(tmp_path / "b")


def test_damaged_files_raise_one_error(tmp_path):
    torch.save(STATES, tmp_path / "a")
    torch.save(STATES, tmp_path / "b", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "c.npz", states=STATES)
    for name in ("a", "b", "c.npz"):
        sound, refused = (tmp_path / name).read_bytes(), 0
        for seed in range(600):
            rng = random.Random(seed)
            data = bytearray(sound)
            for _ in range(rng.choice([1, 3, 20])):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / "damaged").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
            try:
                read_init_states(tmp_path / "damaged")
            except NotStates:
                refused += 1
        assert refused > 100


def test_nothing_else_unpickles():
    """No module unpickles, since that runs code. See init_states.py for a safe reader."""
    unsafe = re.compile(
        r"torch\.load\(|pickle\.loads?\(|weights_only\s*=\s*False|allow_pickle\s*=\s*True|joblib|dill\b"
    )
    folders = ("action_heads", "benchmarks", "examples", "lerobot_policy_dae")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text("utf-8").splitlines()
        if unsafe.search(line) and path.name != "foreign.py"  # whose message says how to convert a file
    ]
    assert not found
