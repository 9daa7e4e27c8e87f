"""Archives of a package index or of GitHub: download, check, unpack.

A download that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO

from action_heads._util.progress import progress_bar
from action_heads.io import drafts
from action_heads_lab.setup.trees import BLOCK

TRIES, TIMEOUT = 3, 30  # connections for one file, and seconds without a byte after which one is given up
_LINK = re.compile(r"""<a\s[^>]*href=["']([^"']+)["'][^>]*>([^<]+)</a>""", re.IGNORECASE)


class Unreachable(OSError):
    """An error about a file that could not be downloaded."""


class NothingLeft(Unreachable):
    """An error about a download that was asked to go on at or behind the end of its file."""


class Damaged(ValueError):
    """An error about a file or folder that does not have the expected hash."""


@dataclass(frozen=True)
class Archive:
    """A wheel, zip or .tar.gz file.

    Attributes:
        name: its file name.
        place: project on the package index that holds it, or its address.
        keep: start of the names inside that are unpacked -> what replaces it.
        sha256: its hash. It is empty where the server packs the archive anew; then the trees of the source decide.
    """

    name: str
    place: str
    keep: Mapping[str, str]
    sha256: str = ""

    def address(self) -> str:
        """Return its URL, for which the package index is asked if `place` is a project.

        Raises:
            Unreachable: the index cannot be reached or does not have the file.
        """
        if "://" in self.place:
            return self.place
        page = f"{index()}/{self.place}/"
        with _opened(page) as answer:
            links = _LINK.findall(answer.read(10 * BLOCK).decode("utf-8", "replace"))
        for link, name in links:
            if name.strip() == self.name:
                return urllib.parse.urljoin(page, unescape(link)).partition("#")[0]
        raise Unreachable(f"the package index does not list {self.name} in the project {self.place}")


def index() -> str:
    """Return the address of the package index that uv or pip would use."""
    named = (os.environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"))
    return next(filter(None, named), "https://pypi.org/simple").rstrip("/")


def download(archive: Archive, folder: Path) -> Path:
    """Download an archive to a folder and return its checked file, or the one that is there already."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if not path.exists():
        url = archive.address()
        for left in range(TRIES - 1, -1, -1):
            try:
                _continued(url, part)
                break
            except NothingLeft:
                if archive.sha256 and _sha256(part) == archive.sha256:  # a run ended before it renamed the file
                    break
                part.unlink()
                if not left:
                    raise
            except Unreachable:
                if not left:
                    raise
        part.replace(path)
    return checked(path, archive, remove=True)


def _continued(url: str, part: Path) -> None:
    """Download the bytes of a file that are still missing."""
    have = part.stat().st_size if part.exists() else 0
    with _opened(url, {"Range": f"bytes={have}-"} if have else {}) as answer:
        continues = answer.status == 206
        length = int(answer.headers.get("Content-Length") or 0)
        total = length + have * continues
        if not continues:
            part.unlink(missing_ok=True)
        with (
            drafts.writing(part),
            part.open("ab") as file,
            progress_bar(desc=part.stem, total=total, initial=have * continues, unit="B", unit_scale=True) as bar,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            if length and file.tell() != total:
                raise Unreachable(f"the connection ended after {file.tell()} of {total} bytes of {part.stem}")


@contextmanager
def _opened(url: str, headers: Mapping[str, str] = {}) -> Iterator[http.client.HTTPResponse]:
    """Open an address, and turn the errors of a network into `Unreachable`, within this context too."""
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    url, headers = urllib.parse.urlunsplit(parts._replace(netloc=host)), dict(headers)
    if user:  # of a private index; urllib would not send it, and no message may show it
        headers["Authorization"] = "Basic " + base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            yield answer
    except Unreachable:
        raise
    except urllib.error.HTTPError as error:
        kind = NothingLeft if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE else Unreachable
        raise kind(f"{url} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise Unreachable(f"{url} cannot be reached ({error.reason})") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise Unreachable(f"the connection to {url} broke ({str(error) or type(error).__name__})") from error


def checked(path: Path, archive: Archive, remove: bool = False) -> Path:
    """Return the path of an archive whose hash is right.

    Raises:
        Damaged: it is not. With `remove` the file is removed, so that it is downloaded again.
    """
    if archive.sha256 and (found := _sha256(path)) != archive.sha256:
        if remove:
            path.unlink()
        remedy = "It was removed; run it again" if remove else "Download it again"
        raise Damaged(f"{path} has the SHA-256 {found}, but {archive.sha256} was expected. {remedy}")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpack(path: Path, keep: Mapping[str, str], folder: Path) -> None:
    """Unpack the regular files of an archive whose names start with a key of `keep`.

    Raises:
        Damaged: the archive cannot be read, or a name in it leads out of the folder.
    """
    try:
        for name, opened in _members(path):
            for start, instead in keep.items():
                if name.startswith(start):
                    inside = PurePosixPath(instead + name.removeprefix(start))
                    if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
                        raise Damaged(f"{path} holds {name}, which leads out of the folder. It was not unpacked")
                    target = folder / inside
                    with drafts.writing(target):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with opened() as source, open(target, "wb") as file:
                            shutil.copyfileobj(source, file, BLOCK)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise Damaged(f"{path} is not a whole archive ({error}). Remove it, and run this again") from error


def _members(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield the name of each regular file in an archive, and a function that opens it."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if not item.is_dir():
                    yield item.filename, lambda item=item: archive.open(item)
    else:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name, lambda file=file: file
