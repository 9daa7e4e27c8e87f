"""A test that two processes with different hash seeds save the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from child import environment

HERE = Path(__file__).parent

SAVE = """
import sys
from pathlib import Path
from recorded import tiny
from formats import Model
from small import tiny_head, trained_policy
from action_heads import ActionHead, golden
from action_heads.adapt.trainer import Trainer
from action_heads.training import state
from action_heads.vlm import Tap

work, out = map(Path, sys.argv[1:])
head = tiny_head("transformer")
head.save_pretrained(out / "head")
golden.save(head, out / "head")
trained_policy(ActionHead.from_pretrained(work / "head")).save_adapter(out / "adapter")
Tap(Model(), ("layers.0", "layers.1")).save(out / "tap")
trainer = Trainer(tiny(work, encoder="none", cameras=(), mode="random-frozen"))
trainer.train_step(next(trainer.coming()))
state.begin(trainer, out / "state")
state.save(trainer, out / "state")
trainer.policy.save(out / "policy")
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, without the place of the policy's own head."""
    here = str(folder).encode()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().replace(here, b"FOLDER") for path in paths}


def test_the_same_bytes(tmp_path):
    for name in ("h5py", "accelerate", "transformers"):
        pytest.importorskip(name)
    sys.path.append(str(HERE / "adapt"))
    from recorded import hdf5
    from small import tiny_head

    hdf5(tmp_path / "demos.hdf5")
    tiny_head().save_pretrained(tmp_path / "head")
    folders = HERE.parent, HERE, HERE / "adapt", HERE / "fuzz"
    quiet = environment(*folders, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SAVE, str(tmp_path), str(tmp_path / seed)],
            env=quiet | {"PYTHONHASHSEED": seed},
        )
        for seed in ("0", "1")
    ]
    assert [process.wait(timeout=1800) for process in processes] == [0, 0]
    saved = [contents(tmp_path / seed) for seed in ("0", "1")]
    assert {"adapter/adapter.safetensors", "tap/tap.safetensors", "policy/policy.json", "state/state.json"} <= set(
        saved[0]
    )
    assert saved[0].keys() == saved[1].keys()
    assert [name for name in saved[0] if saved[0][name] != saved[1][name]] == []
