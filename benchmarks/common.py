"""Parts that all benchmarks share: rates of the machine, Markdown tables, and result files that name their command."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from action_heads._util.machine import machine
from action_heads.card import REPOSITORY
from action_heads.io.files import read_json, write_text
from action_heads.runtime.packed import can_pack
from action_heads.training.checkpoint import changed

# Lets glibc keep the memory that torch has freed. Asking for it anew takes much of a large network's time per step.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_TOP_PAD_": str(10**9)}
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
PAGES = Path(__file__).parents[1] / "docs" / "results"  # the pages of the repository's results
# Where pages and figures are written. Results in another folder must not change the repository's pages.
DOCS = RESULTS if os.environ.get("BENCHMARK_RESULTS") else PAGES
ONLINE = f"{REPOSITORY}/blob/main/benchmarks/results"
REQUIRED = object()
Row = dict[str, Any]


def command_line(about: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the docstring of a benchmark as it is written, commands on their own lines."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def write_results(name: str, results: object) -> None:
    """Write benchmarks/results/<name>.json with command, date and machine."""
    write_text(RESULTS / f"{name}.json", json.dumps(provenance() | {"results": results}, indent=2) + "\n")


def provenance() -> Row:
    """Return the command, date and machine of this run."""
    command = shlex.join(["uv", "run", *(os.path.relpath(arg) if Path(arg).exists() else arg for arg in sys.argv)])
    return {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": machine()}


def stamped(row: Row, before: Mapping[str, Any] | None = None) -> Row:
    """Return a row with the command, date and machine of this run last in `made`.

    The file's own are those of its last run, which did not make the rows that were in the file already.

    Args:
        row: the row to write.
        before: the row of the same cell that this one continues. `made` begins with its runs, or with None if they are
            not recorded.
    """
    earlier = before.get("made", [None]) if before else []
    now = provenance()
    return row | {"made": earlier if earlier[-1:] == [now] else [*earlier, now]}


def made_text(name: str, rows: Sequence[Row]) -> str:
    """Return a table of the runs that made rows, for their page, and how many rows do not name theirs."""
    runs: dict[tuple[str, str, str], int] = {}
    for made in (made for row in rows for made in row.get("made", [None])):
        if made is None:
            run = ("not recorded", "", "")
        else:
            on = made["machine"]
            what = [on["gpu"] or on["processor"], f"{on['threads']} thread{'s' * (on['threads'] > 1)}"]
            run = (", ".join([*what, *on.get("instructions", [])]), made["date"], f"`{made['command']}`")
        runs[run] = runs.get(run, 0) + 1
    lines = [[str(count), *run] for run, count in runs.items()]
    unhashed = sum("inputs" not in row for row in rows)
    number = f"the {len(rows)} rows" if len(rows) > 1 else "the row"
    about = f"The runs that made {number} from [`{name}.json`]({ONLINE}/{name}.json)."
    if unhashed:
        about += (
            f" {unhashed} of these rows hold no hashes of their recordings, encoders and heads, so later runs can't "
            "check whether these have changed."
        )
    return f"{about}\n\n{table(['rows', 'machine', 'date', 'command'], lines, 4)}"


def read_results(name: str, otherwise: Any = REQUIRED) -> Any:
    """Return the results in benchmarks/results/<name>.json. If there is no such file, return `otherwise` if given."""
    path = RESULTS / f"{name}.json"
    return read_json(path)["results"] if otherwise is REQUIRED or path.exists() else otherwise


def is_from_here(record: Mapping[str, Any]) -> bool:
    """Return whether times of a results file may stand beside times of this machine: same processor, GPU and torch."""
    here = machine()
    return all(record["machine"].get(name) == here[name] for name in ("processor", "instructions", "gpu", "torch"))


def times_to_keep(name: str) -> Any:
    """Return the results in benchmarks/results/<name>.json, to which times of this machine are added, or None.

    Raises:
        SystemExit: they were measured on another machine, or with another torch.
    """
    if not (path := RESULTS / f"{name}.json").exists():
        return None
    if not is_from_here(record := read_json(path)):
        raise SystemExit(
            f"{path} was measured on another machine or with another torch, and its times can't stand beside new ones. "
            "Remove it to measure all of them again, or set BENCHMARK_RESULTS to another folder."
        )
    return record["results"]


def fill(page: Path, parts: Mapping[str, str]) -> None:
    """Write the parts into a page in `DOCS`, which begins as a copy of the repository's page if it does not exist."""
    from action_heads_lab.reproduce.page import filled  # here, since GPU packs run without the lab

    begun = page if page.exists() else PAGES / page.name
    write_text(page, filled(begun.read_text(encoding="utf-8"), parts, page))


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """End the program, before anything is measured, unless all names that were given are known."""
    known = list(known)
    if unknown := sorted(set(given) - set(known)):
        raise SystemExit(f"unknown: {', '.join(unknown)}. Choose from {', '.join(known)}.")


def row_of(rows: Iterable[Row], cell: Mapping[str, Any]) -> Row | None:
    """Return the row that has all settings of a cell, or None."""
    return next((row for row in rows if cell.items() <= row.items()), None)


def check_inputs(what: str, record: Mapping[str, Any], inputs: Mapping[str, str], remedy: str) -> None:
    """End the program if a recording, an encoder or a head has changed since a row or a policy was made.

    Args:
        what: the row or the policy, for the message.
        record: its record, with the hashes in `inputs`. Records of older releases have none and go on unchecked.
        inputs: the hashes of now, as `action_heads.adapt.build` returns them.
        remedy: what to do instead of restoring the old contents.
    """
    if names := changed(inputs, record.get("inputs", {})):
        raise SystemExit(
            f"{what} was measured with other contents of {', '.join(names)}, which have changed since. Restore them, "
            f"or {remedy}."
        )


def check_row(name: str, row: Row, cell: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """End the program if a row was measured with other inputs, since it would be continued or taken as finished."""
    remedy = "set BENCHMARK_RESULTS to another folder and measure all rows there"
    check_inputs(f"the row of {dict(cell)} in {RESULTS / f'{name}.json'}", row, inputs, remedy)


def with_row(rows: Iterable[Row], cell: Mapping[str, Any], new: Row) -> list[Row]:
    """Return the rows without that of the cell, and the new row last."""
    return [*(row for row in rows if not cell.items() <= row.items()), new]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def matrix_rate(dtype: torch.dtype, device: str, repeats: int = 20, tf32: bool = False) -> float:
    """Return the highest measured rate of matrix products in operations per second, from which floors are computed.

    With `tf32`, a GPU may use TF32 for products in float32, as it does for convolutions by default. The rate is that
    of large square products. On a CPU oneDNN's packed ones are timed too, since they are faster than MKL's in fp32 on
    AMD processors.
    """
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: a @ b]
    if device == "cpu" and torch.backends.mkldnn.is_available() and can_pack(dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(b, n)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    try:
        return max(2 * n**3 / least_seconds(product, repeats) for product in products)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def memory_rate(device: str, repeats: int = 20) -> float:
    """Return the rate at which a large tensor is read, in bytes per second."""
    x = torch.ones(2**28 if device == "cuda" else 2**25, device=device)
    return x.numel() * x.element_size() / least_seconds(x.sum, repeats)


def least_seconds(call: Callable[[], object], repeats: int) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for _ in range(repeats + 3):
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - began)
    return min(times[3:])
