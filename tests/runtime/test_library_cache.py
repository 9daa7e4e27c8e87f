"""Compiled code runs only from folders that nobody else can write to, and only if it is what was built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from small import tiny_head, trained_policy

from action_heads.runtime import cache, inductor, native
from action_heads.runtime.export import ExportConfig, export_policy

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of files are those of Unix")
NAME = "thing-key.so"


def build(path: Path) -> None:
    path.write_text("sound")


def load(path: Path) -> str:
    if (text := path.read_text()) != "sound":
        raise OSError(f"{text} does not load")
    return text


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_it_is_built_once_and_only_for_this_user(folder):
    assert cache.kept(folder, NAME, build, load) == "sound"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert only(folder).stat().st_mode & 0o777 == 0o700
    assert cache.kept(folder, NAME, lambda _: pytest.fail("built again"), load) == "sound"


@pytest.mark.parametrize("content", ["", "sou", "sound\0", "evil"])
def test_what_was_changed_is_built_again(folder, content):
    """A file that is incomplete or another library is rebuilt, and not even loaded."""
    cache.kept(folder, NAME, build, load)
    only(folder).write_text(content)
    seen = []
    cache.kept(folder, NAME, build, lambda path: seen.append(path.read_text()) or load(path))
    assert seen == ["sound"]
    assert only(folder).read_text() == "sound"


def test_what_does_not_load_is_built_again(folder):
    """A file that was built on another machine and does not load is rebuilt."""

    def elsewhere(path: Path) -> None:
        path.write_text("foreign")

    cache.kept(folder, NAME, elsewhere, Path.read_text)
    assert cache.kept(folder, NAME, build, load) == "sound"
    assert only(folder).read_text() == "sound"
    with pytest.raises(OSError, match="was just built and does not load: foreign"):
        cache.kept(folder, "other.so", elsewhere, load)
    assert only(folder).read_text() == "sound"


def test_a_build_that_fails_leaves_nothing(folder):
    with pytest.raises(OSError, match="no compiler"):
        cache.kept(folder, NAME, lambda _: (_ for _ in ()).throw(OSError("no compiler")), load)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777, 0o720])
def test_a_folder_that_others_may_write_is_refused(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(
        OSError, match=rf"others can write to {folder} \(mode {mode:o}\).* `chmod 700 .* set ACTION_HEADS"
    ):
        cache.kept(folder, NAME, build, load)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_file_that_others_may_write_is_refused(folder, mode):
    cache.kept(folder, NAME, build, load)
    path = only(folder)
    path.chmod(mode)
    with pytest.raises(OSError, match=rf"others can write to {path} .* remove {path}"):
        cache.kept(folder, NAME, build, load)


def test_what_belongs_to_another_user_is_refused(folder, monkeypatch):
    cache.kept(folder, NAME, build, load)
    owner, path = folder.stat().st_uid, only(folder)
    monkeypatch.setattr(cache.os, "geteuid", lambda: owner + 1)
    with pytest.raises(
        OSError, match=rf"{folder} belongs to user {owner}, you are {owner + 1}.* set ACTION_HEADS_CACHE"
    ):
        cache.kept(folder, NAME, build, load)
    with pytest.raises(OSError, match=rf"{path} belongs to user {owner}"):
        cache.sound(folder, NAME)


def test_a_library_that_is_a_link_is_refused(folder, tmp_path):
    cache.kept(folder, NAME, build, load)
    path = only(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link or a folder, but must be a regular file"):
        cache.kept(folder, NAME, build, load)


def test_links_to_folders(folder, tmp_path, monkeypatch):
    """Links are refused if another user made them or others can write to their target; the user's own are accepted."""
    target = tmp_path / "disk"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    cache.kept(folder, NAME, build, load)
    target.chmod(0o777)
    with pytest.raises(OSError, match="others can write to"):
        cache.private(folder)
    target.chmod(0o700)
    lstat = Path.lstat

    def foreign(path: Path):
        status = list(lstat(path))
        status[4] += path == folder  # st_uid
        return os.stat_result(status)

    monkeypatch.setattr(Path, "lstat", foreign)
    with pytest.raises(OSError, match="belongs to user"):
        cache.private(folder)


