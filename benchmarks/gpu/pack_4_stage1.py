"""Pack 4: Stage 1 of the bundled heads at 20 million chunks, one head after another, as many as the time allows.

python benchmarks/gpu/pack_4_stage1.py            # 4 to 5 minutes a head on one H200
python benchmarks/gpu/pack_4_stage1.py --toy      # tiny heads on a CPU

The heads have the settings of the bundled ones (768,000 chunks in batches of 128), but batches of 2,048. Each is
compared with the bundled one by `action-heads evaluate-head`. Results: <out>/pack_4_stage1.json, and each head's folder
in <out>. A head that was not finished is left to the next pack, which goes on from its saved state in the same <out>.
Before, the training steps of the first head are timed with `--graph` and without, in the bundled heads' batches of 128.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

from packs import Pack, action_heads, cores, files, options, stage1_record

CHUNKS, BATCH, SMALL = 20_000_000, 2048, 128
HEADS = {
    "mixer-5m-fk-delta": ("--arch", "mixer", "--action", "delta"),
    "mixer-5m-fk": ("--arch", "mixer"),
    "mlp-5m-fk": ("--arch", "mlp"),
    "mlp-5m-fk-delta": ("--arch", "mlp", "--action", "delta"),
}


def main() -> None:
    """Run the pack."""
    pack, chosen = options(__doc__ or "", "pack_4_stage1", heads=list(HEADS))
    pack.once("graphs", 60, lambda: graphs(pack, chosen.heads[0]))
    for name in chosen.heads[:1] if pack.toy else chosen.heads:
        speed = pack.once(f"{name} speed", 60, lambda name=name: measured(pack, name))
        if speed:
            seconds = 5 if pack.toy else 60 + CHUNKS / speed["chunks_per_second"]
            pack.once(name, seconds, lambda name=name: trained(pack, name))
    pack.report()


def command(pack: Pack, name: str, out: Path, steps: int, *flags: str, batch: int = BATCH) -> list[str]:
    """Return the pretraining of a head."""
    small = ("--size", "0.3m", "--precision", "fp32") if pack.toy else ("--size", "5m", "--precision", "bf16")
    return action_heads(
        *("pretrain", *HEADS[name], *small, "--steps", steps, "--batch-size", 8 if pack.toy else batch),
        *("--workers", 1 if pack.toy else min(8, cores()), "--name", f"dae/{name}-20m", "--out", out),
        *flags,
    )


def graphs(pack: Pack, name: str) -> dict | None:
    """Train for a moment with CUDA graphs and without, and return the rates. The machine says if graphs were used."""
    found = {}
    for how, flags in {"eager": (), "graphs": ("--graph",)}.items():
        out = pack.work / f"{name}-{how}"
        run = command(pack, name, out, 2 if pack.toy else 200, *flags, batch=SMALL)
        if pack.run({f"{name}-{how}": run}, 120)[f"{name}-{how}"] != 0:
            return None
        record = stage1_record(out)
        found[how] = {key: record[key] for key in ("command", "machine", "chunks_per_second")}
    return found


def measured(pack: Pack, name: str) -> dict | None:
    """Train for a moment, and return how many chunks a second this machine trains on."""
    out = pack.work / f"{name}-speed"
    if pack.run({f"{name}-speed": command(pack, name, out, 2 if pack.toy else 200)}, 120)[f"{name}-speed"] != 0:
        return None
    return {"chunks_per_second": stage1_record(out)["chunks_per_second"]["training"]}


def trained(pack: Pack, name: str) -> dict | None:
    """Pretrain a head, evaluate it beside the bundled one, and return its losses."""
    out = pack.out / f"{name}-20m"
    steps = 3 if pack.toy else ceil(CHUNKS / BATCH)
    if pack.run({name: command(pack, name, out, steps)})[name] != 0:
        return None
    record = stage1_record(out)
    row = {key: record[key] for key in ("command", "steps", "chunks", "minutes", "machine", "held_out_loss")}
    row["held_out_loss_with_signal"] = record.get("held_out_loss_with_signal")
    evaluation = pack.out / f"{name}-evaluation"
    against = action_heads("evaluate-head", out, "--against", f"dae/{name}", "--out", evaluation)
    if not pack.toy and pack.left > 60 and pack.run({f"{name}-evaluation": against})[f"{name}-evaluation"] == 0:
        row["evaluation"] = files.read_json(evaluation / "evaluation.json")
    return row


if __name__ == "__main__":
    main()
