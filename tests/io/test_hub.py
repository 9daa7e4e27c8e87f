"""Heads are found and published, and every failure is explained soon. No test uses the network."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child import environment
from fake_hub import fake_hub_fixture, point_at  # noqa: F401

from action_heads.io import bundled_heads, hub
from action_heads.io.hub import HeadNotFoundError, bundled, find
from action_heads.io.hub_push import PushError, push

HEAD = {"config.json": b'{"version": 1}', "model.safetensors": b"weights"}


@pytest.fixture
def heads(tmp_path, monkeypatch):
    """Replace the bundled heads by two, and change to an empty working folder."""
    for name in ("mlp-5m-fk", "mixer-2m-fk"):
        _write(tmp_path / "weights" / name)
    (tmp_path / "weights" / "notes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(bundled_heads, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "weights"


@pytest.fixture
def endless_socket():
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _write(folder: Path, files=HEAD) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Names of local folders and bundled heads


def test_bundled_heads_are_found_by_full_and_short_name(heads):
    assert list(bundled()) == ["dae/mixer-2m-fk", "dae/mlp-5m-fk"]
    assert find("dae/mlp-5m-fk") == find("mlp-5m-fk") == heads / "mlp-5m-fk"
    assert find("mlp-5m-fk", force_download=True) == heads / "mlp-5m-fk"


def test_bundled_heads_and_folders_have_no_revision(heads):
    for name in ("dae/mlp-5m-fk", str(heads / "mlp-5m-fk")):
        with pytest.raises(ValueError, match=r"revision='v2'.*only Hub repositories have revisions"):
            find(name, revision="v2")


def test_a_folder_wins_over_a_bundled_name_only_where_it_exists(heads):
    assert find("dae/mlp-5m-fk") == heads / "mlp-5m-fk"
    mine = _write(Path("dae/mlp-5m-fk"))
    assert find("dae/mlp-5m-fk") == mine
    assert find(heads / "mlp-5m-fk") == heads / "mlp-5m-fk"


def test_a_folder_that_lacks_files_names_them(heads):
    folder = _write(Path("mine"), {"config.json": b"{}"})
    with pytest.raises(HeadNotFoundError, match=r"mine lacks model\.safetensors; it holds \['config\.json'\]"):
        find(folder)
    assert find("mine", files=("config.json",)) == folder
    with pytest.raises(HeadNotFoundError, match="no such folder"):
        find("mine", subfolder="deeper")
    deep = _write(folder / "deep")
    assert find("mine", subfolder="deep") == deep


@pytest.mark.parametrize(
    "name", ["mlp-5m-droid", "./mine", "../mine", "a/b/c", "~/nothing-here", "", Path("owner/name")]
)
def test_a_name_that_is_nothing_fails_at_once_without_network(heads, monkeypatch, name):
    monkeypatch.setattr(hub.HubFiles, "folder", lambda _: pytest.fail("asked the Hub"))
    with pytest.raises(HeadNotFoundError, match="Pass a folder") as caught:
        find(name)
    assert "dae/mixer-2m-fk, dae/mlp-5m-fk" in str(caught.value)
    assert "action-heads pretrain" in str(caught.value)


# The Hub answers


def test_push_then_find_round_trips(heads, fake_hub, tmp_path):
    folder = _write(tmp_path / "mine", {**HEAD, "README.md": b"---\nlicense: mit\n---\n", ".env": b"SECRET"})
    (folder / "golden").mkdir()
    (folder / "golden" / "a.json").write_bytes(b"[]")
    url = push(folder, "me/head", token="hf_other")
    commit = fake_hub.branches["me/head"]["main"]
    assert url == f"{fake_hub.url}/me/head/commit/{commit}"
    assert fake_hub.trees[commit].keys() == {"config.json", "model.safetensors", "README.md", "golden/a.json"}
    assert sum("/commit/main" in request for request in fake_hub.requests) == 1
    assert _read(find("me/head")) == HEAD
    assert find("me/head", revision=commit) == find("me/head")
    assert find("me/head", subfolder="golden", files=("a.json",)).name == "golden"
    assert any(agent.startswith("action-heads/") for agent in fake_hub.agents)


def test_push_again_and_pull_request(fake_hub, tmp_path):
    folder = _write(tmp_path / "mine")
    first = push(folder, "me/head")
    folder.joinpath("config.json").write_bytes(b"{}")
    second = push(folder, "me/head", private=True)
    assert first != second
    folder.joinpath("config.json").write_bytes(b"[]")
    assert push(folder, "me/head", create_pr=True) == f"{fake_hub.url}/me/head/discussions/1"
    assert _read(find("me/head"))["config.json"] == b"{}"
    assert _read(find("me/head", revision="refs/pr/1"))["config.json"] == b"[]"


def test_an_update_on_the_hub_is_seen_and_files_of_two_commits_never_mix(fake_hub, monkeypatch):
    import huggingface_hub

    fake_hub.commit("me/head", {"config.json": b"1", "model.safetensors": b"1"})
    assert _read(find("me/head")) == {"config.json": b"1", "model.safetensors": b"1"}
    fake_hub.commit("me/head", {"config.json": b"2", "model.safetensors": b"2"})
    download = huggingface_hub.hf_hub_download

    def push_after_first(repo_id, file, **kwargs):
        path = download(repo_id, file, **kwargs)
        if file == "config.json":
            fake_hub.commit("me/head", {"config.json": b"3", "model.safetensors": b"3"})
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", push_after_first)
    assert _read(find("me/head")) == {"config.json": b"2", "model.safetensors": b"2"}


def test_force_download_mends_a_damaged_cache(fake_hub):
    fake_hub.commit("me/head", HEAD)
    folder = find("me/head")
    Path(os.path.realpath(folder / "model.safetensors")).write_bytes(b"damaged")
    assert _read(find("me/head")) != HEAD
    assert _read(find("me/head", force_download=True)) == HEAD
    with pytest.raises(ValueError, match="exclude each other"):
        find("me/head", force_download=True, local_files_only=True)


def test_what_the_hub_refuses_is_told_apart(heads, fake_hub):
    fake_hub.commit("me/head", HEAD)
    fake_hub.commit("me/closed", HEAD)
    fake_hub.gated["me/closed"] = "hf_friend"
    for kwargs, says in [
        ({"name_or_path": "me/none"}, "does not exist, or it is private.*HF_TOKEN"),
        ({"name_or_path": "me/closed"}, "is gated: request access at .*/me/closed, then pass token="),
        ({"name_or_path": "me/head", "revision": "v9"}, "no revision 'v9'"),
        ({"name_or_path": "me/head", "revision": "0" * 40}, "no revision '0000"),
        ({"name_or_path": "me/head", "files": ("config.json", "norm.json")}, "lacks a file.*norm.json"),
        ({"name_or_path": "me/he--ad"}, "not a valid Hub id"),
        ({"name_or_path": "me/head.git", "local_files_only": True}, "not a valid Hub id"),
        ({"name_or_path": "me/head", "local_files_only": True, "revision": "v8"}, "the cache does not hold all of it"),
    ]:
        with pytest.raises(HeadNotFoundError, match=says) as caught:
            find(**kwargs)
        message = str(caught.value)
        assert kwargs["name_or_path"] in message
        assert fake_hub.url in message  # The address that was tried.
        assert "dae/mlp-5m-fk" in message
        assert "action-heads pretrain" in message
    assert _read(find("me/closed", token="hf_friend")) == HEAD


def test_a_broken_hub_is_told_apart_and_a_deleted_revision_is_final(fake_hub):
    fake_hub.commit("me/head", HEAD, branch="v1")
    find("me/head", revision="v1")
    del fake_hub.branches["me/head"]["v1"]
    with pytest.raises(HeadNotFoundError, match="no revision 'v1'"):
        find("me/head", revision="v1")
    fake_hub.status = 500
    with pytest.raises(HeadNotFoundError, match="answered 500"):
        find("me/head")


def test_push_errors_say_where_to_and_why(fake_hub, tmp_path):
    with pytest.raises(PushError, match="is not a folder"):
        push(tmp_path / "none", "me/head")
    (tmp_path / "bare").mkdir()
    with pytest.raises(PushError, match="is empty"):
        push(tmp_path / "bare", "me/head")
    folder = _write(tmp_path / "mine")
    with pytest.raises(PushError, match="no revision 'v9'"):
        push(folder, "me/head", revision="v9")
    with pytest.raises(PushError, match="not a valid Hub id"):
        push(folder, "me/he--ad")
    fake_hub.status = 403
    with pytest.raises(PushError, match=r"mine could not be published to .*/me/head: .*403.*write access"):
        push(folder, "me/head")


# The Hub does not answer


def _refused(monkeypatch, request):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # The socket is closed now, so nothing listens there.
    point_at(f"http://127.0.0.1:{port}", monkeypatch)


def _silent(monkeypatch, request):
    point_at(request.getfixturevalue("endless_socket"), monkeypatch)


def _no_name(monkeypatch, request):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    point_at("https://hub.invalid", monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


def _hanging_name(monkeypatch, request):  # No timeout of an HTTP client applies to this one.
    point_at("https://hub.invalid", monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(3) or [])


@pytest.mark.parametrize("outage", [_refused, _silent, _no_name, _hanging_name])
def test_an_outage_fails_soon_and_spares_the_cached(heads, fake_hub, monkeypatch, request, caplog, outage):
    commit = fake_hub.commit("me/cached", HEAD)
    find("me/cached")
    # The cache is read directly, since this call may use the network even with local_files_only.
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: pytest.fail("called the client"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    outage(monkeypatch, request)
    start = time.monotonic()
    with pytest.raises(HeadNotFoundError, match=r"cannot be reached.*check the network") as caught:
        find("me/head")
    assert "dae/mlp-5m-fk" in str(caught.value)
    assert _read(find("me/cached")) == HEAD
    assert "using the cached copy" in caplog.text
    with pytest.raises(HeadNotFoundError, match="cannot be reached"):
        find("me/cached", force_download=True)
    assert time.monotonic() - start < 2.5  # Three times half a second; the Hub's client alone would take 23 s.
    caplog.clear()
    assert _read(find("me/cached", revision=commit)) == HEAD  # A commit cannot change, so the network is not used.
    assert _read(find("me/cached", local_files_only=True)) == HEAD
    # Other loggers may still write, since a dropped request of 0.36 keeps retrying in its thread.
    assert not [record for record in caplog.records if record.name.startswith("action_heads.io.hub")]


def test_the_client_is_imported_late_and_its_offline_mode_asks_nothing(fake_hub):
    # A new interpreter, since the client reads HF_HUB_OFFLINE once; run_path avoids the import of torch.
    fake_hub.commit("me/head", HEAD)
    code = (
        "import runpy, sys; find = runpy.run_path(sys.argv[1])['find']; print('huggingface_hub' in sys.modules);"
        "find('me/head')"
    )
    env = environment(HF_HUB_OFFLINE="1")
    command = [sys.executable, "-c", code, str(hub.__file__)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"  # Users of local heads do not wait a quarter of a second for it.
    assert "HeadNotFoundError" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert not fake_hub.requests


def test_a_full_disk_is_not_called_a_network_failure(fake_hub, monkeypatch):
    import huggingface_hub

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    fake_hub.commit("me/head", HEAD)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match="No space left") as caught:
        find("me/head")
    assert not isinstance(caught.value, HeadNotFoundError)
