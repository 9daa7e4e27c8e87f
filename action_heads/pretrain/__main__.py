"""`python -m action_heads.pretrain`, for `accelerate launch`: the same as `action-heads pretrain`."""

import sys

from action_heads.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
