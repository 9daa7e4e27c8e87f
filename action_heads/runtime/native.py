"""A head whose network runs in one call of native.cpp, which is compiled for this processor in 2 seconds.

Axes: b batch, h horizon, a action, w width, P modulation values of all sites.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util.machine import cpu_facts
from action_heads.adapters import ADAPTERS, Adapter
from action_heads.adapters.base import SLOTS
from action_heads.backbones.mixer import MixerBlock
from action_heads.backbones.mlp import MLPBackbone, MLPBlock
from action_heads.denoiser import Denoiser
from action_heads.modulation import HeadModulation
from action_heads.runtime import cache
from action_heads.runtime.shared_weights import FastHead

SOURCE = Path(__file__).with_name("native.cpp")
SIZES = ("depth", "width", "hidden", "horizon", "action", "values")
FEW = 4  # chunks whose adapter gains nothing from a second thread
EPS = 1e-5  # of every norm, as nn.LayerNorm has it

# Without the second, neighbours and threads could change the bits of a chunk; see `fma` in native.cpp.
COMMON = ("-O3", "-ffp-contract=off", "-pthread")


def flags(system: str, machine: str) -> tuple[str, ...]:
    """Return the compiler's flags for a system and a processor, by the names of `sys` and `platform`."""
    # clang has no -march=native for ARM. Under macOS, native.cpp waits for threads as C++20 does.
    target = "-mcpu=native" if machine in ("aarch64", "arm64") else "-march=native"
    standard = "-std=c++20" if system == "darwin" else "-std=c++17"
    return *COMMON, target, standard, "-fPIC"


FLAGS = flags(sys.platform, platform.machine())


class Shape(ctypes.Structure):
    """The C++ struct `Shape` of native.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (*SIZES, *SLOTS, "rms")),
        ("eps", ctypes.c_float),
    ]


LENT: ContextVar[int] = ContextVar("threads that torch lends to the network in this thread", default=0)


@contextmanager
def lending() -> Iterator[None]:
    """Let torch use one thread, and the network all that torch had.

    OpenMP's threads spin while they wait for each other and for the next operator. Between the steps of the loop they
    would take the cores from the network's threads, and beside busy processes an operator takes as long as a time slice
    of the system. The sampler's operators are too small to gain from more threads.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    lent = LENT.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        LENT.reset(lent)


