"""The sub-commands of `action-heads`: each is a settings dataclass and the function that takes it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated

from action_heads._util.flags import Shown, check_choices
from action_heads.io import listing


@dataclass(frozen=True)
class HeadsConfig:
    """List the heads that come with the package, ranked by what is wanted of them.

    Attributes:
        want: smallest, fastest, absolute, delta, mode, real-time or droid; all heads by name if it is not given.
    """

    want: Annotated[str, Shown("all heads", "WANT")] = ""

    def __post_init__(self):
        if self.want:
            check_choices(self, want=listing.WANTS)


def heads(config: HeadsConfig) -> None:
    """Print a table of the bundled heads from their files alone, and where its evidence is."""
    print(listing.table(config.want or None))
    if config.want:
        print(f"\nBest first. Evidence: {listing.WANTS[config.want].evidence}.")


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        about: the first line of its settings' docstring, for the help of the whole.
        settings, run: "module:name" of the dataclass and of the function.
        extras: without which it can't run.
        recorded: whether `run` is also given the command line, to write it down.
    """

    about: str
    settings: str = ""
    run: str = ""
    extras: tuple[str, ...] = ()
    recorded: bool = False


COMMANDS = {
    "pretrain": Command(
        "Stage 1: pretrain a head on motion alone, without a single observation.",
        settings="action_heads.pretrain.settings:PretrainConfig",
        run="action_heads.pretrain.loop:pretrain",
        extras=("train",),
        recorded=True,
    ),
    "adapt": Command(
        "Stage 2: train a policy on a frozen head, from a recording with images or states.",
        settings="action_heads.adapt.settings:AdaptConfig",
        run="action_heads.adapt.run:adapt",
        extras=("train",),
        recorded=True,
    ),
    "evaluate-head": Command(
        "Measure what a head knows of held-out motion: a table, evaluation.json, evaluation.md and evaluation.png.",
        settings="action_heads.pretrain.evaluate:EvaluateConfig",
        run="action_heads.pretrain.evaluate:evaluate",
        extras=("train",),
        recorded=True,
    ),
    "statistics": Command(
        "Write the statistics of a recording's motion, which shape Stage 1's synthetic motion to it.",
        settings="action_heads.pretrain.statistics:StatisticsConfig",
        run="action_heads.pretrain.statistics:statistics",
    ),
    "publish": Command(
        "Check a head, write its card, upload it in one commit, and load it back to see that it is the same.",
        settings="action_heads.pretrain.publish:PublishConfig",
        run="action_heads.pretrain.publish:publish",
    ),
    "export": Command(
        "Write a policy as one file: (noise, cond) -> chunk in robot units.",
        settings="action_heads.runtime.export:ExportConfig",
        run="action_heads.runtime.export:export",
    ),
    "serve": Command(
        "Serve a policy over a websocket.",
        settings="action_heads.runtime.serve:ServeConfig",
        run="action_heads.runtime.serve:serve",
        extras=("serve",),
    ),
    "heads": Command(
        "List the heads that come with the package, ranked by what is wanted of them.",
        settings="action_heads.cli.commands:HeadsConfig",
        run="action_heads.cli.commands:heads",
    ),
}

# Commands of the distribution action-heads-lab, which registers them. A core alone says in a line what to install.
LAB = {
    "demo": Command(
        "Record demonstrations, train adapters on a frozen head, roll out, and compare with controls.",
        extras=("train", "lab", "sim"),
        recorded=True,
    ),
    "record": Command(
        "Record demonstrations of a scripted expert as a LeRobotDataset.", extras=("train", "lab", "sim", "lerobot")
    ),
    "report": Command(
        "Write tables and figures of a results folder, with the paper's figures beside ours.", extras=("train", "lab")
    ),
}
GROUP = "action_heads.commands"  # of entry points: each names a `Command`


@cache
def known() -> dict[str, Command]:
    """Return the commands of this package and those that others registered, in the order of the help."""
    registered = {}
    for point in entry_points(group=GROUP):
        with suppress(ImportError):  # its distribution was removed, or lacks what it needs
            registered[point.name] = point.load()
    return LAB | registered | COMMANDS
