"""Compare existing action experts with a frozen head and adapter at the same seam, by parameters and time per chunk.

uv run benchmarks/seams.py [--only SmolVLA pi0] [--rounds 7] [--threads 1] [--note ...]    # about ten minutes
uv run benchmarks/seams.py --counts                                         # the parameters alone, in seconds
uv run benchmarks/seams.py --steps 1 --rounds 1                             # a trial: prints, and writes nothing

Batch 1, fp32. Each expert takes turns with ours, so that other load slows both. The VLMs and ResNets that they read
are excluded on both sides. Writes benchmarks/results/seams.json and the tables of docs/results/action-experts.md.

Axes: b batch, n tokens, c width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from common import DOCS, command_line, fill, table, write_results
from experts import EXPERTS, Expert

from action_heads import ActionHead
from action_heads._util.conditions import Condition
from action_heads.adapters import AdaLNZero
from action_heads.policy import ConditionedHead

PAGE = DOCS / "action-experts.md"
HEAD = "dae/mlp-5m-fk"
OPENVLA = 4096  # The width of Llama 2 7B. OpenVLA has no expert.


def attached(head: ActionHead, width: int, state: int, through: str = "both") -> ConditionedHead:
    sources = {"tokens": width, "state": state} if state else width
    return head.attach(AdaLNZero(sources, pool="attention", through=through), normalizer=head.original.normalizer)


def counted(width: int, state: int = 0) -> dict[str, int]:
    """Return the parameter counts of our adapter and head for a condition of this width and state."""
    head = ActionHead.from_pretrained(HEAD)
    policies = {through: attached(head, width, state, through) for through in ("both", "code")}
    counts = {f"trained_{through}": policy.num_trainable for through, policy in policies.items()}
    return {"width": width, "state": state, "frozen": policies["both"].num_frozen, **counts}


def counts(experts: dict[str, Expert]) -> dict[str, dict]:
    rows = {name: {"expert": it.parameters, **counted(it.width, it.state)} for name, it in experts.items()}
    return {**rows, "OpenVLA": {"expert": None, **counted(OPENVLA)}}


def timed(expert: Expert, steps: int | None, rounds: int) -> dict:
    """Return median times in ms of the expert, and of ours with a chunk of 16 time steps and with the expert's."""
    head = ActionHead.from_pretrained(HEAD)
    tokens = torch.randn(1, expert.prefix, expert.width) if expert.prefix else torch.randn(1, expert.width)
    cond: Condition = {"tokens": tokens, "state": torch.randn(1, expert.state)} if expert.state else tokens
    shapes = head, head.reshape(horizon=expert.chunk)
    own, long = (attached(each, expert.width, expert.state).eval().compile() for each in shapes)
    sample, taken = expert.sampler("cpu"), steps or expert.steps
    calls: dict[str, Callable[[], object]] = {
        "expert": lambda: sample(1, taken),
        "ours_16": lambda: own.sample(cond, steps=steps),
        "ours_same_chunk": lambda: long.sample(cond, steps=steps),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= 2:  # The first two turns warm up.
                times[name].append(time.perf_counter() - began)
    medians = {f"{name}_ms": round(1e3 * statistics.median(values), 1) for name, values in times.items()}
    sizes = {"chunk": expert.chunk, "steps": taken, "prefix": expert.prefix, "our_steps": steps or 10}
    return {**medians, **sizes, "rounds": rounds}


def counts_table(rows: dict[str, dict]) -> str:
    header = [
        "",
        "width of the condition",
        "parameters of the expert",
        "frozen",
        "trained",
        "trained, through the code",
    ]
    keys = ("expert", "frozen", "trained_both", "trained_code")
    lines = []
    for name, row in rows.items():
        width = f"{row['width']} + {row['state']}" if row["state"] else str(row["width"])
        lines.append([name, width, *("none" if row[key] is None else f"{row[key]:,}" for key in keys)])
    return table(header, lines)


def latency_table(rows: dict[str, dict]) -> str:
    header = ["", "chunk", "denoising steps", "tokens", "expert, ms", "ours, same chunk, ms"]
    keys = ("expert_ms", "ours_same_chunk_ms", "ours_16_ms")
    lines = []
    for name, row in rows.items():
        sizes = (str(row["chunk"]), str(row["steps"]), str(row["prefix"] or "a vector"))
        lines.append([name, *sizes, *(f"{row[key]:,.0f}" for key in keys)])
    return table([*header, "ours, chunk of 16, ms"], lines)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="*", choices=EXPERTS, default=list(EXPERTS), help="experts to time")
    parser.add_argument("--counts", action="store_true", help="print the parameter counts alone")
    parser.add_argument("--steps", type=int, help="denoising steps of both, for a trial that writes nothing")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="a note on other load of the machine")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    found = counts({name: build() for name, build in EXPERTS.items()})
    print(counts_table(found))
    if options.steps is None:
        fill(PAGE, {"counts": counts_table(found)})
    if options.counts:
        return
    latency = {}
    for name in options.only:  # Each expert is built anew, and its memory is freed afterwards.
        latency[name] = timed(EXPERTS[name](), options.steps, options.rounds)
        print(name, latency[name], flush=True)
    print(latency_table(latency))
    if options.steps is None:
        write_results("seams", {"note": options.note, "counts": found, "latency": latency})
        fill(PAGE, {"latency": latency_table(latency)})


if __name__ == "__main__":
    main()