class NativeHead(FastHead):
    """A head that computes in C++. Only the blocks' linear layers and their inputs use bfloat16; sums keep 32 bits."""

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head, head.dtype)
        self.copied = True
        backbone, self.library = head.backbone, library()
        assert isinstance(backbone, MLPBackbone)
        self.call = self.library.run_bf16 if dtype == torch.bfloat16 else self.library.run_fp32
        self.shapes = {name: shape_of(head, ADAPTERS[name]) for name in head.config.mechanisms}
        with torch.inference_mode(False), torch.no_grad():
            self.ends = ends(backbone)
            columns = self.library.columns()
            blocks = [block for block in backbone.blocks if isinstance(block, MLPBlock)]
            self.blocks = [part for block in blocks for part in packed(block, dtype, columns)]
        self.places = addresses(self.ends), addresses(self.blocks)

    def predict(self, x_t: Tensor, values: Tensor, modulation: HeadModulation) -> Tensor:
        """Predict as `Denoiser.predict` does, without gradients."""
        shape, chunks = self.shapes[modulation.mechanism.name], len(x_t)
        threads = LENT.get() or torch.get_num_threads()
        self.check(x_t, values, shape)
        x_t, values = plain(x_t), plain(values)
        out = torch.empty_like(x_t)
        # A stride of 0 reads the same values for all chunks, or for all time steps of a chunk.
        strides = [values.stride(axis) if values.shape[axis] > 1 else 0 for axis in (0, 1)]
        scratch = x_t.new_empty(self.library.scratch_size(ctypes.byref(shape), chunks, threads))
        tensors = (tensor.data_ptr() for tensor in (x_t, out, values))
        self.call(ctypes.byref(shape), *self.places, *tensors, *strides, chunks, scratch.data_ptr(), threads)
        return out

    def acting(self, chunks: int) -> AbstractContextManager[None]:
        """Lend torch's threads from before the adapter on for few chunks, whose adapter gains nothing by them."""
        return lending() if chunks <= FEW else nullcontext()

    def denoise(self, *given: Any, **options: Any) -> Tensor:
        """Denoise as `Denoiser.denoise` does, with torch's threads lent to the network."""
        with lending():
            return super().denoise(*given, **options)

    def check(self, x_t: Tensor, values: Tensor, shape: Shape) -> None:
        """Raise a ValueError for shapes with which C++ would read or write out of bounds."""
        b, h, total = len(x_t), shape.horizon, shape.depth * shape.values
        fits = values.ndim == 3 and len(values) in (1, b) and values.shape[1] in (1, h) and values.shape[2] == total
        if x_t.shape != (b, h, shape.action) or not fits:
            raise ValueError(
                f"Chunks have shape {tuple(x_t.shape)} and modulation values {tuple(values.shape)}; expected "
                f"(b, {h}, {shape.action}) and (1 or b, 1 or {h}, {total})."
            )
        if (x_t.device.type, values.device.type) != ("cpu", "cpu"):
            raise ValueError(
                f"Chunks are on {x_t.device}, modulation values on {values.device}, but `native` computes on the CPU."
            )


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor as C++ reads it: float32 and contiguous."""
    return tensor.detach().float().contiguous()


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    """Return the addresses of tensors; 0 for None."""
    return (ctypes.c_void_p * len(tensors))(*(0 if tensor is None else tensor.data_ptr() for tensor in tensors))


def ends(backbone: MLPBackbone) -> list[Tensor]:
    """Return the weights before and after the blocks, in the order of native.cpp."""
    parts = backbone.embed, backbone.norm, backbone.out
    return [plain(part.get_parameter(name)) for part in parts for name in ("weight", "bias")]


def shape_of(head: Denoiser, mechanism: type[Adapter]) -> Shape:
    """Return the sizes that native.cpp needs for a head and a mechanism."""
    c, sites = head.config, head.backbone.sites
    site = sites[0]
    values, where = mechanism.offsets(site)
    sizes = (len(sites), site.width, site.hidden, c.horizon, c.space.dim, values)
    return Shape(*sizes, *where.values(), mechanism.rms, EPS)


def packed(block: MLPBlock, dtype: torch.dtype, columns: int) -> list[Tensor | None]:
    """Return the weights of a block in the order and layout of native.cpp."""

    def panels(weight: Tensor) -> Tensor:
        """Reorder (n k) to (n / columns, k, columns). bfloat16 keeps pairs of inputs side by side."""
        group = 2 if dtype == torch.bfloat16 else 1
        return weight.to(dtype).unflatten(1, (-1, group)).unflatten(0, (-1, columns)).transpose(1, 2).contiguous()

    maps = [panels(block.up.weight), panels(block.down.weight)]
    rest = [plain(p) for p in (block.up.bias, block.down.bias, block.norm.weight, block.norm.bias)]
    mix = [plain(block.mix.weight), plain(block.mix.bias)] if isinstance(block, MixerBlock) else [None, None]
    return [*maps, *rest, *mix]


def why_not_native(head: Denoiser, dtype: torch.dtype, by_name: bool = True) -> str:
    """Return why native.cpp can't compute this head, or an empty string.

    Args:
        by_name: whether the user asked for `native`.
    """
    backbone, config = head.backbone, head.config
    if head.device.type != "cpu" or sys.platform not in ("linux", "darwin"):
        return "our own C++ is for CPUs under Linux or macOS"
    if sys.platform == "darwin" and not by_name:
        return 'our own C++ has not been run under macOS yet (to try it, call compile("native"))'
    if not isinstance(backbone, MLPBackbone):
        return f"our own C++ has the blocks of mlp and mixer, not of {config.backbone}"
    if other := [name for name in config.mechanisms if not ADAPTERS[name].slots]:
        return f"our own C++ does not have the mechanism {other[0]}"
    try:
        built = library()
    except OSError as error:
        return str(error)
    if backbone.width % built.columns() or backbone.hidden % built.columns():
        widths = f"{backbone.width} and {backbone.hidden}"
        return f"our own C++ needs widths that {built.columns()} divides here, but this head's are {widths}"
    return (
        "" if dtype == torch.float32 or built.has_bf16() else "this processor has no AVX-512 instructions for bfloat16"
    )


def instructions(dtype: torch.dtype) -> str:
    """Return the name of the instruction set that native.cpp multiplies with, such as AVX-512, AMX or NEON."""
    return library().instructions(dtype == torch.bfloat16).decode()


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library of native.cpp, which the first call on a machine compiles and caches.

    Raises:
        OSError: it can't be compiled here. The message has the reason.
    """
    compiler = next(filter(None, map(shutil.which, ("g++", "c++"))), None)
    if compiler is None:
        raise OSError("there is no C++ compiler (apt-get install g++)")
    # The compiled file depends on these. The processor is one of them, since machines may share a home folder.
    inputs = (SOURCE.read_bytes(), *FLAGS, compiler, _processor())
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]

    def build(path: Path) -> None:
        made = path.with_suffix(".o")
        _run(compiler, *FLAGS, "-c", SOURCE, "-o", made)
        _run(compiler, "-shared", "-pthread", made, "-o", path)

    return cache.kept(cache.cache_dir(), f"native-{key}.so", build, load)


def load(path: Path) -> ctypes.CDLL:
    """Return the compiled library, with the types of its functions."""
    loaded = mapped(path)
    pointer, long = ctypes.c_void_p, ctypes.c_long
    for name in ("run_fp32", "run_bf16") if loaded.has_bf16() else ("run_fp32",):
        function = getattr(loaded, name)
        function.argtypes = [*6 * [pointer], *3 * [long], pointer, ctypes.c_int]
        function.restype = None
    loaded.scratch_size.argtypes = [pointer, long, ctypes.c_int]
    loaded.scratch_size.restype = long
    loaded.instructions.restype = ctypes.c_char_p
    return loaded


def mapped(path: Path) -> ctypes.CDLL:
    """Load a library from a copy in memory, since a process would crash if the library's file were overwritten."""
    try:
        handle = os.memfd_create("action-heads")
        with open(handle, "wb", closefd=False) as copy:
            copy.write(path.read_bytes())
        # The handle stays open: the loader would take another library at the same path for this one.
        return ctypes.CDLL(f"/proc/self/fd/{handle}")
    except (AttributeError, OSError):  # The system has no such files, or does not execute them.
        return ctypes.CDLL(str(path))


def _processor() -> str:
    """Return model and instruction sets of this processor."""
    facts = set(cpu_facts("model name", "flags", "Features", "CPU part"))
    if sys.platform == "darwin":
        facts = {subprocess.run(("sysctl", "-n", "machdep.cpu.brand_string"), capture_output=True, text=True).stdout}
    return platform.machine() + "".join(sorted(facts))


def _run(*command: object) -> None:
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, errors="replace", timeout=300
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not compile {SOURCE.name} within 5 minutes") from None
    if done.returncode:
        raise OSError(f"{command[0]} could not compile {SOURCE.name}: {done.stderr.strip()[-500:]}")
