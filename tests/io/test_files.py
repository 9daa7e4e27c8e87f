"""Files are written completely or not at all, and the error about an unreadable file says what it is."""

import json
import os
import zipfile

import pytest
import torch

from action_heads.io import files
from action_heads.io.files import WeightFileError, fingerprint, load_tensors, read_json, save_tensors, write_text

TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 8,  # Eighths are exact in bfloat16.
    "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "steps": torch.tensor([1, 2, 3]),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3.0),
}


def test_round_trip_keeps_values_dtypes_and_metadata(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    save_tensors(TENSORS, path, {"fingerprint": "abc"})
    loaded, metadata = load_tensors(path)
    assert metadata == {"format": "pt", "fingerprint": "abc"}
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_views_shared_and_trainable_tensors_are_saved(tmp_path):
    base = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    save_tensors({"a": base, "tied": base, "turned": base.T, "part": base[1:, ::2]}, tmp_path / "m.safetensors")
    loaded, _ = load_tensors(tmp_path / "m.safetensors")
    assert torch.equal(loaded["tied"], base)
    assert torch.equal(loaded["turned"], base.T)
    assert torch.equal(loaded["part"], base[1:, ::2])


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_tensors({"w": torch.ones(1000)}, path)
    loaded, _ = load_tensors(path)
    with open(path, "r+b") as file:  # Overwritten in place, which a memory map would show.
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(loaded["w"], torch.ones(1000))


def test_metadata_must_be_strings(tmp_path):
    with pytest.raises(TypeError, match=r"metadata\['steps'\] is of type int.*json.dumps"):
        save_tensors(TENSORS, tmp_path / "m.safetensors", {"steps": 5})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, step):
    path = tmp_path / "model.safetensors"
    save_tensors({"w": torch.zeros(3)}, path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"w": torch.ones(3)}, path)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "config.json", "{}")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_target_is_complete_when_it_appears(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def spy(draft, path):
        seen.append((os.path.dirname(draft) == os.path.dirname(path), draft.read_text(), path.exists()))
        replace(draft, path)

    monkeypatch.setattr(files.os, "replace", spy)
    write_text(tmp_path / "a.json", "naïve")
    assert seen == [(True, "naïve", False)]


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def _good(tmp_path):
    save_tensors({"w": torch.ones(64)}, tmp_path / "good")
    return (tmp_path / "good").read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda good: b"", "is empty"),
        (lambda good: good[:5], "truncated"),
        (lambda good: good[:40], "truncated"),
        (lambda good: good[:-1], "truncated"),
        (lambda good: b"\x80\x02}q\x00.", r"PyTorch pickle\. Only safetensors is read"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (lambda good: b"\n<!DOCTYPE html><html></html>", "web page"),
        (lambda good: b"<html><body>404</body></html>", "web page"),
        (lambda good: b"no weights, whatever this may be", "starts with b'no weights"),
    ],
)
def test_a_file_that_is_not_weights_says_what_it_is(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content(_good(tmp_path)))
    with pytest.raises(WeightFileError, match=says) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)


def test_torch_save_is_recognised_and_never_unpickled(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(2)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(WeightFileError, match=r"unpickling runs code.*save_file"):
        load_tensors(path)


@pytest.mark.parametrize(("start", "header"), [(b"\x80\x01", 0x0180), (b"PK", 0x4B50)])
def test_a_sound_file_that_starts_like_a_pickle_loads(tmp_path, start, header):
    path = tmp_path / "m.safetensors"  # Its first bytes are the length of its header, chosen here.
    save_tensors({"w": torch.ones(1)}, path, {"padding": ""})
    bare = int.from_bytes(path.read_bytes()[:8], "little")
    save_tensors({"w": torch.ones(1)}, path, {"padding": "x" * (header - bare)})
    assert path.read_bytes().startswith(start)
    assert torch.equal(load_tensors(path)[0]["w"], torch.ones(1))


def test_missing_file_and_folder_are_told_apart(tmp_path):
    save_tensors(TENSORS, tmp_path / "other.safetensors")
    with pytest.raises(WeightFileError, match=r"does not exist.*other\.safetensors"):
        load_tensors(tmp_path / "model.safetensors")
    with pytest.raises(WeightFileError, match="is a folder"):
        load_tensors(tmp_path)


def test_json_round_trips_and_bad_json_says_where(tmp_path):
    path = tmp_path / "config.json"
    write_text(path, json.dumps({"name": "é"}, ensure_ascii=False))
    assert read_json(path) == {"name": "é"}
    for content, says in [
        (b'{"a": 1,\n "b": }', r"line 2, column 7"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x80\x02}q\x00.", "binary.*pickle"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says) as caught:
            read_json(path)
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_fingerprint_is_the_same_in_every_format_that_holds_the_values(tmp_path):
    whole = {"w": TENSORS["w"], "steps": TENSORS["steps"]}
    stored = {"w": TENSORS["w"].bfloat16(), "steps": TENSORS["steps"]}
    save_tensors(stored, tmp_path / "m.safetensors")
    loaded = {
        name: t.float() if t.is_floating_point() else t
        for name, t in load_tensors(tmp_path / "m.safetensors")[0].items()
    }
    assert fingerprint(whole) == fingerprint(stored) == fingerprint(loaded)
    assert fingerprint(whole) == fingerprint(dict(reversed(whole.items())))
    assert fingerprint({"w": whole["w"].T}) == fingerprint({"w": whole["w"].T.contiguous()})


def test_fingerprint_sees_names_shapes_and_the_last_bit():
    w = TENSORS["w"]
    prints = [fingerprint(t) for t in ({"w": w}, {"v": w}, {"w": w.reshape(3, 2)}, {"w": torch.nextafter(w, w + 1)})]
    prints += [fingerprint({"w": torch.tensor([1])}), fingerprint({"w": torch.tensor([2])}), fingerprint({})]
    assert len(set(prints)) == len(prints)


def test_fingerprint_never_changes():
    # Adapters identify their head by it. A change here would orphan every saved adapter.
    assert fingerprint({"w": torch.tensor([[0.5, -1.0]]), "n": torch.tensor(3)}) == "7e5232fb0ceccd8b61c3048a66eae590"
