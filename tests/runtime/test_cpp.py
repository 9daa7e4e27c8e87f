"""The C++ programs of examples/cpp compute what Python computes. The commands of the guide to deployment build them.

Both need g++ and cmake. act.cpp also needs the headers of ONNX Runtime, which Debian 13 has as libonnxruntime-dev, but
neither Debian 12 nor a Python package: $ONNXRUNTIME_INCLUDE names their folder, if it is another. The library is that
of the Python package. act_aoti.cpp needs only the headers and libraries of the installed torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import generator, tiny_head, trained_policy

from action_heads.diffusion.samplers import Sampling
from action_heads.runtime.export import ExportConfig, export_policy, run
from action_heads.runtime.sampling_loop import SamplingLoop

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "deploy.md"
PLACES = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/include")


def built(name: str, folder: Path, **replaced: str) -> Path:
    """Build a program with all warnings as errors, by its command in the guide with some of its words replaced."""
    (command,) = re.findall(rf"^cmake .* --build build/{name}$", GUIDE.read_text("utf-8"), re.MULTILINE)
    for old, new in {f"build/{name}": str(folder), **replaced}.items():
        assert old in command
        command = command.replace(old, new)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "CXX": "g++", "CXXFLAGS": "-Wall -Wextra -Werror"}
    subprocess.run(command, shell=True, check=True, cwd=ROOT, env=environment)
    return folder / name


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Path:
    """Return the program."""
    capi = Path(pytest.importorskip("onnxruntime").__file__).parent / "capi"
    include = next((p for p in PLACES if p and (Path(p) / "onnxruntime_cxx_api.h").exists()), None)
    libraries = list(capi.glob("libonnxruntime.so.*"))
    if include is None or not libraries or not shutil.which("g++") or not shutil.which("cmake"):
        pytest.skip("needs g++, cmake and ONNX Runtime's headers: set ONNXRUNTIME_INCLUDE to their folder")
    folder = tmp_path_factory.mktemp("cpp")
    library = folder / "libonnxruntime.so.1"  # the name that the linker writes into the program
    library.symlink_to(libraries[0])
    places = f"-DONNXRUNTIME_INCLUDE={include} -DONNXRUNTIME_LIBRARY={library}"
    return built("act", folder / "build", **{"-DONNXRUNTIME=/path/to/onnxruntime": places})


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
    done = subprocess.run(
        [act, exported.out, *written(example, tmp_path), f"chunk={tmp_path / 'chunk'}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("chunk (2, 16, 10), first action")
    chunk = torch.as_tensor(np.fromfile(tmp_path / "chunk", np.float32)).reshape(2, 16, 10)
    torch.testing.assert_close(chunk, run(exported.out, "onnx", example), rtol=1e-5, atol=1e-5)
    assert subprocess.run([act, exported.out], capture_output=True).returncode == 0  # random noise and zeros


def test_what_the_program_refuses(act, exported, tmp_path):
    """A wrong file and wrong inputs end with one line."""
    assert "usage: act policy.onnx" in refusal(act)
    assert "none.onnx" in refusal(act, "none.onnx")
    check_refused_inputs(act, exported.out, tmp_path)


@pytest.fixture(scope="module")
def act_aoti(tmp_path_factory) -> Path:
    """Return the program for compiled files."""
    if torch.__version__ < "2.7" or not shutil.which("g++") or not shutil.which("cmake"):
        pytest.skip("needs g++, cmake and torch 2.7")
    return built("act_aoti", tmp_path_factory.mktemp("cpp"))


def test_files_that_the_aoti_program_refuses(act_aoti, tmp_path):
    """A file that is missing, no archive, or of another format ends with one line that names it."""
    assert "usage: act_aoti policy.pt2" in refusal(act_aoti)
    (tmp_path / "text.pt2").write_text("hello", encoding="utf-8")
    export_policy(policy(), ExportConfig("", tmp_path / "torch.pt2", format="torch", steps=1))
    for path in (tmp_path / "none.pt2", tmp_path / "text.pt2", tmp_path / "torch.pt2"):
        assert f"cannot load {path} as a file of --format aoti" in refusal(act_aoti, path)


@pytest.mark.slow
def test_the_aoti_program_computes_what_sample_computes(act_aoti, tmp_path):
    config = ExportConfig("", tmp_path / "policy.pt2", format="aoti", steps=2, batch=2, tokens=3)
    acting = policy()
    export_policy(acting, config)
    example = SamplingLoop(acting, Sampling(steps=2)).example(2, 3) | {"noise": acting.head.noise(2, generator())}
    example["mask"][0, 1:] = False
    done = subprocess.run(
        [act_aoti, config.out, *written(example, tmp_path), f"chunk={tmp_path / 'chunk'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("chunk (2, 16, 10), first action")
    chunk = torch.as_tensor(np.fromfile(tmp_path / "chunk", np.float32)).reshape(2, 16, 10)
    expected = acting.sample(example["cond"], mask=example["mask"], steps=2, generator=generator())
    torch.testing.assert_close(chunk, expected, rtol=1e-5, atol=1e-5)
    assert subprocess.run([act_aoti, config.out], capture_output=True).returncode == 0  # random noise and zeros
    check_refused_inputs(act_aoti, config.out, tmp_path)


def written(example: dict[str, torch.Tensor], folder: Path) -> list[str]:
    """Write each input to a file, and return the words that name them."""
    for name, tensor in example.items():
        tensor.numpy().tofile(folder / name)
    return [f"{name}={folder / name}" for name in example]


def refusal(program: Path, *words: str | Path) -> str:
    """Return the one line that the program ends with."""
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def check_refused_inputs(program: Path, path: Path, folder: Path) -> None:
    """Check that an unknown input, one of another size, and a chunk that is not finite end with one line."""
    np.full((2, 3, 7), np.nan, np.float32).tofile(folder / "nan")
    for word, wanted in (
        ("image=x", "unknown input image"),
        ("noise", "expected name=file, got noise"),
        ("noise=none", "cannot read none"),
        (f"chunk={folder}/none/chunk", "cannot write the chunk"),
        (f"noise={folder / 'nan'}", "has 168 bytes, but noise takes 1280"),
        (f"cond={folder / 'nan'}", "NaN or infinity in "),
    ):
        assert wanted in refusal(program, path, word)
