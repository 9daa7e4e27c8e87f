"""An exported file computes what the policy does without this library, or an error says why it cannot be written."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small import COND_DIM, generator, tiny_head, trained_policy

from action_heads import ActionHead, adapter_file
from action_heads.adapters import AdaLNZero
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import export as exporting
from action_heads.runtime.export import ExportConfig, difference, export_policy, read_metadata, run
from action_heads.runtime.metadata import describe
from action_heads.runtime.sampling_loop import SamplingLoop

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"


@pytest.fixture(autouse=True, scope="module")
def operators():
    """Cache torch's table of ONNX operators, since reading it takes half of the time of every export."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("onnxscript"):
            registry = import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            patch.setattr(registry, "from_torchlib", staticmethod(lru_cache(registry.from_torchlib)))
        yield


def test_the_loop_is_the_sample(policy):
    """The exported loop equals `sample` for every backbone with every adapter, and has its own copy of the weights."""
    loop = SamplingLoop(policy, Sampling(steps=3))
    assert {type(p) for p in loop.parameters()} == {torch.nn.Parameter}  # Inductor compiles no subclass.
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
    policy = trained_policy(tiny_head(backbone, depth=2 if backbone == "unet" else 1, width=8), mechanism)
    config = ExportConfig("", tmp_path / "policy.onnx", steps=2, sampler=sampler, batch=2, tokens=tokens)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-4
    check_metadata(policy, config, {"ddim": 2, "heun": 3, "dpmpp_2m": 2}[sampler])
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.parametrize(
    ("sampler", "steps", "evaluations"), [("ddim", 3, 3), ("heun", None, 19), ("one_step", None, 1)]
)
def test_torch_export(tmp_path, sampler, steps, evaluations):
    policy = trained_policy(tiny_head("mlp", depth=1) if steps is None else tiny_head("mixer"))
    config = ExportConfig("", tmp_path / "policy.pt2", format="torch", steps=steps, sampler=sampler)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-5
    check_metadata(policy, config, evaluations)


@pytest.mark.slow
def test_aoti(tmp_path):
    policy = trained_policy(tiny_head("mixer"))
    config = ExportConfig("", tmp_path / "policy.pt2", format="aoti", steps=2)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-5
    check_metadata(policy, config, 2)


def check_metadata(policy, config: ExportConfig, evaluations: int) -> None:
    """Check the metadata that a robot needs to use the numbers, and the identity of head and adapter."""
    said = read_metadata(config.out)
    assert said["space"] == policy.head.config.space.to_dict()
    assert said["units"] == {
        "position": "m",
        "rotation": "the first two rows of a rotation matrix",
        "gripper": "-1 open, +1 closed",
    }
    assert (said["sampler"], said["spacing"], said["evaluations"]) == (config.sampler, "trailing", evaluations)
    assert said["steps"] == (config.steps or (1 if config.sampler == "one_step" else 10))
    assert (said["batch"], said["horizon"], said["tokens"]) == (config.batch, 16, config.tokens)
    assert (said["head"], said["head_fingerprint"]) == ("test/tiny", policy.head.fingerprint())
    assert (said["adapter"], said["adapter_version"]) == (policy.adapter.name, adapter_file.VERSION)
    assert said["cond_dim"] == COND_DIM
    assert said["inputs"]["noise"] == [config.batch, 16, 10]
    assert said["inputs"]["cond"] == [config.batch, *([] if config.tokens is None else [config.tokens]), COND_DIM]
    assert len(said["adapter_fingerprint"]) == 32
    before = describe(policy, SamplingLoop(policy, Sampling(steps=1)), {"cond": torch.ones(1)})
    assert before["adapter_fingerprint"] == said["adapter_fingerprint"]
    with torch.no_grad():
        p = next(policy.trainable_parameters())
        p.add_(1)
        after = describe(policy, SamplingLoop(policy, Sampling(steps=1)), {"cond": torch.ones(1)})
        p.sub_(1)
    assert after["adapter_fingerprint"] != said["adapter_fingerprint"]


