"""Fill a folder from the first of several sources that can be reached, or from a local folder of archives.

Files are unpacked next to their destination, checked, and moved there in one piece, so that an interrupted run leaves
nothing half-unpacked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads.io import drafts, locks
from action_heads_lab.setup.archives import Archive, Damaged, Unreachable, checked, download, unpack
from action_heads_lab.setup.trees import git_hash


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
