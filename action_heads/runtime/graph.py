"""A head whose whole sampling loop is one CUDA graph, so that a chunk takes one launch instead of a thousand.

Axes: b batch, h horizon, a action, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from action_heads.denoiser import Denoiser
from action_heads.diffusion import samplers
from action_heads.diffusion.continuing import Prefix
from action_heads.modulation import HeadModulation
from action_heads.runtime.shared_weights import FastHead, Recent

KEPT = 8  # number of graphs kept, for the most recent shapes and plans
WARM_UP = 3  # runs before the capture, in which libraries choose kernels and torch allocates memory


class GraphHead(FastHead):
    """A head that replays the sampling loop as a CUDA graph.

    Noise is drawn outside the graph, so a generator gives the same chunks as eagerly. The sampler `ddpm`, which draws
    noise in the loop, and chunks with committed actions run eagerly; `fell_back` then has the reason.
    """

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head, dtype)
        self.graphs: Recent[Callable[..., Tensor]] = Recent(KEPT)
        self.fell_back = ""

    def denoise(
        self,
        table: Tensor,
        cond: Tensor | None,
        modulation: HeadModulation,
        noise: Tensor,
        plan: samplers.Schedule,
        generator: torch.Generator | None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Denoise as `Denoiser.denoise` does, by a graph that the first call with these shapes and plan captures."""
        self.fell_back = why_not_graphed(cond, plan, prefix)
        if self.fell_back:
            return super().denoise(table, cond, modulation, noise, plan, generator, prefix)
        assert cond is not None
        key = (noise.shape, cond.shape, cond.dtype, table.shape, table.dtype, id(plan), id(modulation))
        eager = super().denoise

        def loop(table: Tensor, cond: Tensor, noise: Tensor) -> Tensor:
            return eager(table, cond, modulation, noise, plan, None)

        return self.graphs.get(key, lambda: capture(loop, table, cond, noise))(table, cond, noise)


def why_not_graphed(cond: Tensor | None, plan: samplers.Schedule, prefix: Prefix | None) -> str:
    """Return why a call can't use a graph, or an empty string."""
    if plan.noise is not None:
        return "this sampler draws noise at every step, which a graph can't draw from your generator"
    if prefix is not None:
        return "committed actions change from call to call"
    return "" if cond is not None else "unconditional chunks are sampled by the head itself"


def capture(loop: Callable[..., Any], *example: Tensor) -> Callable[..., Any]:
    """Capture a function of tensors as a CUDA graph, which copies its inputs in and its output (or outputs) out.

    The tensors' GPU need not be the current one. On a CPU, which has no graphs, return the function itself.
    """
    device = example[0].device
    if device.type == "cpu":
        return loop
    # Triton and `torch.cuda.graph` use the current device. Inference tensors can't be written to outside their mode.
    with torch.cuda.device(device), torch.inference_mode(False), torch.no_grad():
        inputs = [tensor.detach().clone() for tensor in example]
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                loop(*inputs)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            output = loop(*inputs)

    return Replay(graph, inputs, output, loop)


class Replay(NamedTuple):
    """A captured graph. It keeps the function, since the key of a graph has the id of the function's plan."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Any
    loop: Callable[..., Any]

    def __call__(self, *given: Tensor) -> Any:
        """Copy the inputs in, replay the graph, and return a copy of the output."""
        for own, tensor in zip(self.inputs, given, strict=True):
            own.copy_(tensor)
        self.graph.replay()
        return tree_map(Tensor.clone, self.output)
