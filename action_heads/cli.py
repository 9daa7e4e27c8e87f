"""The `action-heads` command: each sub-command is a configuration dataclass and the function that takes it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Annotated

from action_heads import hub
from action_heads.extras import require


@dataclass(frozen=True)
class HeadsConfig:
    """List the heads that come with the package."""


def heads() -> None:
    """One line a bundled head."""
    from action_heads.head import ActionHead

    for name in hub.bundled():
        print(ActionHead.from_pretrained(name))


def main() -> None:
    """Entry point of `action-heads`."""
    tyro = require("tyro", "train")
    from action_heads.pretrain.trainer import PretrainConfig, pretrain
    from action_heads.sim.demo import DemoConfig, demo

    commands = {"demo": DemoConfig, "pretrain": PretrainConfig, "heads": HeadsConfig}
    union = None
    for name, config in commands.items():
        branch = Annotated[config, tyro.conf.subcommand(name)]
        union = branch if union is None else union | branch
    config = tyro.cli(tyro.conf.OmitSubcommandPrefixes[union], prog="action-heads")  # type: ignore[valid-type]
    if isinstance(config, DemoConfig):
        demo(config)
    elif isinstance(config, PretrainConfig):
        print(pretrain(config, command=shlex.join(["action-heads", *sys.argv[1:]])))
    else:
        heads()


if __name__ == "__main__":
    main()
