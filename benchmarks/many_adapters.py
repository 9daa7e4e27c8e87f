"""Compare the time of a separate adapter for each row of a batch with one adapter for all rows and with a loop.

    uv run benchmarks/many_adapters.py    # 64 adapters on dae/mlp-5m-fk

A chunk takes 10 denoising steps in fp32. The times are medians of interleaved rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import tyro
from common import write_results
from torch import Tensor

from action_heads import ActionHead, AdapterBank
from action_heads._util.progress import progress_bar
from action_heads.adapters import AdaLNZero

ADAPTERS, COND_DIM, ROUNDS = 64, 2048, 7


def main() -> None:
    torch.manual_seed(0)
    head = ActionHead.from_pretrained("dae/mlp-5m-fk")
    bank = AdapterBank(head)
    policies = {}
    for i in range(ADAPTERS):
        policies[f"task {i}"] = head.attach(AdaLNZero(COND_DIM, through="code", hidden_dim=64)).eval()
        bank.add(f"task {i}", policies[f"task {i}"])
    one = policies["task 0"]
    rows = []
    for batch in (1, 16, 64):
        cond, tasks = torch.randn(batch, COND_DIM), list(policies)[:batch]

        def loop(cond: Tensor = cond, tasks: list[str] = tasks) -> Tensor:
            return torch.cat([policies[task].sample(cond[i : i + 1]) for i, task in enumerate(tasks)])

        ways: dict[str, Callable[[], Tensor]] = {
            "one adapter for all rows": lambda cond=cond: one.sample(cond),
            "an adapter for each row": lambda cond=cond, tasks=tasks: bank.on(tasks).sample(cond),
            "a loop over the tasks": loop,
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in progress_bar(range(ROUNDS + 1), desc=f"batch {batch}"):
            for way, call in ways.items():
                began = time.perf_counter()
                call()
                if turn:  # The first round warms up.
                    seconds[way].append(time.perf_counter() - began)
        rows += [{"batch": batch, "way": way, "ms": 1e3 * statistics.median(s)} for way, s in seconds.items()]
    size = sum(p.numel() for p in one.adapter.parameters())
    print(f"{ADAPTERS} adapters of {size:,} parameters on one head")
    for row in rows:
        print(f"batch {row['batch']:3d}  {row['way']:26s} {row['ms']:8.1f} ms")
    write_results("many_adapters", {"adapters": ADAPTERS, "parameters": size, "rows": rows})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
