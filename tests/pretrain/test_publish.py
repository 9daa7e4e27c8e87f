"""A head is published completely, checked and read back, or not at all. No test leaves this machine."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
import yaml
from fake_hub import fake_hub_fixture  # noqa: F401
from small import tiny_head

from action_heads import ActionHead, cli, golden, head_file
from action_heads.card import KEPT
from action_heads.io import files, hub, hub_push
from action_heads.io.upload import PublishError, upload
from action_heads.pretrain.publish import PublishConfig, check, publish, unearned_names

RECORD = {
    "command": "action-heads pretrain --out heads/tiny",
    "licence": "Apache-2.0",
    "data": ["synthetic:panda"],
    "seed": 0,
    "steps": 12,
}


def save(head: ActionHead, folder, **record) -> ActionHead:
    """Write the files of a pretraining run into a folder, without training, and return the head."""
    head.config = dataclasses.replace(head.config, training={**RECORD, **record})
    head.save_pretrained(folder)
    loaded = ActionHead.from_pretrained(folder)
    golden.save(loaded, folder)
    (folder / "curves.json").write_text("{}")
    (folder / "curves.png").write_bytes(b"PNG")
    return loaded


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of a head that can be published, with a training state that must not be uploaded."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "heads" / "tiny"
    save(tiny_head("mixer"), folder)
    (folder / "state").mkdir()
    (folder / "state" / "step-12.safetensors").write_bytes(b"optimiser")
    return folder


def test_what_is_published_is_what_is_loaded(folder, fake_hub, capsys):
    done = publish(PublishConfig(folder, "me/tiny"))
    assert done is not None
    there = fake_hub.trees[done.revision]
    needed = {"config.json", "model.safetensors", "golden.safetensors", "curves.json", "curves.png", "README.md"}
    assert there.keys() == needed
    assert sum("/commit/main" in request for request in fake_hub.requests) == 1
    ours, theirs = (ActionHead.from_pretrained(name) for name in (folder, "me/tiny"))
    noise = ours.noise(2, torch.Generator().manual_seed(5))
    for name, output in golden.replay(ours, noise).items():
        assert torch.equal(output, golden.replay(theirs, noise)[name])
    printed = capsys.readouterr().out
    assert f'ActionHead.from_pretrained("me/tiny", revision="{done.revision}")' in printed
    assert done.url in printed


def test_a_bundled_or_local_name_is_read_back_from_the_hub_all_the_same(folder, fake_hub, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    assert hub.find("heads/tiny").name == "tiny"  # a local folder of the repository's name
    done = publish(PublishConfig(folder, "heads/tiny"))
    assert done is not None
    assert any(f"/resolve/{done.revision}/model.safetensors" in request for request in fake_hub.requests)


def test_pull_request(folder, fake_hub):
    publish(PublishConfig(folder, "me/tiny"))
    write = (folder / "README.md").read_text()
    (folder / "README.md").write_text(write + "More of mine.\n")
    done = publish(PublishConfig(folder, "me/tiny", create_pr=True))
    assert done == (f"{fake_hub.url}/me/tiny/discussions/1", "refs/pr/1")
    main, proposed = (fake_hub.trees[fake_hub.branches["me/tiny"][b]] for b in ("main", "refs/pr/1"))
    assert b"More of mine." in proposed["README.md"]
    assert b"More of mine." not in main["README.md"]


def test_dry_run_writes_the_card_and_sends_nothing(folder, fake_hub, capsys):
    (folder / "README.md").unlink()
    assert publish(PublishConfig(folder, dry_run=True)) is None
    assert fake_hub.requests == []
    assert "model.safetensors" in capsys.readouterr().out
    assert "library_name: action-heads" in (folder / "README.md").read_text()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "README.md", "golden.safetensors"])
def test_a_corrupted_upload_is_noticed(folder, fake_hub, file):
    fake_hub.tamper = file
    with pytest.raises(PublishError, match=f"these files differ from what was uploaded: {file}") as caught:
        publish(PublishConfig(folder, "me/tiny"))
    assert "git revert" in str(caught.value)
    assert f"{fake_hub.url}/me/tiny/settings" in str(caught.value)


def test_a_hub_that_fails_half_way_has_nothing_half(folder, fake_hub):
    fake_hub.commit_status = 500
    with pytest.raises(hub_push.PushError, match=r"answered 500[\s\S]*whole or not at all"):
        publish(PublishConfig(folder, "me/tiny"))
    assert fake_hub.trees[fake_hub.branches["me/tiny"]["main"]] == {}
    fake_hub.commit_status = None
    assert publish(PublishConfig(folder, "me/tiny"))


def test_refused_access_teaches_and_the_command_ends_without_a_traceback(folder, fake_hub, monkeypatch, capsys):
    fake_hub.status = 403
    monkeypatch.setattr("sys.argv", ["action-heads", "publish", str(folder), "--repo", "me/tiny"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert re.match(r"error: .* could not be published to .*/me/tiny: .*403.*token with write access", said)


def test_upload_verifies_any_head(folder, fake_hub):
    """`upload`, which `ActionHead.push_to_hub` calls, verifies any head, with golden outputs or without."""

    def is_head(head):
        return lambda there: head_file.check_copy(there, head.fingerprint())

    head = ActionHead.from_pretrained(folder)
    (folder / "golden.safetensors").unlink()
    assert upload(folder, "me/any", is_head(head), token="hf_other").url.startswith(f"{fake_hub.url}/me/any/commit/")
    with pytest.raises(PublishError, match="the fingerprint is"):
        upload(folder, "me/any", is_head(tiny_head("mlp")))


# What keeps a head from being published


def test_all_that_is_wrong_is_told_at_once(folder, fake_hub):
    save(tiny_head("mixer"), folder, command="", data=["npz:mine.npz"], licence=None)
    (folder / "curves.png").unlink()
    for name in ("evaluation.json", "trial.json"):
        (folder / name).write_text('{"fingerprint": "of another"}')
    with pytest.raises(PublishError) as caught:
        publish(PublishConfig(folder, "me/tiny-droid"))
    for says in (
        "curves.png is missing",
        "no 'command'",
        "no 'licence'. Pretraining writes it (--licence)",
        "no owner and licence is on record for npz:mine.npz. Pretrain with --credit 'npz:mine.npz=",
        "training['credits'] of config.json",
        "'me/tiny-droid' claims droid, but the head was trained on npz:mine.npz",
        "evaluation.json belongs to other weights (fingerprint of another)",
        "trial.json belongs to other weights (fingerprint of another)",
    ):
        assert says in str(caught.value)
    assert fake_hub.requests == []


def test_golden_outputs_must_agree(folder):
    golden.save(tiny_head("mixer", seed=1), folder)
    with pytest.raises(PublishError, match="golden outputs differ by"):
        check(folder)


def test_weights_must_be_finite_and_those_of_the_config(folder, monkeypatch):
    save(tiny_head("mixer"), folder)
    head = ActionHead(tiny_head("mixer").config)
    with torch.no_grad():
        head.backbone.out.bias[0] = torch.nan
    with monkeypatch.context() as patch:
        patch.setattr(head_file, "check_savable", lambda *_: None)  # as an older release saved it
        head.freeze().save_pretrained(folder)
    with pytest.raises(PublishError, match="NaN or infinity"):
        check(folder)
    tiny_head("mixer", seed=1).save_pretrained(folder.parent / "other")
    (folder / "model.safetensors").write_bytes((folder.parent / "other" / "model.safetensors").read_bytes())
    with pytest.raises(PublishError, match="have fingerprint"):
        check(folder)


def test_a_folder_that_is_no_head(tmp_path):
    with pytest.raises(PublishError, match="is not a folder"):
        check(tmp_path / "none")
    with pytest.raises(PublishError, match=r"config\.json is missing\n- model\.safetensors is missing"):
        check(tmp_path)
    with pytest.raises(PublishError, match="Add --repo owner/name"):
        publish(PublishConfig(tmp_path))


def test_names_must_be_earned():
    assert unearned_names(["mlp-5m-droid"], ["recorded:panda"])
    assert not unearned_names(["mlp-5m-droid"], ["droid:frames.npz", "recorded:panda"])
    assert not unearned_names(["mlp-5m-fk", "me/mlp-5m-fk"], ["synthetic:panda"])
    others = ["acme/mlp-5m-android", "acme/openxarm7", "calibero/arm"]
    assert not unearned_names(others, ["npz:mine.npz"]), "a part of a word claims nothing"
    assert len(unearned_names(["me/DROID_1.0.1", "droid/arm", "mlp-droid100"], ["npz:mine.npz"])) == 3
    assert unearned_names(["mlp-5m-droid"], ["npz:/data/android.npz", "lerobot:me/mine?schema=droid"])


# The card


def front_and_body(folder) -> tuple[dict, str]:
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_is_valid_says_what_must_be_said_and_its_code_runs(folder, fake_hub, tmp_path, monkeypatch):
    latency = {"command": "uv run benchmarks/latency.py", "machine": {"processor": "a CPU", "threads": 2}}
    latency["results"] = [{"what": "mixer + film", "batch": 1, "ms": 45.9}, {"what": "mlp + film", "batch": 1, "ms": 9}]
    (folder / "latency.json").write_text(json.dumps(latency))
    publish(PublishConfig(folder, "me/tiny"))
    front, body = front_and_body(folder)
    assert front == {
        "library_name": "action-heads",
        "pipeline_tag": "robotics",
        "license": "apache-2.0",
        "tags": ["robotics", "action-head", "diffusion-policy", "mixer"],
    }
    for says in (
        "action-heads pretrain --out heads/tiny",
        "synthetic minimum-jerk motion",
        "](curves.png)",
        "| mixer + film | 1 | 45.9 |",
        "| 0 to 2 | x, y, z of the tool centre point | m |",
        "## Limitations",
        "The licence of the weights is apache-2.0",
        "2511.12101",
    ):
        assert says in body
    assert "mlp + film" not in body
    block = re.search(r"```python\n(.*?)```", body, re.DOTALL)
    assert block
    names = {}
    monkeypatch.chdir(tmp_path)
    exec(compile(block[1], "README.md", "exec"), names)
    assert names["chunk"].shape == (8, 16, 10)
    assert (tmp_path / "out/my-task/adapter.safetensors").exists()


def test_the_cards_user_part_is_kept_and_a_card_without_one_is_put_aside(folder):
    (folder / "README.md").write_text("all mine\n")
    publish(PublishConfig(folder, dry_run=True))
    assert (folder / ".README.md.old").read_text() == "all mine\n"
    text = (folder / "README.md").read_text()
    assert text.endswith(KEPT)
    (folder / "README.md").write_text(text + "Thanks to the lab.\n")
    publish(PublishConfig(folder, "", dry_run=True))
    assert (folder / "README.md").read_text() == text + "Thanks to the lab.\n"


def test_a_card_for_mlp_and_for_credits_of_ones_own(tmp_path):
    save(tiny_head("mlp"), tmp_path, data=["npz:mine.npz"], credits={"npz:mine.npz": "mine, CC0"})
    publish(PublishConfig(tmp_path, dry_run=True))
    _, body = front_and_body(tmp_path)
    assert "- `npz:mine.npz`: mine, CC0" in body
    assert "denoises each action of a chunk independently" in body
    assert files.read_json(tmp_path / "config.json")["training"]["credits"]


def test_printed_commands_can_be_run_in_any_folder(tmp_path, capsys):
    """A folder's name may have a space, so each printed command quotes it."""
    folder = tmp_path / "my heads" / "tiny"
    save(tiny_head("mixer"), folder)
    publish(PublishConfig(folder, dry_run=True))
    said = capsys.readouterr().out
    assert f"`action-heads evaluate-head '{folder}'`" in said
    assert f"`action-heads demo --head '{folder}'`" in said
    (folder / "trial.json").write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(PublishError, match=f"`action-heads demo --head '{folder}'` again"):
        publish(PublishConfig(folder, dry_run=True))
