"""Measure the delta heads on Lift, controlled as in LIBERO: an action is a target relative to the present pose.

    uv run benchmarks/delta.py dae/mixer-5m-fk-delta dae/mlp-5m-fk-delta

The card of each head shows its result.

Axes: n time steps, m windows, h horizon, a action, c condition.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
import tyro
from action_heads_lab.sim.record import record
from action_heads_lab.sim.report import Row, save_trial, smooth
from closed_loop import closed_loop
from common import check_known, read_results, stamped, write_results
from stage2 import DEMOS, OUT
from torch import Tensor

from action_heads import EE_DELTA, ActionHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.io import hub

TASK, USED, EPISODES, STEPS = "Lift", 100, 50, 600


def demonstrations() -> tuple[Tensor, Tensor, Tensor]:
    """Return conditions (m c), chunks of deltas (m h a) and padding (m h) of the first episodes."""
    total = DEMOS[TASK]
    recording = record(TASK, total, path=OUT / f"{TASK}-{total}.npz")
    observed, absolute = (torch.from_numpy(np.asarray(x)) for x in (recording.observation, recording.action))
    deltas = EE_DELTA.to_delta(absolute[:, None], observed[:, :9])[:, 0]  # An observation starts with the pose.
    windows = dataclasses.replace(recording, action=deltas.numpy()).chunks()
    end = int(recording.episode_length[:USED].sum())
    cond, actions, is_pad = (torch.from_numpy(np.array(part[:end])) for part in windows)
    return cond, actions, is_pad


def to_target(delta: Tensor, observed: np.ndarray) -> np.ndarray:
    """Return the absolute target (10,) of an action (1 a) that is relative to the observed pose (o,)."""
    return EE_DELTA.to_absolute(delta[:, None], torch.from_numpy(observed[None, :9]))[0, 0].numpy()


def measure(name: str, cond: Tensor, deltas: Tensor, is_pad: Tensor) -> None:
    """Train and roll out a head, decoupled and random-frozen, and keep its rows beside those of other heads."""
    head, rows = ActionHead.from_pretrained(name), []
    for mode in ("decoupled", "random-frozen"):
        began = time.monotonic()
        torch.manual_seed(0)
        adapter = AdaLNZero(cond.shape[1], through="code", hidden_dim=64)
        adapter.standardize(cond)
        policy = head.in_mode(mode).attach(adapter, normalizer=Normalizer.fit(deltas, EE_DELTA, margin=0.05))
        losses = fit(policy, deltas, cond, is_pad=is_pad, config=FitConfig(steps=STEPS, lr=1e-2), description=mode)
        trained = time.monotonic() - began
        executor = Executor(policy, execute=8, generator=torch.Generator().manual_seed(0))
        rows.append(
            Row(
                name=mode,
                frozen=policy.num_frozen,
                trainable=policy.num_trainable,
                successes=closed_loop(executor, TASK, EPISODES, mode, to_target),
                episodes=EPISODES,
                steps_to_success=None,  # This is not measured.
                training_seconds=round(trained, 1),
                seconds=round(time.monotonic() - began, 1),
                losses=smooth(losses),
            )
        )
        print(rows[-1])
    of = {"head": head.config.name, "fingerprint": head.fingerprint()}
    others = [row for row in read_results("delta", []) if row["head"] != of["head"]]
    new = [stamped(of | dataclasses.asdict(row) | {"interval": row.interval}) for row in rows]
    write_results("delta", others + new)
    what = f"{TASK} by deltas, {USED} demonstrations, {STEPS} training steps, adaln_zero through code"
    save_trial(hub.bundled()[name], head, rows, what, f"uv run benchmarks/delta.py {name}")


def main(heads: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    known = [name for name in hub.bundled() if name.endswith("-delta")]  # Results go into the folders of these heads.
    check_known(heads, known)
    data = demonstrations()
    for name in heads or known:
        measure(name, *data)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
