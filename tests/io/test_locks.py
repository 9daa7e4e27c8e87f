"""One process at a time writes to a folder, and its lock ends with it, however it ends."""

from __future__ import annotations

import errno
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from forked import inside, names, needs_fork, outcome, outcomes

from action_heads.io import locks
from action_heads.io.locks import InUse, held, held_beside

pytestmark = needs_fork
BOTH = pytest.mark.parametrize("hold", [held, held_beside])


def asked(hold, place) -> str:
    """Return whether this thread is given a lock."""
    try:
        with hold(place):
            return "held"
    except InUse:
        return "refused"


@BOTH
def test_a_second_process_is_refused_and_told_by_whom(tmp_path, hold):
    place = tmp_path / "run"
    with inside(lambda: hold(place)) as pid:
        with pytest.raises(InUse) as refused, hold(place, remedy="give another --out"):
            pass
        says = str(refused.value)
        assert str(place) in says
        assert re.search(rf"pid {pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d", says)
        assert "Wait until it has ended, or give another --out" in says
        with hold(tmp_path / "other"):
            pass
    with hold(place):  # It was killed, and the child that it had forked still runs.
        assert "InUse" in outcome(lambda: hold(place).__enter__())
    assert outcome(lambda: hold(place).__enter__()) == "done"


@BOTH
def test_what_ends_regularly_leaves_nothing(tmp_path, hold):
    with hold(tmp_path / "run"):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == set()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "run"):
        _ = 1 / 0
    assert names(tmp_path) == {"run"}
    assert names(tmp_path / "run") == {"notes.txt"}


def test_a_thread_may_hold_again_what_it_holds_and_another_may_not(tmp_path):
    found = []

    def other() -> None:
        found.append(asked(held, tmp_path))

    with held(tmp_path):
        with held(tmp_path / "." / ""):
            pass
        assert (tmp_path / locks.NAME).exists(), "the inner one does not let go"
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert found == ["refused", "held"]


def test_a_folder_by_another_name_is_the_same_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with inside(lambda: held(tmp_path / "real")), pytest.raises(InUse), held(tmp_path / "link"):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1]", b'{"pid": "me"}', b"9" * 5000])
def test_the_file_alone_locks_nothing_whatever_it_holds(tmp_path, content):
    (tmp_path / locks.NAME).write_bytes(content)
    with held(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"has no locks .*Start one run at a time"), held(tmp_path):
        assert "in use by another run" in outcome(lambda: held(tmp_path).__enter__()), "it lives on this machine"
    with inside(lambda: held(tmp_path)):
        pass
    with pytest.warns(UserWarning, match="no locks"), held(tmp_path):  # It was killed, so its lock file has no meaning.
        pass


@BOTH
def test_without_locks_a_killed_container_does_not_block_its_own_folder(tmp_path, monkeypatch, hold):
    """Started again, it often has the same host name and process id. Its other threads are refused all the same."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    place, found = tmp_path / "run", []
    with inside(lambda: hold(place)) as pid:
        pass
    (lock,) = [path for path in tmp_path.rglob("*") if path.name.endswith(locks.NAME)]
    left = lock.read_text()
    assert f'"pid": {pid},' in left
    lock.write_text(left.replace(f'"pid": {pid},', f'"pid": {os.getpid()},'))
    with pytest.warns(UserWarning, match="has no locks"), hold(place), ThreadPoolExecutor() as pool:
        pool.submit(lambda: found.append(asked(hold, place)))
    assert found == ["refused"]
    assert not lock.exists()


def test_many_who_want_it_at_once_take_turns(tmp_path):
    """Only one holds the lock at a time, although the lock file is removed and created again all the time."""

    def compete() -> None:
        for _ in range(200):
            try:
                with held(tmp_path / "run"):
                    os.close(os.open(tmp_path / "alone", os.O_CREAT | os.O_EXCL))
                    os.unlink(tmp_path / "alone")
            except InUse:
                pass

    assert outcomes(compete, 4) == ["done"] * 4
