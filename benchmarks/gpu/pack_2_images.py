"""Pack 2: policies from images with ResNet-18s that train, in three modes: one task after another, a task a pack.

python benchmarks/gpu/pack_2_images.py                   # MimicGen: stack_d1, threading_d2, coffee_d2
python benchmarks/gpu/pack_2_images.py --tasks Stack     # robosuite alone, without MimicGen
python benchmarks/gpu/pack_2_images.py --toy             # Lift on a CPU: two demonstrations, two training steps

A pack records demonstrations with two cameras on all cores, measures how fast the three runs train at once, chooses
the number of training steps from the time that is left, trains all three, and rolls each out 50 times. Results:
<out>/pack_2_images.json, with success, interval, training steps and seconds of each run.
"""

from __future__ import annotations

import time
from pathlib import Path

from packs import Pack, action_heads, cores, files, options, steps_in, workers

TASKS, HEAD = ("stack_d1", "threading_d2", "coffee_d2"), "mixer-5m-fk"
MODES = ("decoupled", "normal", "random-frozen")
CAMERAS = ("agentview", "robot0_eye_in_hand")
DEMOS, EPISODES = 150, 50
RECORDING, ROLLOUTS = 150, 170  # seconds that are kept free for each


def main() -> None:
    """Run the pack."""
    pack, chosen = options(__doc__ or "", "pack_2_images", tasks=TASKS, seed=0)
    for task in ["Lift"] if pack.toy else chosen.tasks:
        if all(key in pack.results for key in keys(task, chosen.seed).values()):
            continue
        recorded = pack.once(f"{task} recording", 500, lambda task=task: record(pack, task))
        if recorded and not Path(recorded["file"]).exists():  # made by an earlier pack on another machine
            del pack.results[f"{task} recording"]
            recorded = pack.once(f"{task} recording", 500, lambda task=task: record(pack, task))
        if recorded and pack.left > 1.2 * ROLLOUTS:
            train(pack, task, recorded, chosen.seed)
    pack.report()


def keys(task: str, seed: int) -> dict[str, str]:
    """Return the key of the result of each mode."""
    return {mode: f"{task} {mode} seed {seed}" for mode in MODES}


def record(pack: Pack, task: str) -> dict | None:
    """Record demonstrations: a few to see how fast this machine is, then as many as the time allows."""
    few, size = (2, 48) if pack.toy else (cores(), 84)
    seconds, demos, path = 0.0, few, pack.work / f"{task}-few.hdf5"
    for round_ in range(1 if pack.toy else 2):
        began, path = time.monotonic(), pack.work / f"{task}-{demos}.hdf5"
        command = action_heads("record", task, path, "--demos", demos, "--size", size, "--cameras", *CAMERAS)
        if pack.run({f"record-{task}": command}, 2 * RECORDING)[f"record-{task}"] != 0:
            return None
        seconds = time.monotonic() - began
        demos = demos if round_ else max(few, min(DEMOS, int(few * RECORDING / seconds)))
        if path == pack.work / f"{task}-{demos}.hdf5":
            break
    return {"file": str(path), "demos": demos, "size": size, "seconds": round(seconds, 1)}


def command(pack: Pack, mode: str, recorded: dict, steps: int, seed: int, runs: int, out: Path) -> list[str]:
    """Return the training of one run, without rollouts."""
    crop = recorded["size"] * 76 // 84
    small = ["--hidden", 32, "--precision", "fp32"] if pack.toy else []
    return action_heads(
        *("adapt", "--data", f"robomimic:{recorded['file']}", "--state", "observation.eef", "observation.gripper"),
        *("--action-layout", "pose_6d", "--crop", crop, crop, "--head", f"dae/{HEAD}", "--mode", mode, *small),
        *("--adapter", "film", "--through", "blocks", "--relearn-step", "--held-out", 0, "--ema", 0.995),
        *("--batch-size", 4 if pack.toy else 64, "--steps", steps, "--save-every", 100_000, "--seed", seed),
        *("--workers", max(1, workers(runs) - 2), "--out", out),
    )


def train(pack: Pack, task: str, recorded: dict, seed: int) -> None:
    """Train all modes at once and roll them out.

    A mode that an earlier pack finished is trained again, so that all have as many demonstrations and training steps.
    """
    few = 2 if pack.toy else 100
    alike = {"pack": pack, "recorded": recorded, "seed": seed, "runs": len(MODES)}
    tries = {mode: pack.work / f"{task}-{mode}-try-{time.time_ns()}" for mode in MODES}
    pack.run({f"{task}-{m}-try": command(mode=m, steps=few, out=out, **alike) for m, out in tries.items()}, 240)
    speeds = [few / files.read_json(out / "results.json")["seconds"] for out in tries.values() if _done(out)]
    if len(speeds) < len(MODES):
        return
    rate = min(speeds)
    steps = 2 if pack.toy else steps_in(pack.left - ROLLOUTS - 30, rate, most=20_000)
    print(f"{task}: {rate:.1f} training steps/s in each of {len(MODES)} runs; {steps} training steps", flush=True)
    episodes = 1 if pack.toy else EPISODES
    flags = ["--task", task, "--episodes", str(episodes), "--videos", "0", "--simulations", str(workers(len(MODES)))]
    outs = {mode: pack.work / f"{task}-{mode}-{steps}" for mode in MODES}
    commands = {m: command(mode=m, steps=steps, out=out, **alike) + flags for m, out in outs.items()}
    pack.run({f"{task}-{mode}": one for mode, one in commands.items()})
    for key in keys(task, seed).values():
        pack.results.pop(key, None)
    for mode, out in outs.items():
        if _done(out) and (row := row_of(out, recorded, steps, rate, commands[mode])):
            pack.results[keys(task, seed)[mode]] = row
    pack.write()


def row_of(out: Path, recorded: dict, steps: int, rate: float, command: list[str]) -> dict | None:
    """Return success and cost of a run, or None if it was not rolled out."""
    found = files.read_json(out / "results.json")
    if not (rollouts := found.get("rollouts")):
        return None
    return {
        **{name: rollouts[name] for name in ("successes", "episodes", "interval")},
        "steps": steps,
        "steps_per_second": round(rate, 1),
        "seconds": found["seconds"],
        "demos": recorded["demos"],
        "parameters": found["parameters"],
        "command": command[3:],
    }


def _done(out: Path) -> bool:
    return (out / "results.json").exists()


if __name__ == "__main__":
    main()
