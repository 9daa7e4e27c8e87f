"""Native C++ code gives the numbers of eager mode on 64-bit ARM, which qemu emulates.

qemu can't show how fast the code is there, nor what a processor does that orders memory more loosely than this one.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy
from torch import Tensor

from action_heads.runtime import native
from action_heads.runtime.native import NativeHead, Shape

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROGRAM = Path(__file__).with_name("native_call.cpp")
PROCESSORS = {"widened": "armv8-a", "bfloat16 instructions": "armv8.6-a+bf16"}
SMALL = {"width": 32, "depth": 2}
missing = [name for name in (COMPILER, EMULATOR) if not shutil.which(name)]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or bool(missing),
    reason=f"needs {' and '.join(missing)} under Linux (apt-get install g++-aarch64-linux-gnu qemu-user)",
)


class EmulatedLibrary:
    """The library of native.cpp on an ARM processor. Each of its calls is a process of qemu."""

    def __init__(self, program: Path):
        self.program = program
        self.tensors: list[Tensor | None] = []  # those whose addresses a call has, in its order
        self.threads = 0  # of the last call

    def ask(self, *words: object, given: bytes = b"") -> bytes:
        command = [EMULATOR, "-cpu", "max", str(self.program), *map(str, words)]
        done = subprocess.run(command, input=given, capture_output=True, timeout=60)
        assert done.returncode == 0, (words, done.returncode, done.stderr)
        return done.stdout

    def columns(self) -> int:
        return int(self.ask("columns"))

    def has_bf16(self) -> int:
        return int(self.ask("has_bf16"))

    def instructions(self, bf16: bool) -> bytes:
        return self.ask("instructions", int(bf16))

    def scratch_size(self, shape, chunks: int, threads: int) -> int:
        return 1  # The program allocates its own.

    def run_fp32(self, *given) -> None:
        self.call("run_fp32", *given)

    def run_bf16(self, *given) -> None:
        self.call("run_bf16", *given)

    def call(self, name, shape, ends, blocks, noisy, out, values, by_chunk, by_step, chunks, scratch, threads) -> None:
        """Send what the addresses of a call hold, and write the answer where the call wants it."""
        s: Shape = shape._obj
        size = 4 * chunks * s.horizon * s.action
        count = 1 + (chunks - 1) * by_chunk + (s.horizon - 1) * by_step + s.depth * s.values - 1
        numbers = (ctypes.c_int64 * 4)(by_chunk, by_step, chunks, threads)
        self.threads = threads
        held = [b"" if t is None else ctypes.string_at(t.data_ptr(), t.nbytes) for t in self.tensors]
        held += [ctypes.string_at(noisy, size), ctypes.string_at(values, 4 * count)]
        parts = [bytes(s), bytes(numbers)]
        for content in held:
            parts += [bytes(ctypes.c_int64(len(content))), content]
        answer = self.ask(name, given=b"".join(parts))
        assert len(answer) == size
        ctypes.memmove(out, answer, size)


@pytest.fixture(scope="module", params=PROCESSORS)
def emulated(request, tmp_path_factory) -> EmulatedLibrary:
    """Return the library, compiled for one of the processors with all warnings as errors."""
    made = tmp_path_factory.mktemp("arm") / "native_call"
    flags = [*native.COMMON, f"-march={PROCESSORS[request.param]}", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    include = ["-static", "-I", str(native.SOURCE.parent)]
    subprocess.run([COMPILER, *flags, *include, str(PROGRAM), "-o", str(made)], check=True, timeout=300)
    return EmulatedLibrary(made)


@pytest.fixture
def made(emulated, monkeypatch):
    """Return a function that makes a native head which computes in the emulator."""
    monkeypatch.setattr(native, "library", lambda: emulated)

    def make(head, dtype: torch.dtype) -> NativeHead:
        fast = NativeHead(head, dtype)
        emulated.tensors = [*fast.ends, *fast.blocks]
        return fast

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backbone", ["mlp", "mixer"])
def test_is_eager(emulated, made, backbone, dtype):
    """Batches of 1 (one block) and 5 (two blocks) are near eager, and no number of threads changes a bit."""
    head = tiny_head(backbone, horizon=14, **SMALL)  # 14 and 56 rows: some tiles are not full
    fast, modulation, g = made(head, dtype), head.modulation_of("adaln_zero"), generator()
    x = torch.randn(5, 14, 10, generator=g)
    values = 0.3 * torch.randn(5, 14, modulation.values, generator=g)
    outs = []
    for batch in (1, 5):
        given = x[:batch], values[:batch], modulation
        expected = head.predict(*given)
        for threads in (1, 2):
            lent = native.LENT.set(threads)
            outs += [fast.predict(*given)]
            native.LENT.reset(lent)
            assert emulated.threads == threads
            if dtype == torch.float32:
                torch.testing.assert_close(outs[-1], expected, rtol=1e-5, atol=1e-5)
            else:
                torch.testing.assert_close(outs[-1], expected, rtol=0, atol=0.05)
                assert not torch.equal(outs[-1], expected)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[2], outs[3])
    assert torch.equal(outs[0], outs[2][:1])


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7FC00000, -1, -0x400000])
def test_no_nan_becomes_a_number(made, bits):
    """Rounding to bfloat16 keeps every NaN."""
    head = tiny_head(**SMALL)
    x, modulation = torch.zeros(1, 16, 10), head.modulation_of("film")
    values = torch.zeros(1, 1, modulation.values)
    values.view(torch.int32)[0, 0, 3] = bits
    assert made(head, torch.bfloat16).predict(x, values, modulation).isnan().any()


def test_a_policy_is_compiled_for_neon(emulated, made, monkeypatch):
    """`compile` takes the C++ code on ARM and says that it uses NEON."""
    policy = trained_policy(tiny_head("mixer", **SMALL))
    made(policy.head, torch.float32)
    fast, cond = policy.compile(), conditions(1)
    assert fast.compiled.reason == "one call of our own C++ computes the whole network, with NEON"
    chunks = [p.sample(cond, steps=2, generator=generator()) for p in (policy, fast)]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
