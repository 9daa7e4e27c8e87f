"""Compare every system of the paper with ours: frozen and trained parameters, their results and ours.

uv run benchmarks/systems.py    # from benchmarks/results/stage2.json: tables and a figure of docs/results
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.reproduce import paper, results
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import rate as rate_of
from action_heads_lab.reproduce.studies import DROID, MECHANISMS, OWN, TOKENS
from action_heads_lab.sim.interval import error_bars, wilson
from action_heads_lab.sim.report import COLOURS
from common import DOCS, fill, read_results, table

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import ADAPTERS
from action_heads.counts import trained

PAGES = {"backbones": "backbones.md", "stage1": "stage1-signals.md", "experts": "action-experts.md"}
COND_DIM = 274  # The paper's observation on MimicGen: twice two cameras' 64 features and nine numbers of the robot.
MODES = ("decoupled", "normal", "random-frozen")

# The paper's averages in %, on MimicGen and on LIBERO.
TABLE_2 = {
    (name, mode): tuple(paper.PRINTED[family][backbone, mode].split()[-1].replace("±", " ± ") for family in paper.TASKS)
    for backbone, name in paper.NAMES.items()
    for mode in ("normal", "decoupled")
}
SYSTEMS = {
    "DP-C": ({"backbone": "unet", "width": 512, "depth": 3}, "film", "DP-C"),
    "DP-T": ({"backbone": "transformer", "mechanisms": ("cross_attention",)}, "cross_attention", None),
    "DP-MLP": ({"backbone": "mlp"}, "film", "DP-MLP"),
}
# Table I: the expert, its size, the size of the VLM, the conditioning, and the width of the VLM's hidden states.
EXPERTS = [
    ("DP-C", "U-Net", "244M", "", "FiLM", None),
    ("RDT-1B", "DiT", "1.2B", "", "cross-attention", 4096),
    ("CogACT", "DiT", "13 to 308M", "7B", "concatenated tokens", 4096),
    ("SmolVLA", "transformer", "100M", "350M", "cross-attention", 960),
    ("TinyVLA", "diffusion", "100M", "0.4 to 1.3B", "FiLM", 2048),
    ("π0", "transformer", "300M", "3B", "shared self-attention", 2048),
    ("π0.5", "transformer", "300M", "3B", "shared self-attention, adaRMSNorm", 2048),
    ("π*0.6", "transformer", "860M", "4B", "shared self-attention, adaRMSNorm", 2560),
    ("GR00T-N1", "DiT", "860M", "1.3B", "cross-attention, AdaLN", 2048),
    ("DexVLA", "ScaleDP", "1B", "2B", "FiLM, AdaLN", 1536),
]
# Tables III and IV: the row in the paper, its success on MimicGen in % (with DP-C), and the same run here.
OURS = Run.stage1[0]
STAGE_1 = [
    ("III: in-distribution kinematics", "62.2 ± 2.3", OWN, "code", "decoupled"),
    ("III: DROID kinematics", "63.8 ± 1.2", DROID, "code", "decoupled"),
    ("", "", OURS, "code", "decoupled"),
    ("IV: unconditional", "62.2 ± 0.5", OURS, "none", "decoupled"),
    ("IV: pose self-conditioned", "63.8 ± 1.1", OURS, "pose", "decoupled"),
    ("IV: joint positions", "62.2 ± 2.3", OURS, "joints", "decoupled"),
    ("IV: random, frozen", "0.0 ± 0.0", OURS, "code", "random-frozen"),
    ("III: normal training", "63.6 ± 1.8", OURS, "code", "normal"),
]
STAGE_1_TASK = "PickPlaceCan"
# The flags with which `action-heads adapt` uses the VLM of a system. Only the families that were run are listed, as
# small models with random weights.
ATTACHED = {
    "SmolVLA": "`--vlm HuggingFaceTB/SmolVLM2-500M-Video-Instruct --vlm-layer 16`",
    "π0": "`--vlm google/paligemma-3b-pt-224`",
    "π0.5": "`--vlm google/paligemma-3b-pt-224`",
}
Cells = list[dict]


@cache
def random_head(**config) -> ActionHead:
    """Return a head of full size whose parameters are only counted."""
    return ActionHead(HeadConfig(**config)).freeze()


def counts(config: dict, mechanism: str, cond_dim: int, mode: str = "decoupled", **options) -> tuple[int, int]:
    """Return frozen and trained parameters of a head with an adapter, like `num_frozen` and `num_trainable`."""
    head = random_head(**config)
    own = sum(p.numel() for p in head.modulation_of(mechanism).parameters())
    backbone = sum(p.numel() for p in head.backbone.parameters())
    adapter = trained(head, ADAPTERS[mechanism], cond_dim, **options)
    if mode == "normal":
        return 0, backbone + own + adapter
    return backbone + (0 if options.get("relearn_step") else own), adapter


def pooled(cells: Cells) -> tuple[int, int]:
    """Return successes and episodes of all seeds."""
    return sum(c["result"]["successes"] for c in cells), sum(c["cell"]["episodes"] for c in cells)


def rate(cells: Cells) -> str:
    """Return the pooled successes with their 95 % interval as text."""
    if not cells:
        return "not run"
    (won, of), (low, high) = pooled(cells), wilson(*pooled(cells))
    return f"{won} of {of} ({low:.0%} to {high:.0%})"


def select(cells: Cells, **wanted) -> Cells:
    return [c for c in cells if all(c["cell"].get(key, 0) == value for key, value in wanted.items())]


def table_2(cells: Cells) -> str:
    """Return the table of backbones: the paper's three and `mixer`."""
    rows = []
    for name, (config, mechanism, small) in SYSTEMS.items():
        for mode in MODES:
            # The paper freezes only the backbone of modulation heads, but with tokens also the layers that read them.
            relearn = mechanism not in TOKENS and mode != "normal"
            frozen, trains = counts(config, mechanism, COND_DIM, mode, relearn_step=relearn, through="blocks")
            ours = select(cells, head=small, mode=mode, task="Lift") if small else token_cells(cells, mode)
            theirs = TABLE_2.get((name, mode), ("", ""))
            here = f"`{config['backbone']}`, `{mechanism}`"
            rows.append([name, here, mode, f"{frozen:,}", f"{trains:,}", *theirs, rate(ours)])
    for mode in MODES:
        ours = select(cells, head="mixer by FiLM", mode=mode, task="Lift")
        frozen, trains = counts(
            {"backbone": "mixer"}, "film", COND_DIM, mode, relearn_step=mode != "normal", through="blocks"
        )
        rows.append(["", "`mixer`, `film`", mode, f"{frozen:,}", f"{trains:,}", "", "", rate(ours)])
    header = ["paper's name", "here", "mode", "frozen", "trained", "MimicGen, paper's %", "LIBERO, paper's %"]
    return table([*header, "ours on Lift"], rows, left=3)


