"""The C++ program of examples/cpp computes what onnxruntime computes in Python.

It needs g++ and the headers of ONNX Runtime, which no Python package holds. $ONNXRUNTIME_INCLUDE names their folder,
for example that of an unpacked release. The library is that of the Python package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from small import tiny_head, trained_policy

from action_heads.diffusion.samplers import Sampling
from action_heads.runtime.export import ExportConfig, export_policy, run
from action_heads.runtime.sampling_loop import SamplingLoop

SOURCE = Path(__file__).parents[2] / "examples" / "cpp" / "act.cpp"
PLACES = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/include")


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Path:
    """Return the program, compiled with all warnings as errors."""
    capi = Path(pytest.importorskip("onnxruntime").__file__).parent / "capi"
    include = next((p for p in PLACES if p and (Path(p) / "onnxruntime_cxx_api.h").exists()), None)
    libraries = list(capi.glob("libonnxruntime.so.*"))
    if include is None or not libraries or not shutil.which("g++"):
        pytest.skip("needs g++ and ONNX Runtime's headers: set ONNXRUNTIME_INCLUDE to their folder")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "libonnxruntime.so.1").symlink_to(libraries[0])  # the name that the linker writes into the program
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", include, f"-Wl,-rpath,{folder}"]
    made = folder / "act"
    subprocess.run(["g++", *flags, str(SOURCE), str(folder / "libonnxruntime.so.1"), "-o", str(made)], check=True)
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> ExportConfig:
    """Return the settings of an exported policy of two chunks, each from three tokens."""
    out = tmp_path_factory.mktemp("exported") / "policy.onnx"
    config = ExportConfig("", out, steps=2, batch=2, tokens=3)
    export_policy(policy(), config)
    return config


def policy():
    return trained_policy(tiny_head("mixer", depth=1))


def test_the_program_computes_what_python_computes(act, exported, tmp_path):
    """Chunks of the program and of Python's onnxruntime are equal up to rounding, with a mask."""
    example = SamplingLoop(policy(), Sampling(steps=2)).example(2, 3)
    example["mask"][0, 1:] = False
    given = []
    for name, tensor in example.items():
        tensor.numpy().tofile(tmp_path / name)
        given.append(f"{name}={tmp_path / name}")
    done = subprocess.run([act, exported.out, *given, f"chunk={tmp_path / 'chunk'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("chunk (2, 16, 10), first action")
    chunk = torch.as_tensor(np.fromfile(tmp_path / "chunk", np.float32)).reshape(2, 16, 10)
    torch.testing.assert_close(chunk, run(exported.out, "onnx", example), rtol=1e-5, atol=1e-5)
    assert subprocess.run([act, exported.out], capture_output=True).returncode == 0  # random noise and zeros


def test_what_the_program_refuses(act, exported, tmp_path):
    """A wrong file, an unknown input, inputs of another size, and a chunk that is not finite end with one line."""
    np.full((2, 3, 7), np.nan, np.float32).tofile(tmp_path / "nan")
    for words, wanted in (
        ([], "usage: act policy.onnx"),
        (["none.onnx"], "none.onnx"),
        ([exported.out, "image=x"], "unknown input image"),
        ([exported.out, "noise"], "expected name=file, got noise"),
        ([exported.out, "noise=none"], "cannot read none"),
        ([exported.out, f"chunk={tmp_path}/none/chunk"], "cannot write the chunk"),
        ([exported.out, f"noise={tmp_path / 'nan'}"], "has 168 bytes, but noise takes 1280"),
        ([exported.out, f"cond={tmp_path / 'nan'}"], "NaN or infinity in the chunk"),
    ):
        done = subprocess.run([act, *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert wanted in done.stderr