@pytest.mark.parametrize("pool", ["attention", "last"])
@pytest.mark.parametrize("form", exporting.ENDINGS)
def test_an_adapter_that_pools_tokens_asks_for_their_number(tmp_path, pool, form):
    """An export without a number of tokens is refused if the adapter pools tokens."""
    policy = trained_policy(tiny_head(), pool=pool)
    out = tmp_path / f"a{exporting.ENDINGS[form]}"
    with pytest.raises(ValueError, match=rf"pools tokens \('{pool}'\), .* with --tokens n"):
        export_policy(policy, ExportConfig("", out, format=form, steps=1))
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_pooled_by_attention(tmp_path):
    policy = trained_policy(tiny_head(), pool="attention")
    config = ExportConfig("", tmp_path / "a.pt2", format="torch", steps=1, tokens=3)
    export_policy(policy, config)
    assert difference(policy, config) < 1e-5
    assert (read_metadata(config.out)["tokens"], read_metadata(config.out)["pool"]) == (3, "attention")


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    """A place that cannot be written is refused before anything is loaded or traced."""
    policy = trained_policy(tiny_head())
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    monkeypatch.setitem(exporting.WRITERS, "onnx", lambda *_: pytest.fail("traced"))
    with pytest.raises(ValueError, match=r"--out .*folder\.onnx is a folder\. Name a file in it"):
        export_policy(policy, ExportConfig("", tmp_path / "folder.onnx"))
    with pytest.raises(ValueError, match=r"--out .*a\.onnx can't be written \(.*\. Choose another path"):
        export_policy(policy, ExportConfig("", tmp_path / "file" / "a.onnx"))
    with pytest.raises(ValueError, match="can't be written"):
        exporting.export(ExportConfig("no such adapter", tmp_path / "file" / "a.onnx"))
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ValueError, match=r"can't be written \(Permission denied\)"):
        export_policy(policy, ExportConfig("", tmp_path / "a.onnx"))


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": True}, {"batch": "1"}, {"tokens": 0}, {"tokens": 2.5}])
def test_what_is_no_number_of_rows(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be a positive integer"):
        ExportConfig("", **wrong)


def test_files_without_metadata(tmp_path):
    """A file without metadata is refused by name, and nothing in it is run."""
    with pytest.raises(ValueError, match="There is no file"):
        read_metadata(tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w") as archive:
        archive.writestr("a/data.pkl", b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / "text.pt2").write_text("hello")
    for name, content in {
        "list": "[1]",
        "deep": "[" * 10**5,
        "no": "{}",
        "later": '{"version": 2}',
        "bad": "{",
    }.items():
        with zipfile.ZipFile(tmp_path / f"{name}.pt2", "w") as archive:
            archive.writestr("a/extra/action_heads.json", content)
    with zipfile.ZipFile(tmp_path / "huge.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/extra/action_heads.json", " " * 2**21)
    for path in tmp_path.glob("*.pt2"):
        with pytest.raises(ValueError, match=rf"{path} (has no metadata|have version)"):
            read_metadata(path)


def test_onnx_files_without_metadata(tmp_path):
    pytest.importorskip("onnx")
    for name, content in {"empty": b"", "garbage": b"\x08\xff" * 50}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(ValueError, match="has no metadata of action-heads"):
            read_metadata(tmp_path / f"{name}.onnx")


def test_a_file_is_no_larger_than_what_acts(tmp_path):
    """A file contains neither the modulations of other adapters nor the step embedding."""
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
    policy = trained_policy(tiny_head(depth=1))
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
    with pytest.raises(ValueError, match="format is 'tflite'; choose one of onnx, torch, aoti"):
        ExportConfig("", tmp_path / "a.tflite", format="tflite")
    with pytest.raises(ValueError, match=r"sampler is 'dim' \(did you mean 'ddim'\?\); choose one of ddim"):
        ExportConfig("", tmp_path / "a.onnx", sampler="dim")
    with pytest.raises(ValueError, match="trains along"):
        export_policy(ActionHead(policy.head.config).attach(AdaLNZero(COND_DIM)), ExportConfig("", tmp_path / "a.onnx"))
    two = policy.head.attach(AdaLNZero({"tokens": 5, "state": 3}))
    with pytest.raises(ValueError, match="An exported file takes one condition, but this adapter reads state, tokens"):
        export_policy(two, ExportConfig("", tmp_path / "a.onnx"))
    monkeypatch.setattr(exporting, "why_no_inductor", lambda: "there is no C++ compiler")
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        export_policy(policy, ExportConfig("", tmp_path / "a.pt2", format="aoti"))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys, recwarn):
    from action_heads import cli

    trained_policy(ActionHead.from_pretrained("dae/mlp-5m-fk")).save_adapter(tmp_path / "adapter")
    out = tmp_path / "policy.pt2"
    argv = ["action-heads", "export", str(tmp_path / "adapter"), "--out", str(out), "--format", "torch", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    cli.main()
    said = capsys.readouterr().out
    assert [str(each.message) for each in recwarn if "not writable" in str(each.message)] == []
    assert "differs from eager by at most" in said
    assert said.startswith(f"exporting {tmp_path / 'adapter'} to {out} in format 'torch' ...\n")
    assert said.endswith(f"\nwrote {out}\n")
    assert "head: dae/mlp-5m-fk" in said
    assert "cond is one vector" in said
    (tmp_path / "adapter" / "encoder.safetensors").touch()
    monkeypatch.setattr(sys, "argv", [*argv, "--tokens", "3"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert re.search(r"--tokens 3: .*encoder\.safetensors makes one vector", capsys.readouterr().err)
    assert run(out, "torch", {"noise": torch.zeros(1, 16, 10), "cond": torch.zeros(1, COND_DIM)}).shape == (1, 16, 10)
