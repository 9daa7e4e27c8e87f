"""Compare the DROID heads with their `fk` siblings on motion that none of them was trained on.

The loss is that of Stage 1 without a condition: the mean squared error of the clean chunk that a head sees in a noisy
one, over all noise levels and the head's mechanisms. Both heads of a pair have the same normalizer and see the same
chunks and noise, as they are or in the workspace of a random task.

    uv run benchmarks/droid_heads.py [--heads FOLDER ...]
    uv run benchmarks/droid_heads.py --page    # measures nothing, and fills the page

Axes: n windows, h horizon, a action.
"""

from __future__ import annotations

import torch
from common import DOCS, command_line, fill, read_results, table, write_results
from torch import Tensor

from action_heads import ActionHead
from action_heads.data import Spec, open_windows
from action_heads.io import hub
from action_heads.kinematics import Windows
from action_heads.pretrain import data, objective

# Real DROID episodes that no head was trained on: all three of the file.
DROID = "npz:tests/data/droid_3_episodes.npz"
OTHERS = (
    "recorded:droid_setup_ctrlworld",
    "recorded:lila",
    "recorded:haptic_skin",
    "synthetic:droid",
    "synthetic:panda",
)
PAGE = DOCS / "droid-heads.md"
WINDOWS, STRIDE, DRAWS = 192, 3, 1  # of a real episode every third chunk, as neighbours share all but one step


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def motion(spec: str, head: ActionHead) -> dict[str, Tensor]:
    """Return held-out chunks (n h a) of a source, by episode if it is DROID."""
    steps = data.window(head.config.space, head.config.horizon)
    if spec != DROID:
        drawn = data.source(spec, steps, "held_out")(WINDOWS, seeded(0))
        return {spec: data.chunks(drawn, head.config.space)[0]}
    windows = open_windows(Spec.parse(spec), steps, "all")
    found = {}
    for i, name in enumerate(windows.trajectories.names):
        only = Windows(windows.trajectories, steps, torch.arange(len(windows.trajectories)).numpy() == i)
        found[name] = data.chunks(only[torch.arange(0, len(only), STRIDE)], head.config.space)[0]
    return found


@torch.no_grad()
def loss(head: ActionHead, actions: Tensor, boxed: bool) -> float:
    """Return the mean loss of chunks (n h a), as they are or through random tasks."""
    losses = []
    for draw in range(DRAWS):
        x0 = head.normalizer.normalize(actions)
        if boxed:
            x0 = data.through_a_task(actions, head.config.space, seeded(1 + draw))
        for mechanism in head.config.mechanisms:
            noise = seeded(100 + draw)
            losses.append(float(objective.loss(head, None, x0, None, mechanism, noise)))
    return sum(losses) / len(losses)


def trained_on(head: ActionHead) -> dict[str, int]:
    """Return how many episodes of each recorded source a head was trained on."""
    return {s["source"].partition("@")[0]: s["episodes"] for s in head.config.training["sources"] if "episodes" in s}


def described(spec: str, trained: dict[str, int]) -> str:
    """Return a source with the number of its episodes, unless it is synthetic, and of those in training."""
    if spec.startswith("synthetic:"):
        return f"`{spec}`"
    if spec == DROID:
        return f"{len(lengths())} DROID episodes"
    count = len(open_windows(Spec.parse(spec), 1, "held_out").episodes)
    others = f"; {trained[spec]} others were trained on" if spec in trained else ""
    return f"`{spec}` ({count} held-out episode{'s' * (count > 1)}{others})"


def lengths() -> dict[str, int]:
    """Return the number of steps of each DROID episode by its name."""
    found = open_windows(Spec.parse(DROID), 1, "all").trajectories
    return dict(zip(found.names, map(int, found.lengths), strict=True))


def shown(results: list[dict], trained: dict[str, dict[str, int]]) -> str:
    """Return the table of docs/results/droid-heads.md. `trained` has the episodes of `trained_on` by head."""
    episodes = {
        name: f"DROID episode {number} ({steps} steps)" for number, (name, steps) in enumerate(lengths().items(), 1)
    }
    rows = []
    for row in results:
        whole = described(row["data"], trained[row["head"]])
        for part, losses in {None: [row["loss"], row["sibling_loss"]], **row.get("episodes", {})}.items():
            own, sibling = losses
            what = whole if part is None else episodes[part]
            units = "a random task's" if row["boxed"] else "the head's"
            change = f"{100 * (own / sibling - 1):+.0f} %"
            rows.append((f"`{row['head']}`", what, units, f"{sibling:.4f}", f"{own:.4f}", change))
    return table(("head", "motion", "workspace", "`fk` sibling's loss", "loss", "change"), rows, left=3)


def main() -> None:
    """Measure, and write the results and the page."""
    parser = command_line(__doc__)
    parser.add_argument("--heads", nargs="*", default=[name for name in hub.bundled() if name.endswith("-5m-droid")])
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    given = parser.parse_args()
    if not given.page:
        write_results("droid_heads", [row for name in given.heads for row in measure(name)])
    heads = [ActionHead.from_pretrained(name) for name in given.heads]
    fill(PAGE, {"losses": shown(read_results("droid_heads"), {head.config.name: trained_on(head) for head in heads})})


def measure(name: str) -> list[dict]:
    """Return the losses of a head and its sibling on every source."""
    head, results = ActionHead.from_pretrained(name), []
    sibling = ActionHead.from_pretrained(f"dae/{head.config.backbone}-5m-fk")
    for spec in (DROID, *OTHERS):
        parts = motion(spec, head)
        counts = {part: len(chunks) for part, chunks in parts.items()}
        total = sum(counts.values())
        for boxed in (False, True):
            pairs = {part: [loss(one, x, boxed) for one in (head, sibling)] for part, x in parts.items()}
            # The episodes' means, weighted by their chunks, so that every chunk counts alike.
            own, other = (sum(pairs[part][i] * counts[part] for part in parts) / total for i in (0, 1))
            row = {"head": head.config.name, "sibling": sibling.config.name, "fingerprint": head.fingerprint()}
            row |= {"data": spec, "boxed": boxed, "chunks": total, "loss": own, "sibling_loss": other}
            results.append(row | ({"episodes": pairs} if len(parts) > 1 else {}))
    return results


if __name__ == "__main__":
    main()
