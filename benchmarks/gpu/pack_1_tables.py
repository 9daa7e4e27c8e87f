"""Pack 1: tests marked gpu, the latency table, the training table with CUDA graphs, and other systems compiled.

python benchmarks/gpu/pack_1_tables.py            # 8 minutes on one H100 or H200, without the compiled systems
python benchmarks/gpu/pack_1_tables.py --toy      # the same on a CPU, at a size that shows no more than that it works

The tests of the fused kernels are left to pack 3. Compilation takes minutes, so the fused kernels and the systems by
inductor come last. What does not fit is left for the next pack, which adds its rows to the latency table.

Results: <out>/pack_1_tables.json, with latency_<device>.json and training_speed_<device>.json beside it. To publish
them, copy these two to benchmarks/results/. `uv run benchmarks/latency_report.py --device cuda` fills the page.
"""

from __future__ import annotations

import sys

import packs
from packs import ROOT, Pack, device, files, options, tests_marked_gpu

from common import is_from_here  # isort: skip  packs.py puts benchmarks/ on the path

TESTS = ("tests/test_gpu.py", "tests/adapt/test_cached.py")
COMPILED = ("its loop", "diffusion U-Net, 277M", "SmolVLA expert", "pi0 expert", "pi0.5 expert", "GR00T N1.7 expert")


def main() -> None:
    """Run the pack."""
    pack, _ = options(__doc__ or "", "pack_1_tables")
    pack.environment["BENCHMARK_RESULTS"] = str(pack.out)
    continue_tables(pack)
    pack.once("tests", 60, lambda: tests_marked_gpu(pack, "tests", TESTS, 240))
    pack.once("latency", 90, lambda: table(pack, "latency", latency(pack.toy)))
    pack.once("training", 60, lambda: table(pack, "training_speed", training(pack.toy)))
    if device() == "cuda":
        pack.once("fused", 60, lambda: table(pack, "latency", fused()))
    for name in COMPILED[:1] if pack.toy else COMPILED:
        flags = compiled(name, pack.toy)
        pack.once(f"compiled, {name}", 90, lambda flags=flags: table(pack, "latency", flags))
    pack.report()


def continue_tables(pack: Pack) -> None:
    """Copy the table of an earlier pack into the folder of the results, so that rows are added to it.

    That of another machine stays where it is, since `latency.py --add` refuses to mix their times.
    """
    name = f"latency_{device()}.json"
    earlier, own = packs.EARLIER / name, pack.out / name
    if not pack.toy and earlier.exists() and not own.exists() and is_from_here(files.read_json(earlier)):
        files.write_text(own, earlier.read_text(encoding="utf-8"))


def latency(toy: bool) -> list[str]:
    """Return the flags of the latency table. The fused kernels, which must be compiled, are added later."""
    small = ["--only", "AdaLN-Zero, eager", "--batch", "1", "--steps", "1", "--dtype", "fp32", "--rounds", "1"]
    full = ["--batch", "1", "256", "--steps", "1", "10", "--rounds", "12", "--seconds", "0.3", "--longest", "1"]
    full += ["--without", "fused"]
    return small if toy else full


def compiled(name: str, toy: bool) -> list[str]:
    """Return the flags that add a system compiled by inductor to the latency table. On CUDA it uses CUDA graphs."""
    small = ["--steps", "1", "--dtype", "fp32", "--rounds", "1"]
    full = ["--steps", "1", "10", "--rounds", "12", "--seconds", "0.3"]
    return ["--add", "--inductor", "--only", f"{name}, inductor", "--batch", "1", *(small if toy else full)]


def fused() -> list[str]:
    """Return the flags that add our fused kernels to the latency table."""
    cases = ["--batch", "1", "256", "--steps", "1", "10", "--rounds", "12", "--seconds", "0.3"]
    return ["--add", "--only", "fused", *cases]


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
