"""Run `action-heads adapt` as `python -m action_heads.adapt`, for `accelerate launch`."""

import sys

from action_heads.cli import main

if __name__ == "__main__":
    main(["adapt", *sys.argv[1:]])
