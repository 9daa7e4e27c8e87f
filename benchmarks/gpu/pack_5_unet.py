"""Pack 5: the paper's DP-C at its size, 244 million parameters: Stage 1, and Stage 2 of one task from states.

python benchmarks/gpu/pack_5_unet.py                     # Stack, in the modes decoupled, normal and random-frozen
python benchmarks/gpu/pack_5_unet.py --task stack_d1     # a task of MimicGen, if it is set up there
python benchmarks/gpu/pack_5_unet.py --toy               # a small U-Net on a CPU: minutes, most of them for recording

The head is too large to travel, so both stages run in one pack. Each measures first how fast it is here, and then gets
the training steps that fit into its share of the time. Results: <out>/pack_5_unet.json, and a file for each run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from packs import ROOT, Pack, action_heads, cores, device, files, options, stage1_record, steps_in, workers

from action_heads import golden

TASK, MODES = "Stack", ("decoupled", "normal", "random-frozen")
STAGE1, ROLLOUTS = 240, 120  # seconds for Stage 1 with its start, and kept free for rollouts
BATCH = 256  # of Stage 1


def main() -> None:
    """Run the pack."""
    pack, chosen = options(__doc__ or "", "pack_5_unet", task=TASK, seed=0)
    if any(key not in pack.results for key in keys(chosen.task, chosen.seed).values()):
        head = pack.work / "unet-244m"
        if pretrained(pack, head):
            compare(pack, head, chosen.task, chosen.seed)
    pack.report()


def keys(task: str, seed: int) -> dict[str, str]:
    """Return the key of the result of each mode."""
    return {mode: f"{task} {mode} seed {seed}" for mode in MODES}


def pretraining(pack: Pack, out: Path, steps: int) -> list[str]:
    """Return the command of Stage 1."""
    small = (
        ("--width", 8, "--depth", 2, "--precision", "fp32") if pack.toy else ("--size", "244m", "--precision", "bf16")
    )
    return action_heads(
        *("pretrain", "--arch", "unet", *small, "--steps", steps, "--batch-size", 8 if pack.toy else BATCH),
        *("--workers", 1 if pack.toy else min(8, cores()), "--name", "dae/unet-244m-fk", "--out", out),
    )


def pretrained(pack: Pack, head: Path) -> bool:
    """Pretrain the head unless it is here, and return whether it is."""
    if (head / golden.NAME).exists():
        return True
    few, tried = 2 if pack.toy else 100, head.with_name(f"{head.name}-speed")
    if pack.run({"stage-1-speed": pretraining(pack, tried, few)}, 120)["stage-1-speed"] != 0:
        return False
    rate = stage1_record(tried)["chunks_per_second"]["training"] / (8 if pack.toy else BATCH)
    steps = 2 if pack.toy else steps_in(min(STAGE1, pack.left / 3), rate, most=10_000)
    print(f"Stage 1: {rate:.1f} training steps/s; {steps} training steps", flush=True)
    if pack.run({"stage-1": pretraining(pack, head, steps)}, 2 * STAGE1)["stage-1"] != 0:
        return False
    record = stage1_record(head)
    pack.results["Stage 1"] = {key: record[key] for key in ("command", "steps", "chunks", "minutes", "held_out_loss")}
    pack.write()
    return True


def stage2(pack: Pack, head: Path, task: str, seed: int, out: Path, *flags: object) -> dict[str, list[str]]:
    """Return the commands of Stage 2, one for each mode, which run at once."""
    family = "robosuite" if task[0].isupper() else "mimicgen"
    given = ("--task", task, "--mode", ",".join(MODES), "--backbone", "unet", "--head", head, "--seeds", seed)
    where = ("--device", device(), "--work", pack.work / "reproduce", "--out", out, "--checkpoints", 1)
    options = [*given, *where, "--workers", workers(len(MODES)), *flags, *(("--demos", 2) if pack.toy else ())]
    script = str(ROOT / "examples" / family / "reproduce.py")
    shares = {mode: ("--share", f"{i}/{len(MODES)}") for i, mode in enumerate(MODES)}
    return {mode: [sys.executable, script, *map(str, (*options, *share))] for mode, share in shares.items()}


def compare(pack: Pack, head: Path, task: str, seed: int) -> None:
    """Train all modes at once and roll them out. Results of earlier packs, which had another head, are replaced."""
    few = 2 if pack.toy else 200  # so many that the start of CUDA does not count much
    tries, out = pack.work / "tries", pack.out / "unet-runs"
    pack.run(named("try", stage2(pack, head, task, seed, tries, "--steps", few, "--episodes", 1)))
    rates = [few / run["seconds"]["training"] for mode in MODES if (run := _run(tries, task, mode, seed, few))]
    if len(rates) < len(MODES):
        return
    steps = 3 if pack.toy else steps_in(pack.left - ROLLOUTS - 30, min(rates), most=20_000)
    print(f"{task}: {min(rates):.1f} training steps/s in each of {len(MODES)} runs; {steps} training steps", flush=True)
    episodes = 1 if pack.toy else 50
    commands = stage2(pack, head, task, seed, out, "--steps", steps, "--episodes", episodes)
    pack.run(named(task, commands))
    for key in keys(task, seed).values():
        pack.results.pop(key, None)
    for mode in MODES:
        if run := _run(out, task, mode, seed, steps):
            won = sum(episode["success"] for episode in run["episodes"])
            row = {"successes": won, "episodes": len(run["episodes"]), "steps": steps, "seconds": run["seconds"]}
            key = keys(task, seed)[mode]
            pack.results[key] = row | {"head": run["head"], "command": commands[mode][1:]}
    pack.write()


def named(name: str, commands: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return commands under names for their logs."""
    return {f"{name}-{mode}": command for mode, command in commands.items()}


def _run(folder: Path, task: str, mode: str, seed: int, steps: int) -> dict | None:
    """Return the result of a run of so many training steps, or None if it has none."""
    found = (files.read_json(path) for path in folder.glob(f"{task}-unet-{mode}-s{seed}-*.json"))
    return next((result for result in found if result["run"]["steps"] == steps), None)


if __name__ == "__main__":
    main()
