"""Run `action-heads pretrain` as `python -m action_heads.pretrain`, which `accelerate launch` needs."""

import sys

from action_heads.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
