"""A head whose blocks are two Triton kernels each, so that ten denoising steps take 171 launches in place of 1,000.

At batch 1 a GPU computes each operator of a chunk faster than it starts the next one, even in a graph. `fused_kernels`
describes what each launch computes. The policy's whole `sample` from noise to robot units is captured in one graph:
adapter, step modulation, the fused loop, the normaliser, and whether the result is finite.

The first call of a shape compares the kernels with eager and times them beside the plain `graph`. If they fail to
compile, differ by more than rounding, or are slower, the plain graph is used and `fell_back` has the reason. Samplers
that draw noise in the loop and chunks with committed actions run eagerly, as in `graph`.

Memory that the graph reads must stay where it is: the frozen head's weights do, and a new place of the adapter's or of
the normaliser's tensors leads to a new graph. New values in the same place count at the next call.

Axes: b batch, h horizon, a action, w width, u hidden units, P modulation values of all sites, k network evaluations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from action_heads._util.conditions import Condition, Mask
from action_heads._util.extras import pip
from action_heads.acting import Policy
from action_heads.adapters import ADAPTERS
from action_heads.adapters.base import SLOTS
from action_heads.backbones.mixer import MixerBlock
from action_heads.backbones.mlp import MLPBackbone, MLPBlock
from action_heads.denoiser import Denoiser
from action_heads.diffusion import samplers
from action_heads.diffusion.continuing import Prefix
from action_heads.diffusion.objectives import CONVERSIONS, Objective
from action_heads.modulation import HeadModulation
from action_heads.runtime.graph import KEPT, GraphHead, capture, why_not_graphed
from action_heads.runtime.inductor import why_no_triton
from action_heads.runtime.shared_weights import Recent

WIDEST = 1024  # A program holds whole rows of the residual stream.
LONGEST = 64  # A program holds whole chunks.
LEAST = 16  # the smallest side of a product on tensor cores
OLDEST = (3, 3)  # the oldest Triton whose interpreter computes these kernels
# The mean difference from eager in network units above which the kernels are not used. Denoising may amplify rounding.
APART = {torch.float32: 1e-3, torch.bfloat16: 0.05}
Denoise = Callable[[Tensor, Tensor, HeadModulation, Tensor, samplers.Schedule], Tensor]


class Choice(NamedTuple):
    """The graph with the fused kernels, or None and the reason to use the plain graph."""

    run: Callable[..., tuple[Tensor, Tensor]] | None
    reason: str


class Tiles(NamedTuple):
    """The part of a product that one program computes, and how."""

    rows: int = 16  # at least one chunk
    up: int = 32  # columns of W_1 x
    down: int = 16  # columns of W_2 x
    depth: int = 128  # inputs of W_2 that are multiplied at once
    warps: int = 4
    stages: int = 3
    precision: str = "tf32x3"  # of float32 products: three on tensor cores, nearly float32; or "ieee", which is slower


def tiles_for(rows: int, dtype: torch.dtype) -> Tiles:
    """Return tiles for so many rows (b h): small ones until all multiprocessors have work."""
    if rows <= 512:
        return Tiles()
    # With four warps a tile of 64 whole rows does not fit into the registers. In float32, 128 columns of W_1 do not fit
    # into the shared memory of Hopper beside the rows.
    return Tiles(64, 64, 64, 64, 8) if rows <= 8192 or dtype == torch.float32 else Tiles(64, 128, 128, 64, 8)


class FusedHead(GraphHead):
    """A head that computes its sampling loop by the kernels of `fused_kernels`.

    Only the weights and inputs of products are bfloat16 with that dtype; sums, norms and modulation keep 32 bits.
    """

    def __init__(self, head: Denoiser, dtype: torch.dtype, tiles: Tiles | None = None):
        if why := why_not_fused(head):
            raise RuntimeError(f"The fused kernels can't be used here: {why}. Use compile('graph') or compile().")
        super().__init__(head, dtype)
        self.tiles, self.kernels = tiles, import_module("action_heads.runtime.fused_kernels")
        self.launches = 0  # kernels started outside a graph, or captured
        self.choices: Recent[Choice] = Recent(KEPT)
        self.places: Places | None = None
        backbone = self.backbone
        assert isinstance(backbone, MLPBackbone)
        self.blocks = [block for block in backbone.blocks if isinstance(block, MLPBlock)]
        self.mixes = isinstance(self.blocks[0], MixerBlock)

    def denoise_fused(
        self,
        shares: Tensor,
        table: Tensor,
        cond: Tensor,
        modulation: HeadModulation,
        noise: Tensor,
        plan: samplers.Schedule,
    ) -> Tensor:
        """Denoise as `Denoiser.denoise` does, by the kernels; `shares` are the plan's `coefficients`."""
        backbone, mechanism = self.backbone, modulation.mechanism
        assert isinstance(backbone, MLPBackbone)
        b, h, a = noise.shape
        w, u, tiles = backbone.width, backbone.hidden, self.tiles or tiles_for(b * h, self.dtype)
        steps, cond = table[plan.timesteps].float(), cond.float().contiguous()
        strides = [cond.stride(axis) if cond.shape[axis] > 1 else 0 for axis in (0, 1)]
        chunk, x, stream = noise.float().clone(), *(noise.new_empty((b, h, w), dtype=torch.float32) for _ in range(2))
        hidden, memory = noise.new_empty((b, h, u), dtype=self.dtype), torch.zeros_like(chunk)
        values, slots = mechanism.offsets(backbone.sites[0])
        padded = {"HP": power(h), "WP": power(w, LEAST)}
        chunks = max(1, tiles.rows // padded["HP"], -(-LEAST // padded["HP"]))
        sizes = {"H": h, "W": w, "EPS": self.blocks[0].norm.eps, "RMS": mechanism.rms}
        dots = {"WIDEN": is_interpreted(), "PRECISION": tiles.precision, "num_warps": tiles.warps}
        block = {"H": h, "W": w, "U": u, "HP": padded["HP"], "CHUNKS": chunks, "num_stages": tiles.stages, **dots}
        groups, last = -(-b // chunks), self.blocks[-1].norm
        up, down = (min(columns, power(n, LEAST)) for columns, n in ((tiles.up, u), (tiles.down, w)))

        def turn(k: int) -> None:
            """Finish step k - 1 and embed for step k."""
            ends = (backbone.embed, last, backbone.norm, backbone.out)
            weights = [part.get_parameter(name) for part in ends for name in ("weight", "bias")]
            given = (stream, x, chunk, memory, shares[max(k - 1, 0)], *weights, self.objective.config.clip, b)
            self.launch(
                "turn", (-(-b // LEAST), h), *given, **sizes, **dots, A=a, AP=power(a, LEAST), WP=padded["WP"],
                MEMORY=plan.memory is not None, FIRST=k == 0, LAST=k == len(steps), CHUNKS=LEAST,
            )  # fmt: skip

        for k, step in enumerate(steps):
            turn(k)
            for i, (part, norm) in enumerate(zip(self.blocks, [last, *(p.norm for p in self.blocks)], strict=False)):
                own, here = step[i * values :], cond[..., i * values :]
                mix = part.mix if isinstance(part, MixerBlock) else part.up
                self.launch(
                    "enter", (groups, -(-u // up)), stream if i else x, x, hidden, own, here, part.up.weight,
                    part.up.bias, norm.weight, norm.bias, mix.weight, mix.bias, b, *strides, **block,
                    WP=padded["WP"], EPS=norm.eps, NORM=i > 0, RMS=mechanism.rms, MIX=self.mixes, COLUMNS=up,
                    **{slot.upper(): slots[slot] for slot in SLOTS if slot != "gate"},
                )  # fmt: skip
                self.launch(
                    "leave", (groups, -(-w // down)), hidden, x, stream, own, here, part.down.weight, part.down.bias,
                    b, *strides, **block, GATE=slots["gate"], COLUMNS=down, DEPTH=min(tiles.depth, power(u, LEAST)),
                )  # fmt: skip
        turn(len(steps))
        return chunk

    def launch(self, kernel: str, grid: tuple[int, int], *given: Any, **meta: Any) -> None:
        """Start a kernel, and count it."""
        self.launches += 1
        getattr(self.kernels, kernel)[grid](*given, **meta)

    def sample_at_once(
        self,
        policy: Policy,
        plain: Callable[[], tuple[Tensor, Tensor]],
        noise: Tensor,
        plan: samplers.Schedule,
        cond: Condition,
        mask: Mask,
        prefix: Prefix | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute as `Policy.denoise` does by one graph, or call `plain`, which does it by the plain `graph`."""
        if why_not_graphed(noise, plan, prefix):
            return plain()  # The reason is then in `fell_back`.
        given, layout = tree_flatten((dict(cond) if isinstance(cond, Mapping) else cond, mask))
        parts = policy.adapter, policy.normalizer
        if self.places is None or not self.places.are_of(parts):
            self.places = Places.of(parts)
        shapes = [(t.shape, t.dtype, t.device) for t in given if t is not None]
        key = (noise.shape, id(plan), str(layout), *shapes, self.places.addresses)
        missing = [t is None for t in given]
        given = [noise, *(t for t in given if t is not None)]

        def loop(denoise: Denoise, noise: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
            left = iter(given)
            cond, mask = tree_unflatten([None if none else next(left) for none in missing], layout)
            values = policy.modulate(cond, mask)
            x = denoise(policy.step_values(), values, policy.modulation, noise, plan)
            return policy.finish(x, values)

        choice = self.choices.get(key, lambda: self._choose(loop, policy, plain, plan, given))
        result = plain() if choice.run is None else choice.run(*given)
        self.fell_back = choice.reason
        return result

    def _choose(
        self, loop: Callable[..., Any], policy: Policy, plain: Callable[[], Any], plan: samplers.Schedule, given: list
    ) -> Choice:
        """Capture a loop with the kernels, compare it with torch's operators, and time it beside the plain graph."""
        shares = coefficients(self.objective, plan)

        def eager(table: Tensor, values: Tensor, own: HeadModulation, noise: Tensor, plan: samplers.Schedule) -> Tensor:
            return Denoiser.denoise(self, table, values, own, noise, plan, None)

        try:
            run = capture(partial(loop, partial(self.denoise_fused, shares)), *given)
            chunk, _ = run(*given)
        except Exception as error:  # What Triton raises has no common class.
            return Choice(None, f"the fused kernels failed ({type(error).__name__}: {str(error)[:300]})")
        expected, _ = loop(eager, *given)
        apart = float(((chunk - expected) / policy.normalizer.scale).abs().mean())
        if not apart <= APART[self.dtype]:
            return Choice(None, f"the fused kernels differ from eager by {apart:.1e} on average")
        if not chunk.is_cuda:
            return Choice(run, "")
        fused, graph = (least_seconds(call) for call in (lambda: run(*given), plain))
        if fused > graph:
            return Choice(
                None, f"the fused kernels took {1e3 * fused:.2f} ms, and the plain graph {1e3 * graph:.2f} ms"
            )
        return Choice(run, "")


def least_seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Return the least time of a call on the GPU, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


class Places(NamedTuple):
    """The addresses of all parameters and buffers of some modules, and by what it shows that they are still there."""

    modules: tuple[nn.Module, ...]
    dicts: list[dict[str, Any]]  # of every module inside: its modules, parameters and buffers
    held: list[Any]  # the values of these dicts
    tensors: list[Tensor]
    addresses: tuple[int, ...]

    @classmethod
    def of(cls, modules: tuple[nn.Module, ...]) -> Places:
        every = [part for module in modules for part in module.modules()]
        dicts = [held for part in every for held in (part._modules, part._parameters, part._buffers)]
        held = values_of(dicts)
        found = [x for x in held if isinstance(x, Tensor)]
        return cls(modules, dicts, held, found, addresses(found))

    def are_of(self, modules: tuple[nn.Module, ...]) -> bool:
        """Return whether these modules still have the same tensors in the same places, without looking for them."""
        now = values_of(self.dicts)
        return (
            all(map(is_, modules, self.modules))
            and len(now) == len(self.held)
            and all(map(is_, now, self.held))
            and addresses(self.tensors) == self.addresses
        )


def values_of(dicts: list[dict[str, Any]]) -> list[Any]:
    """Return the values of all dicts in one list."""
    return list(chain.from_iterable(map(dict.values, dicts)))


def addresses(tensors: list[Tensor]) -> tuple[int, ...]:
    """Return where the memory of tensors begins."""
    return tuple(map(Tensor.data_ptr, tensors))


def coefficients(objective: Objective, plan: samplers.Schedule) -> Tensor:
    """Return the numbers of each step (k 8) by which `turn` updates a chunk.

    These are the shares of the network's output and of the noisy chunk in the clean chunk; of the clean chunk, of the
    noisy one and of the memory in the next noisy chunk; and of the clean and of the noisy chunk in the next memory. The
    last number is 0: Triton compiles a kernel again if an address is not a multiple of 16 bytes.
    """
    alpha, sigma = objective.shares(plan.timesteps)
    one, none = torch.ones_like(alpha), torch.zeros_like(alpha)
    # Every conversion is linear in the output and in the noisy chunk.
    clean = CONVERSIONS[objective.config.prediction][1]
    memory = (none, none, none) if plan.memory is None else plan.memory
    of_output, of_noisy = clean(one, none, alpha, sigma), clean(none, one, alpha, sigma)
    return torch.stack([of_output, of_noisy, plan.x0, plan.x, *memory, none], dim=1)


def power(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least n."""
    return max(least, 1 << (n - 1).bit_length())


def is_interpreted() -> bool:
    """Return whether Triton runs kernels on the CPU, which it decides when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not_fused(head: Denoiser) -> str:
    """Return why the kernels can't compute this head, or an empty string."""
    backbone, config = head.backbone, head.config
    if not isinstance(backbone, MLPBackbone):
        return f"the fused kernels have the blocks of mlp and mixer, not of {config.backbone}"
    if other := [name for name in config.mechanisms if not ADAPTERS[name].slots]:
        return f"the fused kernels do not have the mechanism {other[0]}"
    if backbone.width > WIDEST or config.horizon > LONGEST:
        return (
            f"the fused kernels compute heads of width {WIDEST} and horizon {LONGEST} at most, but this head has "
            f"{backbone.width} and {config.horizon}"
        )
    if find_spec("triton") is None:
        return f"Triton is not installed ({pip()} install triton, for Linux with an NVIDIA GPU)"
    if why := why_no_triton():
        return why
    version = import_module("triton").__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST))} (install a newer torch)"
    if head.device.type != "cuda" and not is_interpreted():
        return (
            f"the fused kernels need a CUDA device, and this head is on {head.device}; with TRITON_INTERPRET=1 in the "
            "environment Triton interprets them on the CPU, slowly"
        )
    return ""
