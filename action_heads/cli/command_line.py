"""Parse options into a settings class, and end a command that fails as a shell expects."""

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
from action_heads._util.flags import FlagError, Shown, option
from action_heads._util.flat import Leaf, build, leaves
from action_heads._util.names import nearest
from action_heads.io.bundled_heads import HeadNotFoundError

T = TypeVar("T")
MISTAKE, INTERRUPTED, NO_READER = 2, 130, 141  # exit codes; other commands end with the last one on SIGPIPE


class Mistake(ValueError):
    """An error in the command line itself."""


PLAIN = (Mistake, FlagError, HeadNotFoundError)  # Their messages are enough, so no traceback is offered.


def parse(kind: type[T], arguments: Sequence[str], prog: str) -> T:
    """Read `arguments` into the dataclass `kind`. A field without a default is a positional argument.

    Raises:
        Mistake: an option is unknown, or its value is missing or wrong, or the settings contradict each other.
        SystemExit: the help was requested, and has been printed.
    """
    import tyro  # here, since `action-heads --help` does not need it

    check_options(kind, arguments, prog)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = tyro.cli(flat(kind), prog=prog, args=list(arguments), config=(tyro.conf.PositionalRequiredArgs,))
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise Mistake(f"{what_is_wrong(kind, said.getvalue())}. Run `{prog} --help` for the options") from None
    try:
        return build(kind, vars(given))
    except ValueError as error:
        raise Mistake(with_flag(kind, str(error))) from error


def with_flag(kind: type, message: str) -> str:
    """Return an error about a field of `kind` with the field's flag in place of its name, with which it begins."""
    name, _, rest = message.partition(" ")
    leaf = leaves(kind).get(name)
    return message if leaf is None or leaf.default is MISSING else f"{option(name)} {rest}"


def flat(kind: type) -> type:
    """Return a dataclass with all fields of `kind` and of its nested settings, and their descriptions.

    It has none of their checks. They run afterwards, since tyro would fold their messages into a box of 80 columns.
    """
    made, lines = [], [(kind.__doc__ or "").partition("\n\n    Attributes:")[0], "\nAttributes:"]
    for name, leaf in leaves(kind).items():
        value = {} if leaf.default is MISSING else {"default": leaf.default}
        hint = leaf.hint(extras=True) if value else Annotated[leaf.hint(), Shown("", metavar(name, leaf))]
        made.append((name, _for_tyro(hint), field(**value)))
        lines.append(f"    {name}: {described(leaf.kind).get(leaf.name, '')}")
    return make_dataclass(kind.__name__, made, namespace={"__doc__": "\n".join(lines if made else lines[:1])})


def metavar(name: str, leaf: Leaf) -> str:
    """Return what help shows for a positional argument: its choices, or else its name."""
    choices = typing.get_args(leaf.hint()) if typing.get_origin(leaf.hint()) is typing.Literal else ()
    return f"{{{','.join(choices)}}}" if choices else name.upper()


def described(kind: type) -> dict[str, str]:
    """Return the description of each field, from the docstrings of a dataclass and of its base classes."""
    from docstring_parser import parse as read  # a dependency of tyro

    docs = [base.__doc__ or "" for base in reversed(kind.__mro__) if is_dataclass(base)]
    return {said.arg_name: " ".join((said.description or "").split()) for doc in docs for said in read(doc).params}


def _for_tyro(hint: Any) -> Any:
    """Return an annotation in which `Shown` is replaced by its counterpart of tyro."""
    import tyro

    def translated(part: Any) -> Any:
        if not isinstance(part, Shown):
            return part
        hint = f"(default: {part.default})" if part.default else "(required)"
        return tyro.conf.arg(metavar=part.metavar, help_behavior_hint=hint)

    parts = map(translated, getattr(hint, "__metadata__", ()))
    return Annotated[(hint.__origin__, *parts)] if hasattr(hint, "__metadata__") else hint


def check_installed(what: str, *needed: str) -> None:
    """Refuse a command whose extras are not installed, before it imports them."""
    if lacking := extras.missing(*needed):
        are = "are" if lacking[1:] else "is"
        raise Mistake(f"{what} needs {', '.join(lacking)}, which {are} not installed. {extras.remedy(*needed)}")


def check_options(kind: type, arguments: Sequence[str], prog: str) -> None:
    """Refuse an option that `kind` does not have, and say why it has none, or suggest the nearest ones."""
    known = options(kind)
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name not in known and not name.startswith("--tyro-"):
            why = getattr(kind, "NO_OPTION", {}).get(name)
            near = f": {why}" if why else nearest(name, known, most=3)
            raise Mistake(f"unknown option {name}{near}. Run `{prog} --help` for the options")


def options(kind: type) -> set[str]:
    """Return all options of a settings class, spelled with dashes."""
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
    """Return the error of tyro as one line."""
    if "Missing from" in box:
        needed = {metavar(name, leaf): name for name, leaf in leaves(kind).items() if leaf.default is MISSING}
        lacking = needed.keys() & {*rows_of(box)} or needed  # all, if another version of tyro writes the box otherwise
        names = [name + f" ({shown})" * (shown != name.upper()) for shown, name in needed.items() if shown in lacking]
        return f"required but not given: {' and '.join(names)}"
    return plain(box)


def plain(box: str) -> str:
    """Return the message in a box that tyro drew as one line, without the box and the help in it."""
    rows = rows_of(box)
    message = " ".join(rows[: next((i for i, row in enumerate(rows) if row and not row.strip("─")), len(rows))])
    message = re.sub(r"^(Error parsing|Unrecognized options:) ", lambda m: "" if "parsing" in m[0] else m[0], message)
    return re.sub(r"\s+", " ", message).strip().rstrip(".:") or "the command line could not be read"


def rows_of(box: str) -> list[str]:
    """Return the lines in a box that tyro drew."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    return [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End a command as a shell expects.

    A mistake of the user ends it with one message and exit code 2, and Ctrl-C with one line and exit code 130. A closed
    output pipe ends it silently with 141. Any other error is a bug, and keeps its traceback.
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
        hint = "" if isinstance(error, PLAIN) else "\n(Set ACTION_HEADS_TRACEBACK=1 to see the traceback)"
        _end(f"error: {error}{hint}", MISTAKE)


def _of_the_user(error: Exception) -> bool:
    """Return whether the user can fix it: files, values, missing packages, diverged training. If not, it is a bug."""
    loop = sys.modules.get("action_heads.training.loop")  # imported only by commands that train, since it imports torch
    diverged = (loop.Diverged,) if loop else ()
    return isinstance(error, (OSError, ValueError, ImportError, *diverged))


def _nobody_reads() -> bool:
    """Return whether the output pipe is closed, rather than a connection to another process."""
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
    if code == NO_READER:  # at exit Python flushes its buffers again, which would fail again
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(null, stream.fileno())
    raise SystemExit(code)
