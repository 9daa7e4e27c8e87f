"""Hashes of large files."""

from __future__ import annotations

import numpy as np
import pytest

from action_heads.io.contents import BLOCK, BLOCKS, sampled


@pytest.mark.parametrize("size", [1000, BLOCK * BLOCKS, BLOCK * BLOCKS + 1, 3 * BLOCK * BLOCKS])
def test_sampled_sees_size_start_and_end(tmp_path, size):
    path, data = tmp_path / "file", np.random.default_rng(0).bytes(size)
    contents = [data, data + b"a", data[:-1], b"~" + data[1:], data[:-1] + b"~"]
    found = []
    for content in contents:
        path.write_bytes(content)
        found.append(sampled(path))
    assert len(set(found)) == len(contents)
    path.write_bytes(data)
    assert sampled(path) == found[0]


def test_sampled_reads_little_of_a_large_file(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**33)  # sparse: reading 8 GB would take seconds
    assert len(sampled(path)) == 32
