"""A fingerprint covers the whole meaning of a file, and older files without one load with a warning."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("transformers", "robosuite")):
    pytest.skip("needs the vision and sim extras", allow_module_level=True)

sys.path.append(str(Path(__file__).parent))

import run  # noqa: F401 - its paths
from action_heads_lab.reproduce import results
from formats import FORMATS, Model, Run

from action_heads import ObservedPolicy
from action_heads.io.files import HEADER, load_tensors, save_tensors
from action_heads.training import checkpoint
from action_heads.vlm import Tap

SEALED = Path(__file__).parents[1] / "data" / "sealed"
BY_NAME = {form.name: form for form in FORMATS}


def in_json(name: str, change):
    def spoil(folder: Path) -> None:
        record = json.loads((folder / name).read_text())
        change(record)
        (folder / name).write_text(json.dumps(record))

    return spoil


def in_header(name: str, change):
    def spoil(folder: Path) -> None:
        tensors, metadata = load_tensors(folder / name)
        record = json.loads(metadata[HEADER])
        change(record)
        save_tensors(tensors, folder / name, {HEADER: json.dumps(record)})

    return spoil


def last_bit(name: str, which: str):
    """Return a tensor with the smallest change to one number."""

    def spoil(folder: Path) -> None:
        tensors, metadata = load_tensors(folder / name)
        flat = tensors[which].reshape(-1)
        flat[0] = torch.nextafter(flat[0], flat[0] + 1)
        save_tensors(tensors, folder / name, metadata)

    return spoil


CHANGES = [
    ("tap-mix", last_bit("tap.safetensors", "mix.weight")),
    ("tap-mix", in_header("tap.safetensors", lambda c: c["layers"].reverse())),
    ("tap-one", in_header("tap.safetensors", lambda c: c.update(select="image"))),
    ("tap-one", in_header("tap.safetensors", lambda c: c.update(layers=["layers.2"]))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(rate_hz=10.0))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(gripper=[1.0, -1.0]))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(blind=True))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(state=["observation.other"]))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(action="other"))),
    ("policy-states", in_json("policy.json", lambda c: c["contract"].update(action_layout="position*2 6d gripper"))),
    ("policy-pictures", in_json("policy.json", lambda c: c["contract"]["sizes"].update(front=[64, 64]))),
    ("policy-pictures", in_json("policy.json", lambda c: c["architecture"]["vision"].update(mean=[0.1, 0.5, 0.5]))),
    ("policy-pictures", in_json("policy.json", lambda c: c["observation"]["vision"].update(crop=[24, 24]))),
    ("policy-words", last_bit("encoder.safetensors", "text.vectors")),
    ("policy-words", in_json("policy.json", lambda c: c["observation"]["text"].update(pool="mean"))),
    ("state", last_bit("step-2.safetensors", "parameters.0")),
    ("state", last_bit("step-2.safetensors", "optimizer.1.exp_avg_sq")),
    ("state", in_json("state.json", lambda c: c.update(step=3))),
    ("state", in_json("state.json", lambda c: c.update(precision="bf16"))),
    ("state", in_json("state.json", lambda c: c["config"].update(lr=1.0))),
    ("result", in_json("run.json", lambda c: c["episodes"][2].update(success=True))),
    ("result", in_json("run.json", lambda c: c["earlier"]["500"].pop())),
    ("result", in_json("run.json", lambda c: c["head"].update(fingerprint="other"))),
    ("result", in_json("run.json", lambda c: c["run"].update(seed=42))),
    ("progress", in_json("p.json", lambda c: c["rolled"]["600"][0].update(success=False))),
]


@pytest.mark.parametrize(("name", "spoil"), CHANGES)
def test_a_change_of_what_it_means_is_refused(name, spoil, tmp_path):
    BY_NAME[name].make(tmp_path, 0)
    BY_NAME[name].load(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=r"were saved as|was saved as|was changed|fingerprint|rolls out") as caught:
        BY_NAME[name].load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("tap-mix", in_header("tap.safetensors", lambda c: c.pop("fingerprint"))),
        ("policy-words", in_json("policy.json", lambda c: c.pop("fingerprint"))),
        ("state", in_json("state.json", lambda c: c.pop("fingerprint"))),
    ],
)
def test_older_files_load_with_a_warning(name, spoil, tmp_path):
    form = BY_NAME[name]
    form.make(tmp_path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meaning = form.load(tmp_path)
    spoil(tmp_path)
    with pytest.warns(UserWarning, match="older release"):
        assert form.load(tmp_path) == meaning


def resume_and_save(folder: Path, out: Path) -> None:
    training = Run(7)
    checkpoint.resume(training, folder)
    checkpoint.save(training, out)
    state = json.loads((out / "state.json").read_text())
    assert state.pop("inputs") == training.inputs  # the release that wrote the file did not know them
    state["fingerprint"] = checkpoint.SEAL.of(state, training.state_dict())
    (out / "state.json").write_text(json.dumps(state))


def progress_and_save(folder: Path, out: Path) -> None:
    progress = results.Progress.load(folder / "p.json")
    progress.path = out / "p.json"
    progress.save()


SAVED_AGAIN = {
    "tap-mix": lambda folder, out: Tap.load(folder, Model()).save(out),
    "policy-states": lambda folder, out: ObservedPolicy.from_pretrained(folder).save(out),
    "state": resume_and_save,
    "result": lambda folder, out: results.save(results.load(folder / "run.json"), out / "run.json"),
    "progress": progress_and_save,
}


def said(folder: Path) -> dict:
    """Return the content of a folder's files, except where a head was found."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json"))}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors, metadata = load_tensors(path)
        header = json.loads(metadata.get(HEADER, "{}"))
        header.get("head", {}).pop("path", None)
        numbers = {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()}
        found[str(path.relative_to(folder))] = (header, numbers)
    return found


@pytest.mark.parametrize("name", SAVED_AGAIN)
def test_files_of_before_load_and_are_written_as_they_were(name, tmp_path):
    """Files of earlier releases are saved again with the same fingerprints, since other files name them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAVED_AGAIN[name](SEALED / name, tmp_path)
    assert said(tmp_path) == said(SEALED / name)


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("policy-states", "policy.json", "fingerprint"),
        ("state", "state.json", "fingerprint"),
        ("result", "run.json", "checksum"),
        ("progress", "p.json", "checksum"),
    ],
)
@pytest.mark.parametrize("fingerprint", [None, 3, "", "0" * 32])
def test_what_is_no_fingerprint_of_it_is_refused(name, file, key, fingerprint, tmp_path):
    """A fingerprint that is wrong or missing is refused in a current file; only older files may lack it."""
    BY_NAME[name].make(tmp_path, 0)
    in_json(file, lambda record: record.update({key: fingerprint}))(tmp_path)
    with pytest.raises(ValueError, match=r"were saved as|was changed") as caught:
        BY_NAME[name].load(tmp_path)
    assert str(tmp_path) in str(caught.value)
