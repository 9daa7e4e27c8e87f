"""A copy from the Hub that was damaged in transfer or in the cache is downloaded again, once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from fake_hub import fake_hub_fixture  # noqa: F401
from small import tiny_head, trained_policy

from action_heads import adapter_file, head_file
from action_heads.io import hub
from action_heads.io.files import WeightFileError

CUTS = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a flipped bit": lambda data: data[:-5] + bytes([data[-5] ^ 16]) + data[-4:],
    "a web page": lambda data: b"<!doctype html>" + data[:50],
    "appended": lambda data: data + b"x",
}


@pytest.fixture
def published(fake_hub, tmp_path):
    """Publish a head as the repository "me/head"."""
    tiny_head().save_pretrained(tmp_path / "head")
    fake_hub.commit("me/head", {path.name: path.read_bytes() for path in (tmp_path / "head").iterdir()})
    return fake_hub


def damage(file: Path, how: str) -> None:
    place = Path(os.path.realpath(file))
    place.write_bytes(CUTS[how](place.read_bytes()))


def load(**options):
    return hub.load("me/head", head_file.load, **options)


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_it_is_fetched_anew_once(published, how, file):
    whole, folder = load()
    damage(folder / file, how)
    published.requests.clear()
    again, _ = load()
    assert again.fingerprint() == whole.fingerprint() == tiny_head().fingerprint()
    assert sum(r.startswith("GET") and r.endswith(file) for r in published.requests) <= 1
    published.requests.clear()
    load()
    assert not [r for r in published.requests if r.startswith("GET")]  # The repaired copy stays.


def test_a_pinned_commit_too(published):
    commit = published.branches["me/head"]["main"]
    _, folder = load(revision=commit)
    damage(folder / "model.safetensors", "truncated")
    assert load(revision=commit)[1] == folder


def test_an_adapter_too(published, tmp_path):
    head = tiny_head()
    trained_policy(head).save_adapter(tmp_path / "adapter")
    content = (tmp_path / "adapter" / adapter_file.NAME).read_bytes()
    published.commit("me/stack", {adapter_file.NAME: content})

    def read(folder: Path):
        return adapter_file.load(head, folder / adapter_file.NAME)

    _, folder = hub.load("me/stack", read, [adapter_file.NAME])
    damage(folder / adapter_file.NAME, "truncated")
    policy, _ = hub.load("me/stack", read, [adapter_file.NAME])
    expected = trained_policy(tiny_head()).adapter.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in policy.adapter.state_dict().items())


def test_offline_the_message_names_force_download(published):
    _, folder = load()
    damage(folder / "model.safetensors", "truncated")
    with pytest.raises(WeightFileError, match=r"truncated(.|\n)*copy of me/head from(.|\n)*force_download=True"):
        load(local_files_only=True)
    published.status = 503
    with pytest.raises(
        WeightFileError, match=r"truncated(.|\n)*downloading it again failed(.|\n)*force_download=True(.|\n)*503"
    ):
        load()
    published.status = None
    assert load(force_download=True)[0].fingerprint() == tiny_head().fingerprint()


def test_what_is_damaged_on_the_hub_itself_is_fetched_twice_and_no_more(published):
    whole = published.trees[published.branches["me/head"]["main"]]["model.safetensors"]
    published.commit("me/head", {"model.safetensors": whole[:-8]})
    with pytest.raises(WeightFileError, match=r"downloaded again just now, .*without success"):
        load()
    gets = [r for r in published.requests if r.startswith("GET") and r.endswith("model.safetensors")]
    assert len(gets) == 2


def test_a_folder_of_this_machine_is_read_as_it_is(fake_hub, tmp_path):
    tiny_head().save_pretrained(tmp_path / "head")
    damage(tmp_path / "head" / "model.safetensors", "truncated")
    with pytest.raises(WeightFileError) as caught:
        hub.load(tmp_path / "head", head_file.load)
    assert "force_download" not in str(caught.value)
    assert not fake_hub.requests
