"""`python -m action_heads.adapt`, for `accelerate launch`: the same as `action-heads adapt`."""

import sys

from action_heads.cli import main

if __name__ == "__main__":
    main(["adapt", *sys.argv[1:]])
