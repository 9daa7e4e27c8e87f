"""Think slowly, act fast: success and control rate on Lift over the latency of a VLM, beside policies that wait for it.

    nice -n 10 uv run benchmarks/slow_fast.py            # all, about half an hour of one thread
    uv run benchmarks/slow_fast.py --only page           # the tables and the figure of what has been measured
    uv run benchmarks/slow_fast.py --only rate           # the control rate alone, measured anew

The VLM is the tiny one of examples/tiny_vlm, which sees the cube through the wrist camera. In the rollouts its latency
is simulated in ticks of 50 ms, so that nothing depends on the clock; every system holds still until its first embedding
is there. For the control rate it runs in a real thread and sleeps.

What is in benchmarks/results/slow_fast.json is not measured again. Writes that file, and the tables and
the figure of docs/results/slow-fast.md.

Axes: n rows of the recording, b batch, which is one in rollouts.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from action_heads_lab.sim import Sim
from action_heads_lab.sim.interval import error_bars, interval_text, wilson
from common import DOCS, command_line, fill, read_results, stamped, table, write_results
from torch import Tensor
from transformers import AutoModelForImageTextToText

from action_heads import ActionHead, ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.runtime.slow_encoder import SlowEncoder
from action_heads.vlm import Tap, earlier_rows, embed

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from tiny_vlm.make import (  # type: ignore[import-not-found]
    CAMERA,
    EVERY,
    HERE,
    PIXELS,
    lift,
    processed,
    recorded,
)

HEAD, EPISODES, STEPS = "dae/mlp-0.7m-fk", 50, 400
TICK = 50  # ms
LATENCIES = (0, 1, 2, 4, 10)  # ticks
ORDER = (10, 4, 0, 2, 1)  # in which they are measured, so that a run that is stopped has what matters most
STATE = 11  # what the arm knows of itself: tool position 3, rotation 6, fingers 2
OLDEST = 10  # rows of the recording, of two ticks each, whose embeddings a policy is trained with
FAST, WHOLE = 4, 8  # ticks between two chunks: of slow-and-fast, and of systems that wait
COPIES = 4  # pairs of a row and an earlier one


@dataclass(frozen=True)
class Training:
    """The training of a policy.

    Attributes:
        oldest: largest age of the embeddings, in rows.
        seen_at: whether the policy is also given the arm's state at the time of the image.
        blind: whether images are grey.
    """

    oldest: int = 0
    seen_at: bool = False
    blind: bool = False


@dataclass(frozen=True)
class System:
    """A row of the table: a training, and how the policy acts."""

    training: Training
    acts: str  # "slow-fast", "holds" or "open chunk"
    latencies: tuple[int, ...] = LATENCIES


SYSTEMS = {
    "slow and fast": System(Training(OLDEST, True), "slow-fast"),
    "waits, holds still": System(Training(), "holds"),
    "waits, acts on the open chunk": System(Training(), "open chunk", LATENCIES[1:]),
    "slow and fast, trained on fresh embeddings": System(Training(), "slow-fast"),
    "slow and fast, without the arm's state at the image": System(Training(OLDEST), "slow-fast", (4, 10)),
    "slow and fast, blind": System(Training(OLDEST, True, True), "slow-fast", (0,)),
}


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def model() -> Tap:
    return Tap(AutoModelForImageTextToText.from_pretrained(HERE, dtype=torch.float32))


@functools.cache
def trained(training: Training) -> ConditionedHead:
    """Train an adapter on pairs of an embedding and the state of the same tick or a later one; kept in outputs/."""
    kept = Path("outputs/slow_fast") / "-".join(map(str, (training.oldest, training.seen_at, training.blind)))
    if kept.exists():
        return ConditionedHead.from_pretrained(kept).eval()
    torch.manual_seed(0)
    tap, head, (demonstrations, images) = model(), ActionHead.from_pretrained(HEAD), recorded()
    images = torch.full_like(images, 127) if training.blind else images
    cached = embed(tap, images.split(1), "outputs/attach_to_vlm", processed, batch_size=128, shard_size=1024)
    _, *chunks = demonstrations.chunks(head.config.horizon)
    actions, is_pad = (torch.from_numpy(part[::EVERY]) for part in chunks)
    state = torch.from_numpy(demonstrations.observation[::EVERY, :STATE])
    episode = np.repeat(np.arange(len(demonstrations.episode_length)), demonstrations.episode_length)[::EVERY]

    copies, generator = COPIES if training.oldest else 1, torch.Generator().manual_seed(0)
    now = torch.arange(len(state)).repeat(copies)
    lengths = np.bincount(episode)
    seen = torch.cat([earlier_rows(torch.from_numpy(lengths), training.oldest, generator) for _ in range(copies)])
    tokens, mask = cached[:]
    whole = {"tokens": tokens, "state": state} | ({"seen_at": state} if training.seen_at else {})
    cond = {"tokens": cached.at(seen), "state": state[now]} | ({"seen_at": state[seen]} if training.seen_at else {})

    adapter = AdaLNZero({name: part.shape[-1] for name, part in whole.items()}, pool="last")
    policy = head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space))
    adapter.standardize(whole, {"tokens": mask})
    fit(policy, actions[now], cond, is_pad=is_pad[now], config=FitConfig(steps=STEPS), description=str(training))
    policy.save_adapter(kept)
    return policy


def looking(sim: Sim, training: Training) -> Callable[[Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Return the slow encoder: from the arm's state (1 s) to (cond, mask) of an image that is taken now."""

    def look(state: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        image = torch.from_numpy(sim.render(PIXELS, CAMERA).copy())[None]
        tokens, mask = model()(**processed(torch.full_like(image, 127) if training.blind else image))
        return {"tokens": tokens} | ({"seen_at": state} if training.seen_at else {}), {"tokens": mask}

    return look


# ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Act = Callable[[Tensor], Tensor | None]  # from the state (1 s) to an action (1 a), or None to hold still; once a tick


def slow_fast(policy: ConditionedHead, look: Any, latency: int, generator: torch.Generator) -> tuple[Act, SlowEncoder]:
    """Act on the newest embedding and the newest state, with a new chunk every few ticks."""
    slow = SlowEncoder(look, every=FAST, latency=latency, late="raise")
    executor = Executor(policy, execute=FAST, generator=generator)

    def act(state: Tensor) -> Tensor | None:
        slow.offer(state)
        if (found := slow.latest()) is None:
            return None
        slow.ages.add(found.age)
        return executor({**found.cond, "state": state}, mask=found.mask)  # type: ignore[dict-item]

    return act, slow


def holds(policy: ConditionedHead, look: Any, latency: int, generator: torch.Generator) -> tuple[Act, SlowEncoder]:
    """Execute a chunk, take an image, hold still until its embedding is there, and go on."""
    slow = SlowEncoder(look, every=10**6, latency=latency)
    executor = Executor(policy, execute=WHOLE, generator=generator)

    def act(state: Tensor) -> Tensor | None:
        if not executor.due:
            return executor()
        slow.offer(state)
        if (found := slow.latest()) is None:
            return None
        slow.reset()
        return executor({**found.cond, "state": state}, mask=found.mask)  # type: ignore[dict-item]

    return act, slow


def open_chunk(policy: ConditionedHead, look: Any, latency: int, generator: torch.Generator) -> tuple[Act, SlowEncoder]:
    """Ask for the next chunk in time, and execute the open one until it is there. The robot stands at its end.

    A chunk is of one observation, image and state; the time steps that passed while it was made are left out.
    """
    ready: list[tuple[int, Tensor]] = []  # the chunk in the making, and the tick at which it is there
    chunk, at, ticks = torch.zeros(1, 0, 10), 0, itertools.count()

    def act(state: Tensor) -> Tensor | None:
        nonlocal chunk, at
        tick = next(ticks)
        if ready and tick >= ready[0][0]:
            first = not chunk.shape[1]  # the robot held still meanwhile, so no step of it has passed
            chunk, at = ready.pop()[1], 0 if first else latency
        if not ready and (not chunk.shape[1] or at >= WHOLE):
            cond, mask = look(state)
            ready.append((tick + latency, policy.sample({**cond, "state": state}, mask=mask, generator=generator)))
        if not chunk.shape[1]:
            return None
        at += 1
        return chunk[:, min(at, chunk.shape[1]) - 1]

    return act, SlowEncoder(look)


ACTS = {"slow-fast": slow_fast, "holds": holds, "open chunk": open_chunk}


def rolled_out(system: System, latency: int, sim: Sim, episodes: int) -> dict[str, Any]:
    """Roll out a system at a latency in ticks."""
    policy, look = trained(system.training), looking(sim, system.training)
    generator, began = torch.Generator().manual_seed(0), time.process_time()
    lengths, ages = [], []
    for seed in range(episodes):
        act, slow = ACTS[system.acts](policy, look, latency, generator)
        observation = sim.reset(seed)
        target = np.append(observation[:9], -1.0).astype(np.float32)  # where the hand is, and open
        for tick in range(sim.task.rollout_steps):
            action = act(torch.from_numpy(observation[None, :STATE].copy()))
            target = target if action is None else action[0].numpy()
            observation = sim.step(target)
            if sim.success():
                lengths.append(tick + 1)
                break
        ages += list(slow.ages.counts.elements())
    return {
        "latency_ms": latency * TICK,
        "successes": len(lengths),
        "episodes": episodes,
        "interval": [round(bound, 3) for bound in wilson(len(lengths), episodes)],
        "seconds_to_success": round(TICK * float(np.mean(lengths)) / 1000, 2) if lengths else None,
        "age_mean_ms": round(TICK * float(np.mean(ages))) if ages else None,
        "age_max_ms": TICK * max(ages) if ages else None,
        "cpu_seconds": round(time.process_time() - began),
    }


# ── the control rate ─────────────────────────────────────────────────────────────────────────────────────────────────


def rate(acts: str, latency: int, seconds: float) -> dict[str, Any]:
    """Return ticks a second of a loop without a robot, which asks for the next action at once, and its longest gap."""
    training = SYSTEMS["slow and fast"].training if acts == "slow-fast" else Training()
    policy, image = trained(training), recorded()[1][:1]

    def look(state: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        time.sleep(latency * TICK / 1000)
        tokens, mask = model()(**processed(image))
        return {"tokens": tokens} | ({"seen_at": state} if training.seen_at else {}), {"tokens": mask}

    background = acts == "slow-fast"
    state, times = torch.zeros(1, STATE), []
    executor = Executor(policy, execute=FAST if background else WHOLE)
    with SlowEncoder(look, latency=None if background else 0, every=1 if background else WHOLE) as slow:
        cond, mask = slow(state)
        executor({**cond, "state": state}, mask=mask)  # warms up
        slow.reset()
        executor.reset()
        began = time.perf_counter()
        while not times or times[-1] < seconds:
            cond, mask = slow(state)
            executor({**cond, "state": state}, mask=mask)
            times.append(time.perf_counter() - began)
    gaps = np.diff(times)
    return {
        "latency_ms": latency * TICK,
        "ticks_per_second": round(len(gaps) / float(gaps.sum())),
        "longest_gap_ms": round(1e3 * float(gaps.max()), 1),
        "age_mean_ms": round(1e3 * slow.seconds.mean) if background else None,
        "age_max_ms": round(1e3 * slow.seconds.max) if background else None,
    }


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(results: dict[str, dict[str, dict]]) -> None:
    """Write the tables and the figure of the page."""
    names = [name for name in SYSTEMS if results.get(name)]
    header = ["", *(f"{latency * TICK} ms" for latency in LATENCIES)]
    success, seconds = [], []
    for name in names:
        cells = [results[name].get(str(latency)) for latency in LATENCIES]
        found = [
            "" if c is None else f"{c['successes']} ({interval_text(*wilson(c['successes'], c['episodes']))})"
            for c in cells
        ]
        success.append([name, *found])
        seconds.append(
            [name, *("" if c is None or c["successes"] == 0 else f"{c['seconds_to_success']:.1f}" for c in cells)]
        )
    ages = [
        [f"{c['latency_ms']} ms", f"{c['age_mean_ms']} ms", f"{c['age_max_ms']} ms"]
        for c in (results.get("slow and fast", {}).get(str(latency)) for latency in LATENCIES)
        if c is not None
    ]
    rates = [
        [name, f"{c['latency_ms']} ms", str(c["ticks_per_second"]), f"{c['longest_gap_ms']:.0f} ms"]
        for name in ("rate: slow and fast", "rate: waits")
        for c in results.get(name, {}).values()
    ]
    parts = {
        "success": table(header, success),
        "seconds": table(header, seconds),
        "ages": table(["latency", "mean age", "largest age"], ages),
        "rates": table(
            ["", "latency", "ticks a second", "longest time between two ticks"],
            [[row[0].removeprefix("rate: "), *row[1:]] for row in rates],
            2,
        ),
    }
    fill(DOCS / "slow-fast.md", parts)
    for part in parts.values():
        print(part, end="\n\n")
    if names:
        draw(results)


def draw(results: dict[str, dict[str, dict]]) -> None:
    """Draw success over latency."""
    figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    colours = ("#2a6f97", "#e09f3e", "#9e2a2b", "#8ab6d6", "#6c757d", "#222222")
    for i, (name, colour) in enumerate(zip(SYSTEMS, colours, strict=True)):
        if not (cells := {k: results[name][k] for k in map(str, LATENCIES) if k in results.get(name, {})}):
            continue
        x = np.array([c["latency_ms"] for c in cells.values()]) + 4 * (i - 2)
        rates, errors = zip(*(error_bars(c["successes"], c["episodes"]) for c in cells.values()), strict=True)
        style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4, "lw": 1.5, "capsize": 2, "elinewidth": 0.8}
        ax.errorbar(x, rates, np.hstack(errors), label=name, **style)
    ax.set(xlabel="latency of the VLM, ms", ylabel="success on Lift, with 95 % intervals", ylim=(0, 1.02))
    ax.set_xticks([latency * TICK for latency in LATENCIES])
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(DOCS / "slow-fast.png", dpi=120)
    plt.close(figure)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=["success", "rate", "page"], help="a part; the page is written in the end")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of a cell; nothing is written for fewer")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement of the control rate")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict] = read_results("slow_fast", {})
    if options.only == "rate" or (options.only is None and "rate: waits" not in results):
        for name, acts in (("rate: slow and fast", "slow-fast"), ("rate: waits", "holds")):
            results[name] = {str(latency): stamped(rate(acts, latency, options.seconds)) for latency in LATENCIES}
            print(name, *results[name].values(), sep="\n", flush=True)
        write_results("slow_fast", results)
    if options.only in (None, "success"):
        sim = lift()
        for latency in ORDER:
            for name in (name for name, system in SYSTEMS.items() if latency in system.latencies):
                done = results.setdefault(name, {})
                if str(latency) in done:
                    continue
                row = rolled_out(SYSTEMS[name], latency, sim, options.episodes)
                print(name, row, flush=True)
                if options.episodes == EPISODES:
                    done[str(latency)] = stamped(row)
                    write_results("slow_fast", results)
        sim.close()
    write_page(results)


if __name__ == "__main__":
    main()
