"""Damaged recordings of every format are refused by name, or read correctly."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("h5py")
pytest.importorskip("pyarrow")
pytest.importorskip("lerobot")
if not sys.platform.startswith("linux"):
    pytest.skip("the trials need fork and /proc", allow_module_level=True)

from fuzz_recordings import MAKERS, Outcome, attempt, fuzz


@pytest.mark.parametrize("kind", MAKERS)
def test_damaged_recordings(kind, tmp_path):
    wrong = fuzz(12, 0, tmp_path, (kind,))
    assert wrong == {"raw": [], "hang": [], "meaning": []}


def test_what_counts_as_raw():
    def raises(error):
        raise error

    assert attempt(lambda: raises(KeyError("data")), "a.npz").kind == "raw"
    assert attempt(lambda: raises(ValueError("cannot reshape array")), "a.npz").kind == "raw"
    assert attempt(lambda: raises(ValueError("a.npz is damaged")), "a.npz").kind == "refused"
    assert attempt(lambda: "digest", "a.npz") == Outcome("fine", "digest")
