"""Measure the time of a chunk of every bundled head: latency.json in its folder, which its card and `heads` show.

One thread, batch 1, ten denoising steps, AdaLN-Zero with its default path. The heads take turns, and the shortest time
of all rounds counts, so that other work on the machine does not decide their order.

    uv run benchmarks/head_latency.py            # measures, and writes the page's table
    uv run benchmarks/head_latency.py --page     # writes the table in docs/guides/choose-head.md alone
"""

from __future__ import annotations

import json
import time

import torch
import tyro
from common import PAGES, fill

from action_heads import ActionHead
from action_heads._util.machine import machine
from action_heads.adapters import AdaLNZero
from action_heads.io import hub, listing
from action_heads.io.files import write_text

PAGE = PAGES.parent / "guides" / "choose-head.md"
ROUNDS, CALLS, STEPS, COND_DIM = 30, 10, 10, 512


def main(page: bool = False) -> None:
    """Measure unless only the page is asked for, and write the page."""
    if not page:
        measure()
    fill(PAGE, {"heads": listing.table()})


@torch.no_grad()
def measure() -> None:
    """Write latency.json of every bundled head."""
    torch.set_num_threads(1)
    cond, calls = torch.randn(1, COND_DIM), {}
    for name in hub.bundled():
        head = ActionHead.from_pretrained(name)
        policy = head.attach(AdaLNZero(cond_dim=COND_DIM)).eval()
        calls[name] = (head.config.backbone, policy.compile("native"))
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, policy) in calls.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                policy.sample(cond, steps=STEPS)
                least[name] = min(least[name], 1000 * (time.perf_counter() - began))
    for name, folder in hub.bundled().items():
        what = f"{calls[name][0]}, AdaLN-Zero, `native`, fp32, {STEPS} steps; least of {ROUNDS * CALLS}"
        record = {
            "command": "uv run benchmarks/head_latency.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine() | {"threads": 1},
            "results": [{"what": what, "batch": 1, "ms": round(least[name], 2)}],
        }
        write_text(folder / "latency.json", json.dumps(record, indent=2) + "\n")
        print(f"{name}: {least[name]:.2f} ms")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