def tables_3_and_4(found: list[Result]) -> str:
    """Return success on one robosuite task by the data and the signal of Stage 1."""
    rows, whole = [], f"--task {STAGE_1_TASK} --seeds 0"
    for row, theirs, source, signal, mode in STAGE_1:
        ours = [r for r in found if (r.run.stage1, r.run.signal, r.run.mode) == ((source,), signal, mode)]
        options = [f"--mode {mode}"] * (mode != "decoupled")
        options += [f"--stage1 {source}"] * (source != OURS) + [f"--signal {signal}"] * (signal != "code")
        counts = f"{ours[0].head['frozen']:,} / {ours[0].head['trainable']:,}" if ours else ""
        missing = "not run: the data is on the Hub" if source == DROID else "not run"
        success = f"{rate_of(ours)} of {rate_of(ours).episodes}" if ours else missing
        rows.append([row, f"`{' '.join([whole, *options])}`", counts, theirs, success])
    return table(
        ["paper's row", "here", "frozen / trained", "MimicGen, paper's %", f"ours on {STAGE_1_TASK}, %"], rows, 2
    )


def of_stage_1() -> list[Result]:
    """Return the runs of `mlp` on that task with the paper's recipe and one training seed, whatever their Stage 1."""
    protocol = Run(task=STAGE_1_TASK).condition
    fixed = {key: value for key, value in protocol.items() if key not in ("stage1", "signal", "steps", "demos")}
    found = results.load_all(Path(__file__).parent.parent / "results" / "robosuite")
    return [r for r in found if r.run.seed == 0 and fixed.items() <= r.run.condition.items()]


def token_cells(cells: Cells, mode: str) -> Cells:
    return select(cells, head="transformer cross_attention", mode=mode, trained=0)


