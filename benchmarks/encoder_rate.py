"""Measure how many images an encoder takes each second on a CPU, without gradients, by how many it takes at once.

uv run benchmarks/encoder_rate.py [--encoders resnet18 outputs/encoders/mobilenetv2] [--images 96]

`action-heads adapt --train-encoder cached` encodes a recording so, and a policy its observations. Writes
benchmarks/results/encoder_rate.json and fills the table of docs/results/speed-cpu.md.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import DOCS, command_line, fill, table, write_results

from action_heads.encoders import VisionConfig, trunk
from action_heads.encoders.resnet import resnet_trunk
from action_heads.encoders.transformer import transformer_trunk

PAGE = DOCS / "speed-cpu.md"
SIZE, AT_ONCE, THREADS = 224, (1, 4, 32), (1, 2)  # pixels; images at once
REPEATS = 5


def network(name: str) -> trunk.Trunk:
    """Return a vision network in evaluation mode: a ResNet with random weights, or that of a folder or the Hub."""
    config = VisionConfig(name)
    return (resnet_trunk(config, load=True) if config.is_resnet else transformer_trunk(config, None)[0]).eval()


@torch.no_grad()
def measure(network: trunk.Trunk, images: torch.Tensor, at_once: int) -> float:
    """Return the images per second, the median of several passes over images (n 3 H W)."""
    trunk.AT_ONCE, times = at_once, []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - began)
    return len(images) / statistics.median(times[1:])


def rates_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the page."""
    lines = [[row["encoder"], str(row["threads"]), *(f"{row[f'{n}_at_once']:.0f}" for n in AT_ONCE)] for row in rows]
    return table(["images per second", "threads", *(f"{n} at once" for n in AT_ONCE)], lines)


def main() -> None:
    parser = command_line(__doc__)
    default = ["resnet18", "outputs/encoders/mobilenetv2"]
    parser.add_argument("--encoders", nargs="+", default=default, help="resnet18, resnet50, folders or Hub ids")
    parser.add_argument("--images", type=int, default=96, help="images of a pass")
    options = parser.parse_args()
    torch.manual_seed(0)
    images, rows = torch.rand(options.images, 3, SIZE, SIZE), []
    for name in options.encoders:
        encoder = network(name)
        for threads in THREADS:
            torch.set_num_threads(threads)
            rates = {f"{n}_at_once": round(measure(encoder, images, n), 1) for n in AT_ONCE}
            rows.append({"encoder": Path(name).name, "threads": threads, **rates})
            print(rows[-1], flush=True)
    write_results("encoder_rate", rows)
    fill(PAGE, {"encoders": rates_table(rows)})


if __name__ == "__main__":
    main()
