"""What importing costs, what the command says, and what a missing extra is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

from action_heads.extras import require

HEAVY = (
    "accelerate",
    "huggingface_hub",
    "lerobot",
    "matplotlib",
    "peft",
    "robosuite",
    "scipy",
    "torchvision",
    "transformers",
    "tyro",
)


def test_import_brings_no_extra():
    """Importing costs little more than importing torch: none of these may come along."""
    modules = "sys, action_heads, action_heads.adapters, action_heads.adapt, action_heads.encoders, action_heads.vlm"
    code = f"import {modules}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_adapters_have_one_identity():
    """`action_heads/adapters` is a link to `../adapters`; only the first is a package name."""
    import action_heads.adapters

    assert action_heads.adapters.FiLM.__module__ == "action_heads.adapters.film"


def test_missing_extra_is_named():
    with pytest.raises(ImportError, match=r"pip install 'action-heads\[sim\]'"):
        require("no_such_simulator", "sim")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["pretrain", "--help"], ["adapt", "--help"]])
def test_help(arguments, monkeypatch, capsys):
    from action_heads import cli

    monkeypatch.setattr(sys, "argv", ["action-heads", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "usage: action-heads" in capsys.readouterr().out


def test_heads_lists_the_bundled(monkeypatch, capsys):
    from action_heads import cli

    monkeypatch.setattr(sys, "argv", ["action-heads", "heads"])
    cli.main()
    assert "dae/mlp-5m-fk" in capsys.readouterr().out
