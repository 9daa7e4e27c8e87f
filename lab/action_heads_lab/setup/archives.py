"""Archives of a package index, of GitHub or of a local folder: download, check, unpack.

A download that was interrupted goes on where it stopped. Files are unpacked next to their destination, checked, and
moved there in one piece, so that an interrupted run leaves nothing half-unpacked.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO

from action_heads._util.progress import progress_bar
from action_heads.io import drafts, locks
from action_heads_lab.setup.trees import BLOCK, git_hash

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


@dataclass(frozen=True)
class Source:
    """A place that holds all files of a benchmark.

    Attributes:
        about: its name in messages.
        archives: archives to unpack, or
        hub: id of a dataset on the Hugging Face Hub.
    """

    about: str
    archives: Sequence[Archive] = ()
    hub: str = ""

    def unpack(self, draft: Path, downloads: Path, local: Path | None = None) -> None:
        """Fill the folder `draft`. Archives are taken from the folder `local` if it is given.

        Raises:
            Unreachable: a download failed.
            Damaged: an archive has another hash than it should.
            FileNotFoundError: `local` lacks an archive.
        """
        if self.hub:
            _from_hub(self.hub, draft)
        for path, archive in zip(self.files(downloads, local), self.archives, strict=True):
            unpack(path, archive.keep, draft)

    def files(self, downloads: Path, local: Path | None) -> list[Path]:
        """Return the checked archives, downloaded if need be."""
        if local is None:
            return [download(archive, downloads) for archive in self.archives]
        if lacking := [archive.name for archive in self.archives if not (local / archive.name).is_file()]:
            places = sorted({archive.place for archive in self.archives if archive.name in lacking})
            raise FileNotFoundError(f"{local} lacks {', '.join(lacking)}, of {', '.join(places)}. Put them there")
        return [checked(local / archive.name, archive) for archive in self.archives]


def index() -> str:
    """Return the address of the package index that uv or pip would use."""
    named = (os.environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"))
    return next(filter(None, named), "https://pypi.org/simple").rstrip("/")


def fetch(
    folder: Path,
    sources: Sequence[Source],
    trees: Mapping[str, Sequence[str]],
    local: Path | None,
    replace: bool = False,
) -> str:
    """Fill a folder from the first source that can be reached, unless it is complete already.

    Args:
        folder: the folder to make.
        sources: places that hold its files. With `local` only the first is used.
        trees: file or folder inside -> accepted hashes of git.
        local: a folder that holds the archives of the first source.
        replace: replace a folder whose files are not the expected ones.

    Returns:
        What was done, for the user.

    Raises:
        FileExistsError: the folder has other files, and `replace` is not set.
        Unreachable: no source could be reached.
        Damaged: what was fetched has other hashes than it should.
    """
    downloads = folder.with_name(f".{folder.name}.downloads")
    if _wrong(folder, trees) == [] and not downloads.exists():
        return "found"
    with locks.held_beside(folder, remedy="run it again later"):
        if (wrong := _wrong(folder, trees)) == []:  # another process has fetched them, or was killed just after that
            shutil.rmtree(downloads, ignore_errors=True)
            return "found"
        if wrong and not replace:
            raise FileExistsError(
                f"{folder} is not complete, or has other files than it should: {', '.join(wrong)}. An interrupted "
                "download or unpacking leaves this. Run it again with --replace, which fetches the files anew and "
                "removes this folder"
            )
        try:
            with drafts.drafted(folder) as draft:
                with drafts.writing(downloads):
                    draft.mkdir()
                    downloads.mkdir(exist_ok=True)
                used = _from_any(sources[:1] if local else sources, draft, downloads, local)
                if wrong := differing(draft, trees):
                    raise Damaged(
                        f"{used.about} was unpacked, but has other files than expected in {', '.join(wrong)}. Nothing "
                        f"was kept. Run it again; if it fails again, {used.about} has changed, which is worth a report"
                    )
                shutil.rmtree(folder, ignore_errors=True)
        except Damaged:
            shutil.rmtree(downloads, ignore_errors=True)  # else the same files would fail again
            raise
        shutil.rmtree(downloads, ignore_errors=True)
        return f"from {local or used.about}"


def _wrong(folder: Path, trees: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return what is wrong with a folder, or None if it is empty or does not exist."""
    if not drafts.exists(folder) or not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return None
    return differing(folder, trees)


def differing(folder: Path, trees: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names inside a folder that are missing or have none of the accepted hashes."""
    return [name for name, good in trees.items() if not (folder / name).exists() or git_hash(folder / name) not in good]


def _from_any(sources: Sequence[Source], draft: Path, downloads: Path, local: Path | None) -> Source:
    failures = []
    for source in sources:
        try:
            source.unpack(draft, downloads, local)
            return source
        except Unreachable as error:
            failures.append(f"{source.about}: {error}")
    raise Unreachable(
        "nothing could be downloaded. "
        + "; ".join(failures)
        + ". What has arrived is kept. Connect this machine and run it again, or download the files on another "
        "machine and give their folder with --source"
    )


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


def _from_hub(repo: str, draft: Path) -> None:
    """Download a dataset of the Hub, whose client checks hashes and continues interrupted downloads."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repo, repo_type="dataset", local_dir=draft)
    except Exception as error:  # of the Hub's client: many kinds
        if isinstance(error, OSError) and error.errno in drafts.NO_ROOM | drafts.NOT_ALLOWED:
            raise
        raise Unreachable(
            f"{repo} cannot be downloaded ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error
    shutil.rmtree(draft / ".cache", ignore_errors=True)
