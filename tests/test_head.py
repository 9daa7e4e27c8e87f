"""Tests of saving and loading heads, and of the errors for damaged ones."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle

import pytest
import torch
from fake_hub import fake_hub_fixture  # noqa: F401
from small import COND_DIM, actions, conditions, generator, tiny_config, tiny_head, trained_policy

from action_heads import ActionHead, ConditionedHead
from action_heads.adapters import ADAPTERS
from action_heads.io.files import WeightFileError
from action_heads.io.hub import HeadNotFoundError
from action_heads.io.upload import PublishError


def test_save_and_load_give_the_same_head(head, tmp_path):
    loaded = ActionHead.from_pretrained(head.save_pretrained(tmp_path / "head"))
    assert loaded.frozen
    assert not loaded.training
    assert loaded.fingerprint() == head.fingerprint()
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(loaded.sample(2, generator=generator()), head.sample(2, generator=generator()))


def test_bfloat16_file_has_one_fingerprint_in_any_dtype(head, tmp_path):
    folder = head.save_pretrained(tmp_path / "head", dtype=torch.bfloat16)
    full, low = (ActionHead.from_pretrained(folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert full.fingerprint() == low.fingerprint() != head.fingerprint()
    assert next(low.parameters()).dtype == torch.bfloat16
    assert torch.equal(low.normalizer.scale, head.normalizer.scale)
    assert (folder / "model.safetensors").stat().st_size < 0.6 * 4 * head.num_parameters


def test_fingerprint_follows_the_weights():
    head = ActionHead(tiny_config())
    before = head.fingerprint()
    with torch.no_grad():
        head.backbone.out.bias[0] += 1
    assert head.fingerprint() != before


def test_subfolder_and_card(head, tmp_path):
    head.save_pretrained(tmp_path / "repo" / "inner")
    assert ActionHead.from_pretrained(tmp_path / "repo", subfolder="inner").config.name == "test/tiny"
    card = (tmp_path / "repo" / "inner" / "README.md").read_text()
    assert "library_name: action-heads" in card
    assert f"{head.num_parameters:,}" in card


def test_a_card_of_ones_own_is_kept(head, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    head.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_repr_tells_counts(head):
    assert f"{head.num_parameters:,} parameters, frozen" in repr(head)
    used = sorted({head.attach(ADAPTERS[name](COND_DIM)).num_frozen for name in head.config.mechanisms})
    several = f"; a policy uses {used[0]:,} to {used[-1]:,} of them" if used[1:] else ""
    assert repr(head).endswith(f"parameters, frozen{several})")


OBJECTIVE = {"prediction": "x0", "train_steps": 100, "clip": 1.0}


def edit_config(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: edit_config(f, version=99), ValueError, "version 99"),
        (lambda f: edit_config(f, version=...), ValueError, "version None"),
        (lambda f: edit_config(f, colour="red"), ValueError, "unknown keys in the head's config: colour"),
        (lambda f: edit_config(f, width=...), ValueError, "lacks width"),
        (lambda f: edit_config(f, width=32), WeightFileError, "does not fit its config"),
        (lambda f: edit_config(f, horizon=8), WeightFileError, "backbone.embed"),
        (lambda f: edit_config(f, objective=OBJECTIVE | {"prediction": "epsilon"}), WeightFileError, "was changed"),
        (lambda f: edit_config(f, objective={}), ValueError, "the objective lacks clip"),
        (lambda f: edit_config(f, objective=None), ValueError, "the objective must be a JSON object"),
        (lambda f: edit_config(f, mechanisms=5), ValueError, "mechanisms .* must be of type tuple"),
        (lambda f: edit_config(f, depth=True), ValueError, "depth .* must be of type int"),
        (lambda f: edit_config(f, backbone="diffusion"), ValueError, "choose one of mlp, mixer"),
        (lambda f: edit_config(f, fingerprint="0" * 32), WeightFileError, "different saves"),
        (lambda f: edit_config(f, objective=OBJECTIVE | {"beta": 1}), ValueError, "beta"),
        (
            lambda f: edit_config(f, space={"parts": [["wheel", 2]], "mode": "absolute", "frame": ""}),
            ValueError,
            "wheel",
        ),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "not valid JSON"),
        (lambda f: (f / "config.json").unlink(), HeadNotFoundError, "lacks config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), WeightFileError, "empty"),
        (lambda f: torch.save({"w": torch.ones(1)}, f / "model.safetensors"), WeightFileError, "pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"<!doctype html>"), WeightFileError, "web page"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            WeightFileError,
            "truncated",
        ),
    ],
)
def test_spoilt_heads_are_refused(spoil, error, message, tmp_path):
    folder = tiny_head("mlp").save_pretrained(tmp_path / "head")
    spoil(folder)
    with pytest.raises(error, match=message):
        ActionHead.from_pretrained(folder)


def test_a_save_cut_short_is_refused(tmp_path):
    """A folder with new weights but the old config, as after a power cut, is refused."""
    folder = tiny_head(seed=0).save_pretrained(tmp_path / "head")
    config = (folder / "config.json").read_bytes()
    tiny_head(seed=1).save_pretrained(folder)
    (folder / "config.json").write_bytes(config)
    with pytest.raises(WeightFileError, match="different saves"):
        ActionHead.from_pretrained(folder)


def test_push_and_load_over_a_hub(fake_hub, head, tmp_path):
    url = head.push_to_hub("me/tiny")
    assert "me/tiny" in url
    loaded = ActionHead.from_pretrained("me/tiny")
    assert loaded.source["path"] == "me/tiny"
    assert len(loaded.source["revision"]) == 40  # The commit does not move with later pushes.
    assert torch.equal(loaded.sample(1, generator=generator()), head.sample(1, generator=generator()))


def test_a_head_that_was_cast_is_published_as_another_one(fake_hub):
    """A cast head keeps its fingerprint and its place, since adapters point to the weights that it was made from."""
    tiny_head().push_to_hub("me/tiny")
    cast = ActionHead.from_pretrained("me/tiny", dtype="bfloat16")
    cast.push_to_hub("me/tiny-bf16")
    loaded = ActionHead.from_pretrained("me/tiny-bf16")
    assert loaded.fingerprint() != cast.fingerprint()
    assert cast.source["path"] == "me/tiny"


def test_a_failing_save_leaves_the_older_head(tmp_path, monkeypatch):
    """If any of the files cannot be written, the older head remains."""
    folder = tiny_head(seed=0).save_pretrained(tmp_path / "head")
    for failing in ("model.safetensors", "config.json"):
        real = os.open

        def refuse(path, *args, failing=failing, real=real, **kwargs):
            if failing in str(path):
                raise OSError(errno.ENOSPC, "disk full")
            return real(path, *args, **kwargs)

        monkeypatch.setattr("os.open", refuse)
        with pytest.raises(OSError, match=f"could not write .*{failing}: .* Free some space"):
            tiny_head(seed=1).save_pretrained(folder)
        monkeypatch.undo()
        assert ActionHead.from_pretrained(folder).fingerprint() == tiny_head(seed=0).fingerprint()
        assert not list(folder.glob("*.tmp"))


def test_a_random_head_of_the_same_config_has_its_own_fingerprint(tmp_path):
    loaded = ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "head"))
    assert ActionHead(loaded.config).freeze().fingerprint() != loaded.fingerprint()


def test_loading_leaves_the_users_seed_alone(tmp_path):
    folder = tiny_head().save_pretrained(tmp_path / "head")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    ActionHead.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)


def test_an_adapter_of_a_head_that_is_only_here_is_not_pushed(fake_hub, tmp_path):
    policy = trained_policy(ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "head")))
    with pytest.raises(ValueError, match=r"Publish the head first with head\.push_to_hub"):
        policy.push_adapter("me/stack")


def test_push_adapter_and_load_it_on_a_robot(fake_hub, tmp_path):
    from action_heads import ConditionedHead

    tiny_head().push_to_hub("me/head")
    policy = trained_policy(ActionHead.from_pretrained("me/head"))
    policy.push_adapter("me/stack")
    loaded = ConditionedHead.from_pretrained("me/stack")
    a, b = (p.sample(conditions(), generator=generator()) for p in (policy, loaded))
    assert torch.equal(a, b)


@pytest.mark.parametrize("file", ["adapter.safetensors", "README.md"])
def test_a_corrupted_upload_of_an_adapter_is_noticed(fake_hub, file):
    tiny_head().push_to_hub("me/head")
    policy = trained_policy(ActionHead.from_pretrained("me/head"))
    fake_hub.tamper = file
    with pytest.raises(PublishError, match=f"these files differ from what was uploaded: {file}"):
        policy.push_adapter("me/stack")


def test_no_part_of_a_frozen_head_can_be_loaded_into(head):
    other = tiny_head(head.config.backbone, seed=1)
    with pytest.raises(ValueError, match="is frozen, but the state to load has a different"):
        head.backbone.load_state_dict(other.backbone.state_dict())
    head.backbone.load_state_dict(head.backbone.state_dict())
    twin = copy.deepcopy(head)
    with pytest.raises(ValueError, match="is frozen"):
        twin.backbone.out.load_state_dict(other.backbone.out.state_dict())


def test_a_head_that_was_saved_knows_where(tmp_path):
    """A head that trained along, was frozen and saved beside its adapter is found by the adapter."""
    head = tiny_head().in_mode("normal")
    policy = trained_policy(head)
    head.freeze().save_pretrained(tmp_path / "head")
    loaded = ConditionedHead.from_pretrained(policy.save_adapter(tmp_path / "adapter"))
    assert torch.equal(*(p.sample(conditions(), generator=generator()) for p in (policy, loaded)))


def test_in_normal_training_only_what_is_computed_with_trains():
    policy = trained_policy(tiny_head().in_mode("normal"), "film")
    trained = list(policy.trainable_parameters())
    assert sum(p.numel() for p in trained) == policy.num_trainable
    policy.loss(actions(), conditions()).backward()
    assert all(p.grad is not None for p in trained)


def test_policies_survive_pickling(policy):
    twin = pickle.loads(pickle.dumps(policy))
    assert torch.equal(*(p.sample(conditions(), generator=generator()) for p in (policy, twin)))


@pytest.mark.parametrize("wrong", ["adaln_zero", ADAPTERS["adaln_zero"], None, 3])
def test_attach_takes_an_adapter(wrong):
    with pytest.raises(ValueError, match=r"Pass AdaLNZero\(cond_dim=\.\.\.\)"):
        tiny_head().attach(wrong)


def test_dtype_and_device_go_by_name(head, tmp_path):
    head.save_pretrained(tmp_path)
    loaded = ActionHead.from_pretrained(tmp_path, dtype="bfloat16", device="cpu")
    assert next(loaded.parameters()).dtype == torch.bfloat16
    for dtype in ("int8", "float33", torch.int64, torch.float8_e4m3fn, "float8_e5m2", 3, None):
        with pytest.raises(ValueError, match="dtype must be a floating-point torch dtype"):
            ActionHead.from_pretrained(tmp_path, dtype=dtype)
    for device in ("gpu", "cuda:99", 3.5):
        with pytest.raises(ValueError, match=r"can't be used .*device='cpu' always works"):
            ActionHead.from_pretrained(tmp_path, device=device)


def test_a_header_that_says_integers_is_refused(head, tmp_path):
    """A header that was damaged to claim integers is refused."""
    file = head.save_pretrained(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    for was, now in ((b'"F32"', b'"I32"'), (b'"F32"', b'"U32"')):
        file.write_bytes(whole.replace(was, now, 1))
        with pytest.raises(WeightFileError, match=r"torch\.u?int32|U32"):
            ActionHead.from_pretrained(tmp_path)
