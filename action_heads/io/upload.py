"""Upload a folder to the Hub in one commit, then download this commit into an empty cache and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from action_heads.io import hub_push
from action_heads.io.hub_files import HubFiles


class PublishError(OSError):
    """An error for a head that must not be published, or for an upload that differs from what was sent."""


class Published(NamedTuple):
    """The place of an uploaded folder: its page, and the revision that `from_pretrained` takes."""

    url: str
    revision: str


def upload(folder: str | Path, repo_id: str, check: Callable[[Path], object], **options: Any) -> Published:
    """Push a whole folder in one commit and verify the upload.

    Args:
        folder: the folder.
        repo_id: the repository, "owner/name".
        check: a function that loads what was downloaded into a folder, and raises an OSError or a ValueError unless it
            is what was sent.
        **options: options of `hub_push.push`.

    Raises:
        PushError: the folder could not be sent. None of its files is on the Hub then.
        PublishError: the folder was sent, but the downloaded files differ.
    """
    folder = Path(folder)
    try:
        url = hub_push.push(folder, repo_id, **options)
    except hub_push.PushError as error:
        raise hub_push.PushError(
            f"{error}\n  A commit is uploaded as a whole or not at all, so no file was published. A new repository may "
            "exist already, but is empty. Fix the cause and publish again"
        ) from error
    last = url.rstrip("/").rsplit("/", 1)[-1]
    published = Published(url, f"refs/pr/{last}" if "/discussions/" in url else last)
    _verify(folder, repo_id, published, check, options.get("token"))
    return published


def _verify(
    folder: Path, repo_id: str, published: Published, check: Callable[[Path], object], token: str | bool | None
) -> None:
    """Download what was published into an empty cache, compare its bytes and check it."""
    # `HubFiles` returns the folder of the first name, so a file at the top comes first.
    names = sorted(hub_push.contents(folder), key=lambda name: name.count("/"))
    try:
        with tempfile.TemporaryDirectory() as cache:
            # `find` would prefer a local folder or a bundled head of this name.
            there = HubFiles(repo_id, names, published.revision, None, cache, token).folder()
            changed = [name for name in names if (there / name).read_bytes() != (folder / name).read_bytes()]
            if changed:
                raise PublishError(f"these files differ from what was uploaded: {', '.join(changed)}")
            check(there)
    except (OSError, ValueError) as error:
        page = published.url.split("/commit/")[0].split("/discussions/")[0]
        undo = (
            f"close {published.url}"
            if "/discussions/" in published.url
            else f"if the repository is new, delete it at {page}/settings. Otherwise revert the commit in a clone: "
            f"`git clone {page} && git revert {published.revision} && git push`"
        )
        raise PublishError(
            f"{published.url} was uploaded, but could not be verified: {error}.\n  Do not use it. To undo the upload, "
            f"{undo}.\n  Then publish again"
        ) from error
