"""Pack 6: one policy for the ten tasks of a LIBERO suite, from images with ResNet-50s that train and from words.

python benchmarks/gpu/pack_6_libero.py                            # LIBERO-Object, then LIBERO-Goal: a suite a pack
python benchmarks/gpu/pack_6_libero.py --suites libero_goal       # one suite alone
python benchmarks/gpu/pack_6_libero.py --text FOLDER              # words by a pretrained text model
python benchmarks/gpu/pack_6_libero.py --toy                      # one task on a CPU, two training steps

A pack records ten demonstrations a task on all cores, measures how fast the three modes train at once, chooses the
number of training steps from the time that is left, trains all three, and rolls each out from the suite's init states.
The ResNets start at random, since ImageNet's weights are too large to travel. So does the text model unless --text
names one: it gives each of the ten sentences a vector of its own, and no more. Results: <out>/pack_6_libero.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pack_2_images
from action_heads_lab.reproduce.config import EYES
from action_heads_lab.sim.interval import wilson
from action_heads_lab.sim.libero_tasks import of_suite
from action_heads_lab.sim.tasks import description
from pack_2_images import MODES, keys
from packs import Pack, cores, files, options, steps_in, workers

SUITES, HEAD = ("libero_object", "libero_goal"), pack_2_images.HEAD
DEMOS, EPISODES = 10, 10  # of each task
RECORDING, ROLLOUTS = 150, 180  # seconds that are kept free for each
SUITE = Path(__file__).with_name("libero_suite.py")


def main() -> None:
    """Run the pack."""
    pack, chosen = options(__doc__ or "", "pack_6_libero", suites=SUITES, demos=DEMOS, seed=0, text="")
    for suite in chosen.suites[:1] if pack.toy else chosen.suites:
        if all(key in pack.results for key in keys(suite, chosen.seed).values()):
            continue
        if pack.left > RECORDING + 1.5 * ROLLOUTS and (recorded := record(pack, suite, chosen.demos)):
            text = chosen.text or str(words_of(pack.work / "words", of_suite(suite)))
            train(pack, suite, recorded, text, chosen.seed)
    pack.report()


def words_of(folder: Path, tasks: Iterable[str]) -> Path:
    """Make a small text model with random weights that knows the words of the tasks, and return its folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for task in tasks for word in description(task).split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(vocab_size=len(vocabulary), dim=64, hidden_dim=128, n_layers=2, n_heads=4)
    transformers.DistilBertModel(config).save_pretrained(folder)
    return folder


def record(pack: Pack, suite: str, demos: int) -> dict | None:
    """Record demonstrations of all tasks of a suite, in a process for each, and return where they are."""
    size, demos = (48, 2) if pack.toy else (EYES["libero"]["size"], demos)
    began, path = time.monotonic(), pack.work / f"{suite}-{demos}-{size}.hdf5"
    tasks = of_suite(suite)[: 1 if pack.toy else None]
    command = [sys.executable, str(SUITE), "record", str(path), "--demos", str(demos), "--size", str(size)]
    command += ["--workers", str(cores()), "--tasks", *tasks]
    if not path.exists() and pack.run({f"record-{suite}": command}, 2 * RECORDING)[f"record-{suite}"] != 0:
        return None
    return {"file": str(path), "demos": demos * len(tasks), "size": size, "seconds": round(time.monotonic() - began)}


def command(pack: Pack, mode: str, recorded: dict, text: str, steps: int, seed: int, out: Path) -> list[str]:
    """Return the training of one run: as in pack 2, with the larger encoder and words."""
    given = {"recorded": recorded, "steps": steps, "seed": seed, "runs": len(MODES), "out": out}
    eyes = EYES["libero"]["flags"]
    flags = ["--encoder", "resnet18" if pack.toy else eyes["encoder"], "--text", text, "--schedule", eyes["schedule"]]
    return [*pack_2_images.command(pack, mode, **given), *flags, "--features", str(eyes["features"])]


def train(pack: Pack, suite: str, recorded: dict, text: str, seed: int) -> None:
    """Train all modes at once and roll them out. Results of earlier packs with other steps are replaced."""
    few = 2 if pack.toy else 60
    alike = {"pack": pack, "recorded": recorded, "text": text, "seed": seed}
    tries = {mode: pack.work / f"{suite}-{mode}-try-{time.time_ns()}" for mode in MODES}
    pack.run({f"{suite}-{m}-try": command(mode=m, steps=few, out=out, **alike) for m, out in tries.items()}, 240)
    found = [files.read_json(out / "results.json") for out in tries.values() if (out / "results.json").exists()]
    if len(found) < len(MODES):
        return
    rate = few / max(one["seconds"] for one in found)
    steps = 2 if pack.toy else steps_in(pack.left - ROLLOUTS - 30, rate, most=25_000)
    print(f"{suite}: {rate:.1f} training steps/s in each of {len(MODES)} runs; {steps} training steps", flush=True)
    outs = {mode: pack.work / f"{suite}-{mode}-{steps}" for mode in MODES}
    commands = {mode: command(mode=mode, steps=steps, out=out, **alike) for mode, out in outs.items()}
    pack.run({f"{suite}-{mode}": one for mode, one in commands.items()})
    rolled = {mode: pack.work / f"{suite}-{mode}-{steps}-rolled.json" for mode in MODES}
    tasks = of_suite(suite)[: 1 if pack.toy else None]
    flags = ["--episodes", str(1 if pack.toy else EPISODES), "--workers", str(workers(len(MODES))), "--tasks", *tasks]
    rollouts = {m: [sys.executable, str(SUITE), "roll-out", str(rolled[m]), "--policy", str(outs[m])] for m in MODES}
    pack.run({f"{suite}-{mode}-rollouts": [*one, *flags] for mode, one in rollouts.items()})
    for key in keys(suite, seed).values():
        pack.results.pop(key, None)
    for mode, path in rolled.items():
        if path.exists():
            row = {**row_of(files.read_json(path)), "steps": steps, "steps_per_second": round(rate, 1)}
            about = {"recorded": recorded, "text": text, "command": commands[mode][3:]}
            pack.results[keys(suite, seed)[mode]] = row | about
    pack.write()


def row_of(rolled: dict[str, list[bool]]) -> dict:
    """Return the successes of all tasks together, and of each."""
    episodes = [success for each in rolled.values() for success in each]
    counts = {"successes": sum(episodes), "episodes": len(episodes), "interval": wilson(sum(episodes), len(episodes))}
    return counts | {"rolled": rolled}


if __name__ == "__main__":
    main()
