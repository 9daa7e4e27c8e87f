"""Compare the DROID heads with their `fk` siblings on motion that none of them was trained on.

The loss is that of Stage 1 without a condition: the mean squared error of the clean chunk that a head sees in a noisy
one, over all noise levels and the head's mechanisms. Both heads of a pair have the same normalizer and see the same
chunks and noise, as they are or in the workspace of a random task.

    uv run benchmarks/droid_heads.py [--heads FOLDER ...] [--out NAME]

Axes: n windows, h horizon, a action.
"""

from __future__ import annotations

import argparse

import torch
from common import table, write_results
from torch import Tensor

from action_heads import ActionHead
from action_heads.data import Spec, open_windows
from action_heads.io import hub
from action_heads.kinematics import Windows
from action_heads.pretrain import data, objective
from action_heads.training.streams import generator

# Real DROID episodes that no head was trained on: all three of the file.
DROID = "npz:tests/data/droid_3_episodes.npz"
OTHERS = (
    "recorded:droid_setup_ctrlworld",
    "recorded:lila",
    "recorded:haptic_skin",
    "synthetic:droid",
    "synthetic:panda",
)
WINDOWS, DRAWS = 1024, 4


def motion(spec: str, head: ActionHead) -> dict[str, Tensor]:
    """Return held-out chunks (n h a) of a source, by episode if it is DROID."""
    steps = data.window(head.config.space, head.config.horizon)
    if spec != DROID:
        drawn = data.source(spec, steps, "held_out")(WINDOWS, generator("droid heads", 0))
        return {spec: data.chunks(drawn, head.config.space)[0]}
    windows = open_windows(Spec.parse(spec), steps, "all")
    found = {}
    for i, name in enumerate(windows.trajectories.names):
        only = Windows(windows.trajectories, steps, torch.arange(len(windows.trajectories)).numpy() == i)
        found[name] = data.chunks(only[torch.arange(len(only))], head.config.space)[0]
    return found


@torch.no_grad()
def loss(head: ActionHead, actions: Tensor, boxed: bool) -> float:
    """Return the mean loss of chunks (n h a), as they are or through random tasks."""
    losses = []
    for draw in range(DRAWS):
        x0 = head.normalizer.normalize(actions)
        if boxed:
            x0 = data.through_a_task(actions, head.config.space, generator("boxes", draw))
        for mechanism in head.config.mechanisms:
            noise = generator("noise", draw)
            losses.append(float(objective.loss(head, None, x0, None, mechanism, noise)))
    return sum(losses) / len(losses)


def main() -> None:
    """Measure, write the results and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", nargs="*", default=[name for name in hub.bundled() if name.endswith("-5m-droid")])
    parser.add_argument("--out", default="droid_heads")
    given = parser.parse_args()
    results, rows = [], []
    for name in given.heads:
        head = ActionHead.from_pretrained(name)
        sibling = ActionHead.from_pretrained(f"dae/{head.config.backbone}-5m-fk")
        for spec in (DROID, *OTHERS):
            parts = motion(spec, head)
            everything = torch.cat(list(parts.values()))
            for boxed in (False, True):
                entry = {"head": head.config.name, "sibling": sibling.config.name, "data": spec, "boxed": boxed}
                entry |= {"chunks": len(everything), "fingerprint": head.fingerprint()}
                entry |= {"loss": loss(head, everything, boxed), "sibling_loss": loss(sibling, everything, boxed)}
                if len(parts) > 1:
                    entry["episodes"] = {
                        part: [loss(head, x, boxed), loss(sibling, x, boxed)] for part, x in parts.items()
                    }
                results.append(entry)
                change = f"{100 * (entry['loss'] / entry['sibling_loss'] - 1):+.0f} %"
                shown = "random task" if boxed else "as it is"
                cells = (f"`{entry['head']}`", f"`{spec}`", shown, f"{entry['sibling_loss']:.4f}")
                rows.append((*cells, f"{entry['loss']:.4f}", change))
    write_results(given.out, results)
    print(table(("head", "motion", "seen", "sibling's loss", "loss", "change"), rows, left=3))


if __name__ == "__main__":
    main()
