"""Parsing of options into a settings class, and errors that end a command as a shell expects."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, field, is_dataclass, make_dataclass
from typing import Annotated, Any, TypeVar

from action_heads._util import extras
from action_heads._util.flags import Shown, option
from action_heads._util.flat import build, leaves
from action_heads._util.names import nearest

T = TypeVar("T")
MISTAKE, INTERRUPTED, NO_READER = 2, 130, 141  # exit codes; the last is what SIGPIPE ends other commands with


class Mistake(ValueError):
    """The command line itself is wrong: the message says it all, so nothing is offered beside it."""


def parse(kind: type[T], arguments: Sequence[str], prog: str) -> T:
    """Read `arguments` into the dataclass `kind`. A field without a default is given by its place.

    Raises:
        Mistake: an option is unknown, lacks its value or has a wrong one, or the settings contradict each other.
        SystemExit: the help was asked for, and printed.
    """
    import tyro  # here, since the help of the whole does without it

    check_options(kind, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = tyro.cli(flat(kind), prog=prog, args=list(arguments), config=(tyro.conf.PositionalRequiredArgs,))
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise Mistake(f"{what_is_wrong(kind, said.getvalue())}. See {prog} --help") from None
    try:
        return build(kind, vars(given))
    except ValueError as error:
        raise Mistake(str(error)) from error


def flat(kind: type) -> type:
    """Return a dataclass of all that can be set in `kind` and in its parts, described as they are.

    It has none of their checks, which run afterwards: tyro would fold their messages into a box of 80 columns.
    """
    made, lines = [], [(kind.__doc__ or "").partition("\n\n    Attributes:")[0], "\nAttributes:"]
    for name, leaf in leaves(kind).items():
        value = {} if leaf.default is MISSING else {"default": leaf.default}
        made.append((name, _for_tyro(leaf.hint(extras=True)), field(**value)))
        lines.append(f"    {name}: {described(leaf.kind).get(leaf.name, '')}")
    return make_dataclass(kind.__name__, made, namespace={"__doc__": "\n".join(lines if made else lines[:1])})


def described(kind: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass, and of those that it is derived from, say of each field."""
    from docstring_parser import parse as read  # which tyro brings

    docs = [base.__doc__ or "" for base in reversed(kind.__mro__) if is_dataclass(base)]
    return {said.arg_name: " ".join((said.description or "").split()) for doc in docs for said in read(doc).params}


def _for_tyro(hint: Any) -> Any:
    """Return an annotation with what tyro makes of a `Shown` in it."""
    import tyro

    def translated(part: Any) -> Any:
        if not isinstance(part, Shown):
            return part
        return tyro.conf.arg(metavar=part.metavar, help_behavior_hint=f"(default: {part.default})")

    parts = map(translated, getattr(hint, "__metadata__", ()))
    return Annotated[(hint.__origin__, *parts)] if hasattr(hint, "__metadata__") else hint


def check_installed(what: str, *needed: str) -> None:
    """Refuse a command whose extras are not installed, before it imports anything of them."""
    if lacking := extras.missing(*needed):
        are = "are" if lacking[1:] else "is"
        raise Mistake(f"{what} needs {', '.join(lacking)}, which {are} not installed. {extras.remedy(*needed)}")


def check_options(kind: type, arguments: Sequence[str]) -> None:
    """Refuse an option that `kind` does not have, with the name of the nearest one that it has."""
    known = options(kind)
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name not in known and not name.startswith("--tyro-"):
            raise Mistake(f"unknown option {name}{nearest(name, known)}. The options are {', '.join(sorted(known))}")


def options(kind: type) -> set[str]:
    """Return all that may be written for the fields of a settings class, in the spelling with dashes."""
    found = {"--help"}
    for name, leaf in leaves(kind).items():
        found.add(option(name))
        found |= {alias for part in getattr(leaf.hint(extras=True), "__metadata__", ()) for alias in _aliases(part)}
        if isinstance(leaf.default, bool):
            found.add(option(f"no_{name}"))
    return found


def _aliases(annotation: Any) -> tuple[str, ...]:
    return tuple(getattr(annotation, "aliases", None) or ())


def what_is_wrong(kind: type, box: str) -> str:
    """Return what tyro complains of, as one line."""
    if "Missing from" in box:
        needed = [name for name, leaf in leaves(kind).items() if leaf.default is MISSING]
        return f"needed and not given: {' and '.join(needed)}"
    return plain(box)


def plain(box: str) -> str:
    """Return the message in a box that tyro drew, without the box and the help around it, as one line."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    message = " ".join(rows[: next((i for i, row in enumerate(rows) if row and not row.strip("─")), len(rows))])
    message = re.sub(r"^(Error parsing|Unrecognized options:) ", lambda m: "" if "parsing" in m[0] else m[0], message)
    return re.sub(r"\s+", " ", message).strip().rstrip(".:") or "the command line could not be read"


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End a command as a shell expects.

    A user's mistake ends it with one message and exit code 2, Ctrl-C with a line and 130; if nobody reads its output
    any more, it ends without a word. Any other error is ours, and keeps its traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _end("", NO_READER)
        if os.environ.get("ACTION_HEADS_TRACEBACK") or not _of_the_user(error):
            raise
        hint = "" if isinstance(error, Mistake) else "\n(ACTION_HEADS_TRACEBACK=1 shows where this came from)"
        _end(f"error: {error}{hint}", MISTAKE)


def _of_the_user(error: Exception) -> bool:
    """Tell what the user can mend (files, values, missing packages, training that diverged) from what is a bug."""
    loop = sys.modules.get("action_heads.training.loop")  # imported by who trains; here it would bring torch along
    diverged = (loop.Diverged,) if loop else ()
    return isinstance(error, (OSError, ValueError, ImportError, *diverged))


def _nobody_reads() -> bool:
    """Tell whether it is the output that broke, rather than a connection to another process."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _end(message: str, code: int) -> typing.NoReturn:
    try:
        if message:
            print(message, file=sys.stderr, flush=True)
    except BrokenPipeError:
        code = NO_READER
    if code == NO_READER:  # Python writes what is left of its buffers once more as it ends, which would fail again
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(null, stream.fileno())
    raise SystemExit(code)
