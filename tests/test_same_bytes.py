"""A test that two processes with different hash seeds save the same bytes. This process is one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small import tiny_head, trained_policy

from action_heads import ActionHead, golden
from action_heads.training import checkpoint

if any(find_spec(name) is None for name in ("h5py", "accelerate", "transformers")):
    pytest.skip("needs the extras train, data and vlm", allow_module_level=True)
from on_the_cpu import on_the_cpu  # noqa: F401 - a fixture

HERE = Path(__file__).parent
FOLDERS = [str(HERE), str(HERE / "adapt"), str(HERE / "fuzz")]
sys.path += FOLDERS[1:]


def save(work: Path, out: Path) -> None:
    """Save a head, an adapter, a tap, a training state and a policy."""
    from formats import Model
    from recorded import tiny

    from action_heads.adapt.trainer import Trainer
    from action_heads.vlm import Tap

    torch.manual_seed(0)
    head = tiny_head("transformer")
    head.save_pretrained(out / "head")
    golden.save(head, out / "head")
    trained_policy(ActionHead.from_pretrained(work / "head")).save_adapter(out / "adapter")
    Tap(Model(), ("layers.0", "layers.1")).save(out / "tap")
    trainer = Trainer(tiny(work, encoder="none", cameras=(), mode="random-frozen"))
    trainer.train_step(next(trainer.coming()))
    checkpoint.begin(trainer, out / "state")
    checkpoint.save(trainer, out / "state")
    trainer.policy.save(out / "policy")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, without the place of the policy's own head."""
    here = str(folder).encode()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().replace(here, b"FOLDER") for path in paths}


def test_the_same_bytes(tmp_path):
    from recorded import hdf5

    hdf5(tmp_path / "demos.hdf5")
    tiny_head().save_pretrained(tmp_path / "head")
    other = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"  # This process draws its hash seed at random.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *FOLDERS]), "PYTHONHASHSEED": other}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = "import sys; from pathlib import Path; from test_same_bytes import save; save(*map(Path, sys.argv[1:]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), str(tmp_path / "other")]
    process = subprocess.Popen(command, env=environment)
    save(tmp_path, tmp_path / "this")
    assert process.wait(timeout=1800) == 0
    saved = [contents(tmp_path / name) for name in ("this", "other")]
    assert {"adapter/adapter.safetensors", "tap/tap.safetensors", "policy/policy.json", "state/state.json"} <= set(
        saved[0]
    )
    assert saved[0].keys() == saved[1].keys()
    assert [name for name in saved[0] if saved[0][name] != saved[1][name]] == []
