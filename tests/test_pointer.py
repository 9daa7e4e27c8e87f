"""Tests of adapters and heads that were moved after training."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from small import conditions, generator, tiny_head, trained_policy

from action_heads import ActionHead, ConditionedHead
from action_heads.io.hub import HeadNotFoundError


def chunk(policy):
    return policy.sample(conditions(), generator=generator())


@pytest.fixture
def made(tmp_path):
    """Save a head and an adapter trained on it, as `--head heads/mine` does in some working folder."""
    head = tiny_head()
    root = tmp_path / "there"
    head.save_pretrained(root / "heads" / "mine")
    here = os.getcwd()
    os.chdir(root)
    try:
        policy = trained_policy(ActionHead.from_pretrained("heads/mine"))
    finally:
        os.chdir(here)
    policy.save_adapter(root / "runs" / "lift")
    return root, chunk(policy)


def test_another_working_folder(made):
    root, expected = made
    assert torch.equal(chunk(ConditionedHead.from_pretrained(root / "runs" / "lift")), expected)


@pytest.mark.parametrize("layout", ["as it was", "beside it", "below it"])
def test_moved_with_its_head(made, layout, tmp_path):
    root, expected = made
    robot = tmp_path / "robot"
    if layout == "as it was":
        shutil.move(root, robot)
        adapter = robot / "runs" / "lift"
    else:
        adapter = robot / "lift"
        shutil.move(root / "runs" / "lift", adapter)
        shutil.move(root / "heads" / "mine", (robot if layout == "beside it" else adapter) / "mine")
    assert torch.equal(chunk(ConditionedHead.from_pretrained(adapter)), expected)


def test_another_head_of_that_name_is_not_taken(made):
    root, _ = made
    shutil.rmtree(root / "heads" / "mine")
    tiny_head(seed=1).save_pretrained(root / "heads" / "mine")
    with pytest.raises(
        HeadNotFoundError, match=r"points to the head test/tiny with fingerprint .* pass its folder or Hub id as head="
    ):
        ConditionedHead.from_pretrained(root / "runs" / "lift")


def test_a_head_that_is_gone_is_passed(made, tmp_path):
    root, expected = made
    shutil.move(root / "heads" / "mine", tmp_path / "elsewhere" / "renamed")
    with pytest.raises(HeadNotFoundError, match="If it was moved, pass its folder or Hub id as head="):
        ConditionedHead.from_pretrained(root / "runs" / "lift")
    place = tmp_path / "elsewhere" / "renamed"
    for head in (place, str(place), ActionHead.from_pretrained(place)):
        assert torch.equal(chunk(ConditionedHead.from_pretrained(root / "runs" / "lift", head=head)), expected)
    with pytest.raises(ValueError, match="was trained on the head test/tiny with fingerprint"):
        ConditionedHead.from_pretrained(root / "runs" / "lift", head=tiny_head(seed=1))


def test_a_head_that_was_never_saved(tmp_path):
    policy = trained_policy(tiny_head())
    policy.save_adapter(tmp_path)
    with pytest.raises(ValueError, match=r"was never saved. Load or build that head and pass it as head="):
        ConditionedHead.from_pretrained(tmp_path)
    assert torch.equal(chunk(ConditionedHead.from_pretrained(tmp_path, head=tiny_head())), chunk(policy))


def test_a_head_in_memory_keeps_its_dtype_and_device(made):
    """A request that can't be met is refused, and not ignored."""
    root, expected = made
    adapter, head = root / "runs" / "lift", ActionHead.from_pretrained(root / "heads" / "mine")
    loaded = ConditionedHead.from_pretrained(adapter, head=head, dtype="float32", device="cpu")
    assert torch.equal(chunk(loaded), expected)
    for options in ({"dtype": "bfloat16"}, {"device": "meta"}):
        with pytest.raises(ValueError, match=r"but head= is a module .* Call head\.to\(.*\) first"):
            ConditionedHead.from_pretrained(adapter, head=head, **options)
    assert ConditionedHead.from_pretrained(adapter, head=head.to(torch.bfloat16)).head.dtype == torch.bfloat16
    assert ConditionedHead.from_pretrained(adapter, dtype="bfloat16").head.dtype == torch.bfloat16
