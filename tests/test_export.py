"""An exported file computes what the policy does, without this library, or says why it can't be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import COND_DIM, generator, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
from action_heads.runtime import export as exporting
from action_heads.runtime.export import ExportConfig, difference, export_policy, run
from action_heads.runtime.loop import SamplingLoop

EXAMPLE = Path(__file__).parent.parent / "examples" / "run_onnx.py"


def test_the_loop_is_the_sample(policy):
    """For every backbone with every adapter, of weights of its own."""
    loop = SamplingLoop(policy, steps=3, sampler="ddim", spacing="trailing")
    cond = torch.randn(2, COND_DIM, generator=generator(1))
    expected = policy.sample(cond, steps=3, generator=generator())
    noise = policy.head.noise(2, generator())
    torch.testing.assert_close(loop(noise, cond), expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        next(policy.trainable_parameters()).add_(1)
    torch.testing.assert_close(loop(noise, cond), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", [None, 3])
@pytest.mark.parametrize(
    ("backbone", "mechanism", "sampler"),
    [
        ("mlp", "adaln_zero", "ddim"),
        ("mixer", "adarmsnorm", "heun"),
        ("transformer", "cross_attention", "dpmpp_2m"),
        ("unet", "film", "ddim"),
    ],
)
def test_onnx(tmp_path, backbone, mechanism, sampler, tokens):
    pytest.importorskip("onnxruntime")
    policy = trained_policy(tiny_head(backbone), mechanism)
    config = ExportConfig("", tmp_path / "policy.onnx", steps=2, sampler=sampler, batch=2, tokens=tokens)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


def test_torch_export(tmp_path):
    policy = trained_policy(tiny_head("mixer"))
    config = ExportConfig("", tmp_path / "policy.pt2", format="torch", steps=3)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-5


@pytest.mark.slow
def test_aoti(tmp_path):
    policy = trained_policy(tiny_head("mixer"))
    config = ExportConfig("", tmp_path / "policy.pt2", format="aoti", steps=2)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-5


def test_a_file_is_no_larger_than_what_acts(tmp_path):
    """Neither other adapters' modulations nor the step embedding go along."""
    pytest.importorskip("onnxruntime")
    policy = trained_policy(ActionHead.from_pretrained("dae/mlp-5m-fk"), through="code")
    config = ExportConfig("", tmp_path / "policy.onnx", steps=1)
    backbone = sum(p.numel() for name, p in policy.head.backbone.named_parameters() if not name.startswith("step."))
    own = policy.modulation.expand.weight.numel() + policy.step_values().numel()
    most = 4 * (backbone + own + sum(p.numel() for p in policy.adapter.parameters()))
    path = export_policy(policy, config)
    assert path.stat().st_size < 1.02 * most
    assert str(Path(exporting.__file__).parent).encode() not in path.read_bytes()


def test_the_example_needs_nothing_of_us(tmp_path):
    pytest.importorskip("onnxruntime")
    policy = trained_policy(tiny_head())
    config = ExportConfig("", tmp_path / "policy.onnx", steps=2)
    path = export_policy(policy, config)
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p]; sys.argv[1:] = [{str(path)!r}];" + EXAMPLE.read_text()
    )
    code += "\nassert not {'torch', 'action_heads'} & sys.modules.keys()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "chunk (1, 16, 10)" in said


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    policy = trained_policy(tiny_head())
    with pytest.raises(ValueError, match="ddpm draws noise at every step"):
        export_policy(policy, ExportConfig("", tmp_path / "a.onnx", sampler="ddpm"))
    with pytest.raises(ValueError, match=r"must end in \.pt2"):
        ExportConfig("", tmp_path / "a.onnx", format="aoti")
    with pytest.raises(ValueError, match="unknown format 'tflite'; choose one of onnx, torch, aoti"):
        ExportConfig("", tmp_path / "a.tflite", format="tflite")
    with pytest.raises(ValueError, match="trains along"):
        export_policy(ActionHead(policy.head.config).attach(AdaLNZero(COND_DIM)), ExportConfig("", tmp_path / "a.onnx"))
    two = policy.head.attach(AdaLNZero({"tokens": 5, "state": 3}))
    with pytest.raises(ValueError, match="a file takes one condition, and this adapter reads state, tokens"):
        export_policy(two, ExportConfig("", tmp_path / "a.onnx"))
    monkeypatch.setattr(exporting, "why_no_inductor", lambda: "there is no C++ compiler")
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        export_policy(policy, ExportConfig("", tmp_path / "a.pt2", format="aoti"))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys):
    from action_heads import cli

    trained_policy(ActionHead.from_pretrained("dae/mlp-5m-fk")).save_adapter(tmp_path / "adapter")
    out = tmp_path / "policy.pt2"
    argv = ["action-heads", "export", str(tmp_path / "adapter"), "--out", str(out), "--format", "torch", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    cli.main()
    assert "differs from eager by at most" in capsys.readouterr().out
    assert run(out, "torch", {"noise": torch.zeros(1, 16, 10), "cond": torch.zeros(1, COND_DIM)}).shape == (1, 16, 10)
