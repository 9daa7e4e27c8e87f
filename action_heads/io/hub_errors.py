"""What went wrong between here and the Hugging Face Hub, in words, with the remedy."""

from __future__ import annotations


def hub_errors() -> tuple[type[BaseException], ...]:
    """What the Hub's client raises when the Hub or the network is at fault."""
    from huggingface_hub import errors

    # errors.HTTPError is the client's own base class: requests' in 0.x, httpx's in 1.x, httpx2's in 2.x. From 1.0 a
    # network failure is one of these and no OSError; in 0.x it is an OSError.
    client = getattr(errors, "HTTPError", OSError)
    return (OSError, client, errors.EntryNotFoundError, errors.HFValidationError)


def is_local(error: BaseException) -> bool:
    """Whether the disk is at fault (full, no permission): such errors speak for themselves and pass unchanged."""
    return getattr(error, "errno", None) is not None


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def reason(error: BaseException, repo_id: str, revision: str | None, remedy: str) -> str:
    """One line on why the Hub did not oblige, with the remedy; `remedy` is the one for access rights."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: ask for access at {endpoint()}/{repo_id}, then {remedy}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it does not exist, or is private and your token does not open it: check the spelling, or {remedy}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}: see {endpoint()}/{repo_id}/tree/main for its branches and tags"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the network broke off while it was downloaded: try again, what is here already is kept"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository lacks a file, so it may not hold an action head: {message(error)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it once to download what is not in the cache"
    if isinstance(error, errors.HFValidationError):
        return f"that is not a valid Hub id: {message(error)}"
    if status in (401, 403):
        return f"access was refused ({status}): {remedy}. {message(error)}"
    if status is not None:
        return f"the Hub answered {status}: {message(error)}"
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner  # the socket's own words, below three layers of HTTP client
    checks = "check the network, the proxy and HF_ENDPOINT; HF_HUB_ETAG_TIMEOUT sets the seconds to wait"
    return f"{endpoint()} cannot be reached ({message(error)}): {checks}"


def message(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
