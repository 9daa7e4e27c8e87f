"""Errors about a folder or name say what it is and which call loads it, and a local path never reaches the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small import tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.io import hub
from action_heads.io.hub import HeadNotFoundError, find
from action_heads.policy import ConditionedHead

pytest.importorskip("huggingface_hub")
from fake_hub import fake_hub_fixture  # noqa: F401


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Change to an empty working folder, and fail if the Hub is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.HubFiles, "folder", lambda of: pytest.fail(f"asked the Hub for {of.repo_id}"))
    return tmp_path


def make(folder: Path, kind: str) -> Path:
    """Make a folder of a kind in the working folder."""
    folder.mkdir(parents=True)
    if kind == "head":
        tiny_head().save_pretrained(folder)
    elif kind == "adapter":
        trained_policy(tiny_head()).save_adapter(folder)
    elif kind == "adapted policy":
        trained_policy(tiny_head()).save_adapter(folder)
        for name in ("policy.json", "encoder.safetensors"):
            (folder / name).write_text("{}")
    elif kind == "tap":
        (folder / "tap.safetensors").write_bytes(b"")
    elif kind == "LoRA":
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"")
    else:
        configs = {
            "LeRobot": {"type": "dae", "input_features": {}, "output_features": {}},
            "transformers": {"model_type": "siglip", "architectures": ["SiglipModel"]},
        }
        (folder / "config.json").write_text(json.dumps(configs[kind]))
        (folder / "model.safetensors").write_bytes(b"")
    return folder


READ_BY = {
    "head": r"an action head: use ActionHead.from_pretrained\('.*x/y'\)",
    "adapter": r"an adapter: use ConditionedHead.from_pretrained\('.*x/y'\), or head.load_adapter\('.*x/y'\)",
    "adapted policy": r"an adapted policy: use action_heads.ObservedPolicy.from_pretrained\('.*x/y'\)",
    "tap": r"a tap: use action_heads.vlm.Tap.load\('.*x/y', model\)",
    "LoRA": r"an adapter of PEFT: use peft.PeftModel.from_pretrained\(model, '.*x/y'\)",
    "LeRobot": r"a policy of LeRobot: use LeRobot, with --policy.path='.*x/y'",
    "transformers": r"a model of transformers: use transformers.AutoModel.from_pretrained\('.*x/y'\)",
}
NO_ADAPTER = "needed is a saved adapter: a folder of policy.save_adapter"
READERS = {
    "head": ActionHead.from_pretrained,
    "adapter": ConditionedHead.from_pretrained,
    "adapter onto a head": lambda path: tiny_head().load_adapter(path),
    "adapter into a policy": lambda path: trained_policy(tiny_head()).load_adapter(path),
}


@pytest.mark.parametrize("kind", READ_BY)
@pytest.mark.parametrize("reader", READERS)
def test_what_it_is_and_which_call_reads_it(work, kind, reader):
    folder = make(work / "x" / "y", kind)
    if kind.startswith("adapt") and reader.startswith("adapter"):
        return  # An adapted policy holds an adapter, which these calls load.
    if kind == reader:
        return
    for name in (folder, "x/y", "x/y/", "./x/y", str(folder)):
        with pytest.raises(HeadNotFoundError, match=READ_BY[kind]):
            READERS[reader](name)


def test_a_head_is_one_whatever_else_is_asked_for(work):
    folder = make(work / "head", "head")
    assert find("head", ["README.md", "config.json", "model.safetensors"]) == Path("head")
    assert find(folder, ["model.safetensors"]) == folder


def test_a_folder_that_lies_one_deeper_is_named(work):
    make(work / "runs" / "best", "head")
    with pytest.raises(HeadNotFoundError, match=r"Its folder 'best' holds them: pass '.*runs/best'"):
        find("runs")


def test_a_path_is_never_the_id_of_a_repository(work):
    """If a folder `a` exists, "a/b" lies in it. Asking the Hub would load files of the owner of `a` there."""
    make(work / "out" / "head", "head")
    (work / "out" / "file").write_text("")
    (work / "out" / "link").symlink_to(work / "gone")
    assert find("out/head") == Path("out/head")
    with pytest.raises(HeadNotFoundError, match=r"no folder 'out/haed': 'out' is a local folder that holds file,"):
        find("out/haed")
    with pytest.raises(HeadNotFoundError, match=r"no folder 'out/file': it is a file; pass its folder, 'out'"):
        find("out/file")
    with pytest.raises(HeadNotFoundError, match=r"no folder 'out/link': it is a link to .*gone, which does not exist"):
        find("out/link")
    with pytest.raises(HeadNotFoundError, match=r"lacks config.json, model.*Its folder 'head' holds them"):
        find("out")


def test_a_revision_or_an_owner_that_is_no_folder_here_asks_the_hub(work, monkeypatch):
    asked = []
    monkeypatch.setattr(hub.HubFiles, "folder", lambda of: asked.append(of.repo_id))
    find("me/head")
    (work / "me").mkdir()
    find("me/head", revision="main")
    assert asked == ["me/head", "me/head"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "no head None: it is of type NoneType; expected a str or a Path"),
        (5, "no head 5: it is of type int"),
        (b"out", "of type bytes"),
        ("", "no head '': an empty name"),
        ("nothing", r"no folder 'nothing' in .*, nor a bundled head"),
        ("nothing/", "no folder 'nothing/'"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("./a", "no folder './a'"),
        ("/nothing/here", "no folder '/nothing/here', nor"),
        (Path("a/b"), "no folder 'a/b'"),
        ("~/nothing-here", "no folder '~/nothing-here'"),
        ("~nobody-of-this-name/head", "the folder '~nobody-of-this-name/head' cannot be read"),
        ("a\0b", "no (folder|head)"),
        ("x" * 5000, "cannot be read"),
        ("out\\head", r"this system separates folders by /: 'out/head'"),
        ("mlp-5m-fkk", r"did you mean 'dae/mlp-5m-fk'\?"),
        ("dae/mlp-5m-fk/", r"did you mean 'dae/mlp-5m-fk'\?"),
    ],
)
def test_names_that_are_nothing(work, name, says):
    if "\\\\" in says and os.sep != "/":
        pytest.skip("a separator there")
    for kind, reader in READERS.items():
        expected = says
        if kind != "head":  # Bundled heads are offered in place of a head alone.
            expected = NO_ADAPTER if "did you mean" in says else says.replace("no head", "no adapter")
        with pytest.raises(HeadNotFoundError, match=expected) as error:
            reader(name)
        assert ("bundled heads" in str(error.value)) == (kind == "head")
        assert (NO_ADAPTER in str(error.value)) == (kind != "head")


def test_no_head_is_offered_in_place_of_an_adapter(work):
    """The error listed the files of the head, and asked whether that head was meant."""
    with pytest.raises(HeadNotFoundError) as error:
        ConditionedHead.from_pretrained("dae/mlp-5m-fk")
    text = str(error.value)
    assert "mlp-5m-fk lacks adapter.safetensors. It is an action head: use ActionHead.from_pretrained(" in text
    assert "did you mean" not in text
    assert "golden.safetensors" not in text


def test_home_and_a_trailing_slash(work, monkeypatch):
    monkeypatch.setenv("HOME", str(work))
    make(work / "head", "head")
    for name in ("~/head", "~/head/", "head/", Path("~/head")):
        assert isinstance(ActionHead.from_pretrained(name), ActionHead)


def test_a_missing_folder_is_named_before_the_network(fake_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_hub.commit("me/stack", {"adapter.safetensors": b""})
    fake_hub.commit("me/policy", {name: b"" for name in ("adapter.safetensors", "encoder.safetensors", "policy.json")})
    for name, says in [
        ("runs/head", r"^no folder 'runs/head' in .*, and no head 'runs/head' from the Hub: it does not exist"),
        ("me/stack", r"It holds an adapter: use ConditionedHead.from_pretrained\('me/stack'\)"),
        ("me/policy", r"It holds an adapted policy: use action_heads.ObservedPolicy"),
    ]:
        with pytest.raises(HeadNotFoundError, match=says):
            ActionHead.from_pretrained(name)
    fake_hub.status = 500
    with pytest.raises(HeadNotFoundError, match=r"^no folder 'runs/head' in .*the Hub answered 500"):
        ActionHead.from_pretrained("runs/head")
