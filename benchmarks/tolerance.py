"""Measure the distance of compiled policies from eager ones, and the cost of int8, for docs/results/precision.md.

uv run benchmarks/tolerance.py

It samples 64 chunks of each bundled head in ten DDIM steps from the same noise, with an adapter of random weights.

Axes: b batch, h horizon, a action.
"""

from __future__ import annotations

import warnings

import torch
import tyro
from common import DOCS, fill, table, write_results
from torch import Tensor, nn

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
from action_heads.io import hub
from action_heads.policy import ConditionedHead

COND_DIM, BATCH = 512, 64


def steered(head: ActionHead) -> ConditionedHead:
    torch.manual_seed(0)
    policy = head.attach(AdaLNZero(COND_DIM)).eval()
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return policy


def int8(policy: ConditionedHead) -> ConditionedHead:
    """Return the policy with weights and activations (row by row) in 8 bits, by torch's dynamic quantisation."""
    head = policy.head.in_mode("normal")  # the same network, but not frozen, since a frozen one refuses other modules
    head.load_state_dict(policy.head.state_dict())
    policy = steered(head)  # with the same adapter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it in favour of a separate package.
        policy.head.backbone.blocks = torch.ao.quantization.quantize_dynamic(
            policy.head.backbone.blocks,  # pyright: ignore[reportArgumentType]
            {nn.Linear},
            torch.qint8,
        )
    return policy


def difference(policy: ConditionedHead, chunk: Tensor, other: Tensor) -> dict[str, float]:
    """Return the median and largest difference of positions in mm, and the largest of the other columns, within ±1."""
    position = policy.head.config.space.slices("position")[0]
    moved = (other - chunk).abs()
    rest = moved.clone()
    rest[..., position] = 0
    mm = 1e3 * moved[..., position].norm(dim=-1)
    return {
        "median_mm": float(mm.median()),
        "largest_mm": float(mm.max()),
        "largest_else": float(rest.max()),
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in hub.bundled():
        policy = steered(ActionHead.from_pretrained(name))
        cond = torch.randn(BATCH, COND_DIM, generator=torch.Generator().manual_seed(1))

        def sample(p: ConditionedHead, cond: Tensor = cond) -> Tensor:
            return p.sample(cond, steps=10, generator=torch.Generator().manual_seed(2))

        eager = sample(policy)
        ways = {
            "eager": policy,
            "native fp32": policy.compile("native", dtype=torch.float32),
            "native bf16": policy.compile("native", dtype=torch.bfloat16),
            "packed fp32": policy.compile("packed", dtype=torch.float32),
            "packed bf16": policy.compile("packed", dtype=torch.bfloat16),
            "int8, not offered": int8(policy),
        }
        for way, p in ways.items():
            rows.append({"head": name, "way": way} | difference(policy, eager, sample(p)))
    write_results("tolerance", rows)
    lines = [
        [f"`{r['head']}`", r["way"], f"{r['median_mm']:.2g}", f"{r['largest_mm']:.2g}", f"{r['largest_else']:.1g}"]
        for r in rows
        if r["way"] != "eager"
    ]
    header = ["head", "method and precision", "position: median, mm", "position: largest, mm", "other values: largest"]
    fill(DOCS / "precision.md", {"tolerance": table(header, lines, left=2)})
    print(*rows, sep="\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
