"""Publish a folder as a repository on the Hub.

huggingface_hub is imported inside the functions, since the import takes a quarter of a second.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from action_heads.io.hub_calls import library, patience, within
from action_heads.io.hub_errors import endpoint, hub_errors, is_local, reason


class PushError(OSError):
    """An error about a folder that could not be published. It says where to, why, and the remedy."""


def contents(folder: Path) -> list[str]:
    """List the files that `push` publishes: all in the folder and below, except hidden ones (.git, .env, drafts)."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    return [name for name in names if not re.search(r"(^|/)\.", name)]


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload with action-heads",
) -> str:
    """Publish a folder as one commit to a Hub repository, which is created if it does not exist.

    Hidden files are not published.

    Args:
        folder: the folder.
        repo_id: the repository, "owner/name".
        private: whether a new repository is private; the default of the owner if None.
        token: token for the Hub, or whether to use the stored one.
        revision: an existing branch; the main branch if None.
        create_pr: open a pull request instead.
        commit_message: the message of the commit.

    Returns:
        The URL of the commit or the pull request. A commit's URL ends in its hash, a revision for `find`.

    Raises:
        PushError: the folder is empty, or the Hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    if not (names := contents(folder)):
        raise PushError(f"nothing to publish: {folder} is {'empty' if folder.is_dir() else 'not a folder'}")
    api = HfApi(token=token, **library())
    try:
        # The Hub's client has no timeout for this call. Half a minute turns a dead network into an error.
        within(max(30.0, patience()), lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        # Since 1.x upload_folder may split a folder into several commits.
        info = api.create_commit(
            repo_id,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except hub_errors() as error:
        if is_local(error):
            raise
        cause = reason(error, repo_id, revision, "use a token with write access to it")
        raise PushError(f"{folder} could not be published to {endpoint()}/{repo_id}: {cause}") from error
    return info.pr_url or info.commit_url