def test_a_folder_that_anybody_can_replace_is_refused(tmp_path):
    """A folder is refused if everybody can write to its parent, unless that has a sticky bit like that of /tmp."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(OSError, match=rf"everybody can write to {shared} .* `chmod o-w {shared}`"):
        cache.private(shared / "cache")
    shared.chmod(0o1777)
    cache.private(shared / "cache")


def test_where_no_folder_can_be(folder, tmp_path, monkeypatch):
    folder.write_text("a file")
    with pytest.raises(OSError, match="is not a folder: remove it, or set ACTION_HEADS_CACHE"):
        cache.private(folder)
    with pytest.raises(OSError, match=r"can't keep compiled code in .*: set ACTION_HEADS_CACHE"):
        cache.private(folder / "below")
    looped = tmp_path / "loop"
    looped.symlink_to(looped)
    with pytest.raises(OSError, match="can't keep compiled code"):
        cache.private(looped)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only file system"):
        cache.private(tmp_path / "new" / "cache")


def test_threads_and_processes_that_come_at_once_build_once(folder):
    built = []

    def slow(path: Path) -> None:
        built.append(path)
        time.sleep(0.2)
        build(path)

    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(cache.kept(folder, NAME, slow, load))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == 6 * ["sound"]
    assert len(built) == 1
    only(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
def test_what_a_killed_build_left_is_removed(folder, tmp_path):
    """The draft of a killed build is removed, and its lock blocks nobody."""
    code = (
        "import importlib.util, sys, time; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('cache', {cache.__file__!r})\n"
        "cache = importlib.util.module_from_spec(spec); spec.loader.exec_module(cache)\n"
        f"cache.kept(Path({str(folder)!r}), {NAME!r}, lambda path: (path.write_text('half'), time.sleep(60)), None)"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 20
    while not (folder.is_dir() and list(folder.glob("*/*"))) and time.monotonic() < until:
        time.sleep(0.01)
    assert list(folder.glob("*/*"))
    child.send_signal(signal.SIGKILL)
    child.wait()
    began = time.monotonic()
    assert cache.kept(folder, NAME, build, load) == "sound"
    assert time.monotonic() - began < 5
    only(folder)


def test_without_locks_it_works_too(folder, monkeypatch):
    """Without locks, as on some network disks, the cache works and keeps the drafts of the last hour."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(9, "Bad file descriptor")))
    old, new = folder / f"{cache.DRAFT}old", folder / f"{cache.DRAFT}new"
    cache.private(folder)
    for draft in (old, new):
        draft.mkdir()
    os.utime(old, (0, 0))
    assert cache.kept(folder, NAME, build, load) == "sound"
    assert not old.exists()
    assert new.exists()


# ── what uses it ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fresh(folder, monkeypatch):
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(folder))
    native.library.cache_clear()
    yield folder
    native.library.cache_clear()


needs_compiler = pytest.mark.skipif(sys.platform != "linux" or not native.shutil.which("g++"), reason="needs g++")


@needs_compiler
def test_a_library_under_the_name_of_ours_is_not_run(fresh):
    """A foreign library is not run, neither under the name of earlier releases nor in place of the built one."""
    native.library()
    ours = only(fresh)
    code = "#include <stdlib.h>\n__attribute__((constructor)) static void run() { _exit(77); }\n"
    evil = fresh.parent / "evil.cpp"
    evil.write_text("#include <unistd.h>\n" + code)
    subprocess.run(["g++", "-shared", "-fPIC", str(evil), "-o", str(fresh.parent / "evil.so")], check=True)
    content = (fresh.parent / "evil.so").read_bytes()
    ours.write_bytes(content)
    (fresh / f"{ours.stem.rpartition('-')[0]}.so").write_bytes(content)
    native.library.cache_clear()
    assert native.library().columns() > 0  # a process that ran it would have ended
    assert ours.read_bytes() != content


@needs_compiler
def test_a_shared_cache_falls_back_and_says_why(fresh):
    fresh.mkdir()
    fresh.chmod(0o777)
    fast = trained_policy(tiny_head(width=64, depth=2)).compile()
    assert fast.compiled.method == "packed"
    assert f"others can write to {fresh}" in fast.compiled.reason
    assert "set ACTION_HEADS_CACHE" in fast.compiled.reason


def test_inductor_s_cache_is_looked_at_too(folder, monkeypatch, tmp_path):
    """The check covers torch's own cache, whose files `compile("inductor")` and a compiled export run."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    assert inductor.cache_dir() == folder
    folder.mkdir()
    folder.chmod(0o777)
    policy = trained_policy(tiny_head(width=64, depth=2))
    fast = policy.compile("inductor")
    assert fast.compiled.method != "inductor"
    assert "set TORCHINDUCTOR_CACHE_DIR" in fast.compiled.reason
    with pytest.raises(ValueError, match="set TORCHINDUCTOR_CACHE_DIR"):
        export_policy(policy, ExportConfig("", tmp_path / "policy.pt2", format="aoti"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert inductor.cache_dir().name.startswith("torchinductor")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["native", "packed"])
@pytest.mark.parametrize("backbone", ["mlp", "mixer"])
def test_what_is_not_finite_stays_so(backbone, method, bad):
    """No NaN becomes an action that looks sound in a faster network, since the policy looks for NaN in the chunk."""
    head = tiny_head(backbone, width=64, depth=2)
    for mechanism in head.config.mechanisms:
        fast = trained_policy(head, mechanism).compile(method).head
        modulation = head.modulation_of(mechanism)
        for batch in (1, 41):
            for where in (0, 1):
                given = [torch.zeros(batch, 16, 10), 0.1 * torch.ones(batch, 1, modulation.values)]
                given[where][0, 0, 3] = bad
                assert not fast.predict(*given, modulation)[0].isfinite().all()
                if batch > 1:
                    assert fast.predict(*given, modulation)[1:].isfinite().all()
