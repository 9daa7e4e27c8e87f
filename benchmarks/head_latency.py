"""Measure the time of a chunk of every bundled head: latency.json in its folder, which its card and `heads` show.

One thread, batch 1, ten denoising steps, AdaLN-Zero with its default path. The heads take turns, and the median of all
rounds counts. The shortest time stands beside it: if it is far below, other work ran on the machine.

    uv run benchmarks/head_latency.py            # measures, and writes the page's table
    uv run benchmarks/head_latency.py --page     # writes the cards, and the table in docs/guides/choose-head.md
"""

from __future__ import annotations

import json
import statistics
import time

import torch
import tyro
from common import PAGES, fill

from action_heads import ActionHead
from action_heads._util.machine import machine
from action_heads.adapters import AdaLNZero
from action_heads.io import hub, listing
from action_heads.io.files import write_text
from action_heads.pretrain.publish import write_card

PAGE = PAGES.parent / "guides" / "choose-head.md"
ROUNDS, CALLS, STEPS, COND_DIM = 30, 10, 10, 512


def main(page: bool = False) -> None:
    """Measure unless only the page is asked for, and write the page and the cards."""
    if not page:
        measure()
    for name, folder in hub.bundled().items():
        write_card(ActionHead.from_pretrained(name), folder, name)
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
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (_, policy) in calls.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                policy.sample(cond, steps=STEPS)
                times[name].append(1000 * (time.perf_counter() - began))
    for name, folder in hub.bundled().items():
        what = f"{calls[name][0]}, AdaLN-Zero, `native`, fp32, {STEPS} steps; median of {len(times[name])}"
        median, least = statistics.median(times[name]), min(times[name])
        record = {
            "command": "uv run benchmarks/head_latency.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine() | {"threads": 1},
            "results": [{"what": what, "batch": 1, "ms": round(median, 2), "least_ms": round(least, 2)}],
        }
        write_text(folder / "latency.json", json.dumps(record, indent=2) + "\n")
        print(f"{name}: {median:.2f} ms, least {least:.2f} ms")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
