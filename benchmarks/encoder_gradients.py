"""Measure the gradients that a frozen head and one in training send into an image encoder that trains.

    uv run action-heads record Stack outputs/images/Stack --demos 50 --size 128 --cameras agentview robot0_eye_in_hand
    uv run benchmarks/encoder_gradients.py [--data outputs/images/Stack] [--steps 200] [--seeds 0]

Every mode trains the same ResNet-18s from the same weights, on the same batches. The norm of the gradient is that of
the encoder's own parameters, before clipping. Writes benchmarks/results/encoder_gradients.json after every run, fills
the table of docs/results/image-policies.md, and does not repeat a run that is there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import DOCS, check_row, command_line, fill, read_results, row_of, stamped, table, write_results

from action_heads._util.progress import progress_bar
from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig, Optimiser, Vision
from action_heads.adapt.trainer import Trainer

NAME, PAGE = "encoder_gradients", DOCS / "image-policies.md"
MODES = ("decoupled", "normal", "random-frozen")
FIRST = 50  # training steps of warm-up, which do not count


def settings(data: str, mode: str, seed: int, steps: int, out: Path) -> AdaptConfig:
    """Return the settings of a run: two cameras at 64 pixels, the arm's state, and AdaLN-Zero in every block."""
    return AdaptConfig(
        data=f"lerobot:{data}",
        head="dae/mixer-5m-fk",
        mode=mode,
        out=out,
        vision=Vision("resnet18", resize=(64, 64)),
        optimiser=Optimiser(steps=steps, batch_size=16, warmup=FIRST),
        observation_steps=1,
        held_out=0.0,
        workers=0,
        precision="fp32",
        seed=seed,
    )


def measure(data: str, mode: str, seed: int, steps: int) -> dict[str, Any]:
    """Train a policy, and return the norm of the encoder's gradient at every training step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings(data, mode, seed, steps, Path(folder) / "run"))
        encoder, squares, norms, losses = trainer.policy.parameter_groups()[1], [], [], []
        for parameter in encoder:
            parameter.register_post_accumulate_grad_hook(lambda p: squares.append(p.grad.square().sum().item()))
        for batch in progress_bar(trainer.coming(), total=steps, desc=f"{mode}, seed {seed}"):
            losses.append(trainer.train_step(batch).item())
            norms.append(sum(squares) ** 0.5)
            squares.clear()
    counted = np.array(norms[FIRST:])
    found = {f"p{share}": float(np.percentile(counted, share)) for share in (5, 50, 95)} | {"largest": counted.max()}
    return {
        **{"mode": mode, "seed": seed, "steps": steps, "encoder": sum(p.numel() for p in encoder)},
        **{"trained": trainer.policy.counts()["parameters"], "loss": float(np.mean(losses[-FIRST:])), "norm": found},
        "norms": [float(f"{norm:.3g}") for norm in norms],
        "inputs": trainer.inputs,
    }


def norms_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the page."""
    lines = []
    for row in rows:
        norm = row["norm"]
        values = [norm["p5"], norm["p50"], norm["p95"], norm["largest"], norm["p95"] / norm["p50"], row["loss"]]
        lines.append([row["mode"], str(row["seed"]), *(f"{value:.3g}" for value in values)])
    return table(["run", "seed", "5 %", "median", "95 %", "largest", "95 % / median", "loss at the end"], lines)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", default="outputs/images/Stack", help="LeRobot dataset with images")
    parser.add_argument("--steps", type=int, default=200, help="training steps of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    options = parser.parse_args()
    rows = read_results(NAME, [])
    for seed in options.seeds:
        for mode in MODES:
            key = {"mode": mode, "seed": seed, "steps": options.steps}
            row = row_of(rows, key)
            if row is None:
                rows.append(stamped(measure(options.data, mode, seed, options.steps)))
                write_results(NAME, rows)
            elif "inputs" in row:  # Rows of an earlier release have none.
                inputs = build(settings(options.data, mode, seed, options.steps, Path("unused"))).inputs
                check_row(NAME, row, key, inputs)
    fill(PAGE, {"gradients": norms_table(rows)})


if __name__ == "__main__":
    main()
