"""Compare the time of a chunk over a loopback connection with that of the same chunk without one.

uv run benchmarks/server_latency.py
"""

from __future__ import annotations

import statistics
import threading
import time

import torch
import tyro
from common import write_results

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
from action_heads.runtime.remote import RemotePolicy
from action_heads.runtime.serve import server

ROUNDS, COND_DIM = 30, 2048


def main() -> None:
    policy = ActionHead.from_pretrained("dae/mlp-5m-fk").attach(AdaLNZero(COND_DIM)).eval().compile()
    rows = []
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=60) as remote:
            for shape in ((1, COND_DIM), (1, 256, COND_DIM)):
                cond = torch.randn(shape)
                local, whole, way = [], [], []
                for i in range(ROUNDS + 5):
                    began = time.perf_counter()
                    policy.sample(cond, steps=4)
                    between = time.perf_counter()
                    remote.sample(cond, steps=4)
                    ended = time.perf_counter()
                    if i >= 5:
                        local.append(1e3 * (between - began))
                        whole.append(1e3 * (ended - between))
                        way.append(whole[-1] - remote.last_ms)
                row = {"condition": list(shape), "local_ms": local, "remote_ms": whole, "way_ms": way}
                rows.append(
                    {k: [round(statistics.median(v), 2), round(min(v), 2)] if "ms" in k else v for k, v in row.items()}
                )
        running.shutdown()
    print("medians and minima:", *rows, sep="\n")
    write_results("server_latency", {"rounds": ROUNDS, "steps": 4, "median_and_least": rows})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
