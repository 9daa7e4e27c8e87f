"""Every damage of a training state is told with a remedy that works: to delete the folder and start again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny

from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.training import checkpoint

TENSORS = "step-12.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return pretrain_in(tmp_path_factory.mktemp("finished") / "run")


def pretrain_in(out: Path) -> Path:
    pretrain(tiny(out))
    return out


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unsealed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a state that an older release wrote, without a fingerprint."""
    tensors, _ = files.load_tensors(path)
    change(tensors)
    files.save_tensors(tensors, path)
    state = path.with_name(checkpoint.STATE)
    record = {key: value for key, value in files.read_json(state).items() if key != checkpoint.SEAL.key}
    files.write_text(state, json.dumps(record))


DAMAGE = {
    "missing": Path.unlink,
    "a folder": as_folder,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a pickle": lambda path: torch.save({"w": torch.ones(1)}, path),
    "a web page": lambda path: path.write_bytes(b"<!doctype html>" + b" " * 99),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
OF_RECORDS = {
    "a list": lambda path: path.write_text("[]"),
    "twice a key": lambda path: path.write_text('{"config": 1, "config": 1}'),
    "too large a number": lambda path: path.write_text('{"step": 1e999}'),
    "too deep": lambda path: path.write_text("[" * 5000),
}
OF_TENSORS = {
    "a tensor missing": lambda path: unsealed(path, lambda t: t.pop("parameters.0")),
    "another dtype": lambda path: unsealed(
        path, lambda t: t.update({"parameters.0": torch.ones(2, dtype=torch.complex64)})
    ),
    "NaN": lambda path: unsealed(path, lambda t: t["parameters.0"].fill_(float("nan"))),
    "another value": lambda path: files.save_tensors(
        {name: tensor + 1 for name, tensor in files.load_tensors(path)[0].items()}, path
    ),
}
CASES = [(TENSORS, name, damage) for name, damage in (DAMAGE | OF_TENSORS).items()]
CASES += [
    (file, name, damage)
    for file in (checkpoint.STATE, checkpoint.BEGUN)
    for name, damage in (DAMAGE | OF_RECORDS).items()
    if name not in ("missing", "a folder")  # no state was saved, or it is not a matter of content
]


@pytest.mark.filterwarnings("ignore:.*older release")
@pytest.mark.parametrize(("file", "damage"), [pytest.param(f, d, id=f"{f}: {n}") for f, n, d in CASES])
def test_the_remedy_works(file, damage, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    damage(out / "state" / file)
    with pytest.raises(ValueError, match=re.escape(file)) as caught:
        pretrain(tiny(out))
    assert checkpoint.REMEDY in str(caught.value)
    rest = str(caught.value).replace(checkpoint.REMEDY, "")
    assert not re.search(r"(?i)download|save (the head|it)|fix|write it again|convert", rest)