def pooled_table(cells: Cells) -> str:
    """Return modulation beside tokens, pooled over seeds and mechanisms, for both ways of freezing."""
    kinds = {"five modulation": [m for m in MECHANISMS if m not in TOKENS], "two token": list(TOKENS)}
    rows = []
    for kind, names in kinds.items():
        some = [c for c in cells if c["cell"]["head"] in {f"transformer {name}" for name in names}]
        for frozen, part in zip(("as in the paper", "with matched counts"), by_freezing(some), strict=True):
            rows.append([f"{kind} mechanisms", frozen, *(rate(select(part, mode=mode)) for mode in MODES)])
    return table(["mechanisms", "frozen", *MODES], rows, left=2)


def by_freezing(cells: Cells) -> tuple[Cells, Cells]:
    """Split cells into those frozen as in the paper and those with matched counts."""
    return [c for c in cells if not c["cell"].get("trained")], [c for c in cells if c["cell"].get("trained")]


def mechanism_table(cells: Cells, head: str = "transformer") -> str:
    rows = []
    for name in MECHANISMS:
        ours = [select(cells, head=f"{head} {name}", mode=mode) for mode in MODES]
        trains = f"{ours[0][0]['result']['trainable']:,}" if ours[0] else ""  # The count of decoupled runs.
        theirs = [f"{value:.1f}" for value in reversed(paper.FIGURE_3[name])]
        rows.append([f"`{name}`", trains, *(rate(part) for part in ours), *theirs])
    return table(["mechanism", "trained", *MODES, "paper: decoupled, %", "paper: normal, %"], rows)


def experts_table() -> str:
    rows = []
    for name, arch, size, vlm, conditioning, width in EXPERTS:
        code, blocks = (
            [f"{counts({}, 'adaln_zero', width, through=path)[1]:,}" for path in ("code", "both")]
            if width
            else ["", ""]
        )
        attached = ATTACHED.get(name, "not run" if vlm or width else "")
        rows.append([name, arch, size, vlm, conditioning, str(width or ""), code, blocks, attached])
    header = ["system", "expert", "its parameters", "VLM", "conditioning", "hidden width"]
    return table([*header, "trained, `code`", "trained, `both`", "attaches a head to its VLM"], rows, left=2)


def draw(cells: Cells, matched: int, path: Path) -> None:
    """Draw success by mechanism and mode: the paper's, and ours frozen as in the paper and with matched counts."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    at = np.arange(len(MECHANISMS))
    normal, decoupled = np.array([paper.FIGURE_3[m] for m in MECHANISMS]).T / 100
    for shift, values, mode in ((-0.27, decoupled, "decoupled"), (0, normal, "normal")):
        axes[0].bar(at + shift, values, 0.25, color=COLOURS[mode], label=mode)
    axes[0].set_title("the paper's: MimicGen, images, one seed", fontsize=10)
    for ax, count, title in (
        (axes[1], 0, "ours, frozen as the paper freezes"),
        (axes[2], matched, f"ours, {matched:,} trained"),
    ):
        for shift, mode in zip((-0.27, 0, 0.27), MODES, strict=True):
            for x, name in zip(at, MECHANISMS, strict=True):
                part = select(cells, head=f"transformer {name}", mode=mode, trained=count)
                if not part:
                    continue
                success, error = error_bars(*pooled(part))
                label = mode if name == MECHANISMS[0] else None
                style = {"color": COLOURS[mode], "capsize": 2, "error_kw": {"lw": 0.8}}
                ax.bar(x + shift, success, 0.25, yerr=error, label=label, **style)
        ax.set_title(f"{title}: Lift, states", fontsize=10)
    for ax in axes:
        ax.set_xticks(at, [m.replace("_", "\n") for m in MECHANISMS], fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylim=(0, 1.02), ylabel="success")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    cells: Cells = read_results("stage2")
    study = [c for c in cells if c["cell"]["head"].startswith("transformer ")]
    full = [c for c in cells if c["cell"]["head"].startswith("DP-T ") and c["cell"]["task"] == "Stack"]
    as_paper, matched = by_freezing(study)
    tables = {
        "backbones": table_2(cells),
        "stage1": tables_3_and_4(of_stage_1()),
        "pooled": pooled_table(study),
        "mechanisms": mechanism_table(as_paper),
        "matched": mechanism_table(matched),
        "full": "\n\n".join(mechanism_table(part, "DP-T") for part in by_freezing(full)) if full else "Not yet run.",
        "experts": experts_table(),
    }
    for name, text in tables.items():
        fill(DOCS / PAGES.get(name, "mechanisms.md"), {name: text})
    draw(study, matched[0]["cell"]["trained"], DOCS / "mechanisms.png")
    print(*tables.values(), sep="\n\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
