"""Explanations of errors of the Hugging Face Hub, with remedies."""

from __future__ import annotations


def hub_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that the Hub's client raises if the Hub or the network is at fault."""
    from huggingface_hub import errors

    # errors.HTTPError is the client's own base class: requests' in 0.x, httpx's in 1.x, httpx2's in 2.x. From 1.0 a
    # network failure is one of these and no OSError; in 0.x it is an OSError.
    client = getattr(errors, "HTTPError", OSError)
    return (OSError, client, errors.EntryNotFoundError, errors.HFValidationError)


def is_local(error: BaseException) -> bool:
    """Return whether the disk is at fault (full, no permission). Such errors are passed on unchanged."""
    return getattr(error, "errno", None) is not None


def endpoint() -> str:
    """Return the address of the Hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def reason(error: BaseException, repo_id: str, revision: str | None, remedy: str) -> str:
    """Return one line on why a request failed, with the remedy; `remedy` is the one for missing access."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: request access at {endpoint()}/{repo_id}, then {remedy}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it does not exist, or it is private and your token has no access: check the spelling, or {remedy}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}: see {endpoint()}/{repo_id}/tree/main for its branches and tags"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the connection was lost during the download: try again, and it continues where it stopped"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository lacks a file, so it may not hold an action head: {message(error)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it once to download the files that are not in the cache"
    if isinstance(error, errors.HFValidationError):
        return f"that is not a valid Hub id: {message(error)}"
    if status in (401, 403):
        return f"access was denied ({status}): {remedy}. {message(error)}"
    if status is not None:
        return f"the Hub answered {status}: {message(error)}"
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner  # The innermost error is the socket's own, below three layers of HTTP client.
    checks = "check the network, the proxy and HF_ENDPOINT; HF_HUB_ETAG_TIMEOUT sets the timeout in seconds"
    return f"{endpoint()} cannot be reached ({message(error)}): {checks}"


def reason_of_snapshot(error: BaseException, repo_id: str, revision: str | None) -> str:
    """Return `reason` for an error of `snapshot_download`."""
    from huggingface_hub import errors

    # If the Hub cannot be reached, the error only says that there is no cached copy. Its cause gives the reason.
    reached = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    return reason(reached or error, repo_id, revision, "set HF_TOKEN or run `hf auth login`")


def message(error: BaseException) -> str:
    """Return the message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
