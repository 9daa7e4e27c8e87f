"""Pack 1: the tests marked gpu, the latency table, the training table with CUDA graphs, and other systems compiled.

python benchmarks/gpu/pack_1_tables.py            # 8 minutes on one H100 or H200, without the compiled systems
python benchmarks/gpu/pack_1_tables.py --toy      # the same on a CPU, at a size that shows no more than that it works

Compilation takes minutes. What does not fit is left for the next pack, which adds its rows to the latency table.

Results: <out>/pack_1_tables.json, with latency_<device>.json and training_speed_<device>.json beside it. To publish
them, copy these two to benchmarks/results/. `uv run benchmarks/latency_report.py --device cuda` fills the page.
"""

from __future__ import annotations

import re
import sys

from packs import ROOT, Pack, cores, device, files, options

COMPILED = ("its loop", "diffusion U-Net, 277M", "SmolVLA expert", "pi0 expert", "pi0.5 expert", "GR00T N1.7 expert")


def main() -> None:
    """Run the pack."""
    pack, _ = options(__doc__ or "", "pack_1_tables")
    pack.environment["BENCHMARK_RESULTS"] = str(pack.out)
    pack.once("tests", 60, lambda: tests(pack))
    pack.once("latency", 90, lambda: table(pack, "latency", latency(pack.toy)))
    pack.once("training", 60, lambda: table(pack, "training_speed", training(pack.toy)))
    for name in COMPILED[:1] if pack.toy else COMPILED:
        flags = compiled(name, pack.toy)
        pack.once(f"compiled, {name}", 90, lambda flags=flags: table(pack, "latency", flags))
    pack.report()


def tests(pack: Pack) -> dict | None:
    """Run the tests marked gpu, and return how many passed and which failed."""
    what = ["--collect-only"] if pack.toy else ["-n", str(min(12, cores()))]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", *what]
    if pack.run({"tests": command}, 240)["tests"] is None:
        return None
    log = (pack.out / "tests.log").read_text(encoding="utf-8")
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|error)", log)}
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
    return {**counts, "collected": len(re.findall(r"::", log)) if pack.toy else sum(counts.values()), "failures": found}


def latency(toy: bool) -> list[str]:
    """Return the flags of the latency table."""
    small = ["--only", "AdaLN-Zero, eager", "--batch", "1", "--steps", "1", "--dtype", "fp32", "--rounds", "1"]
    full = ["--batch", "1", "256", "--steps", "1", "10", "--rounds", "12", "--seconds", "0.3", "--longest", "1"]
    return small if toy else full


def compiled(name: str, toy: bool) -> list[str]:
    """Return the flags that add a system compiled by inductor to the latency table. On CUDA it uses CUDA graphs."""
    small = ["--steps", "1", "--dtype", "fp32", "--rounds", "1"]
    full = ["--steps", "1", "10", "--rounds", "12", "--seconds", "0.3"]
    return ["--add", "--inductor", "--only", f"{name}, inductor", "--batch", "1", *(small if toy else full)]


def training(toy: bool) -> list[str]:
    """Return the flags of the training table."""
    return ["--graph", "--device", device(), "--steps", "5" if toy else "200", "--unet-steps", "0" if toy else "60"]


def table(pack: Pack, name: str, flags: list[str]) -> dict | None:
    """Run one of the benchmarks, and return its rows."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *flags]
    if pack.run({name: command}, 330)[name] != 0:
        return None
    return files.read_json(pack.out / f"{name}_{device()}.json")["results"]


if __name__ == "__main__":
    main()
