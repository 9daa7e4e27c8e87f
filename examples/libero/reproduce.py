"""LIBERO-Object on states: one policy for its ten tasks, 50 rollouts of each from the suite's init states in order.

uv run examples/libero/reproduce.py --task libero_object --mode decoupled,normal,random-frozen --seeds 0
"""

from action_heads.reproduce.command import main

if __name__ == "__main__":
    main("libero")
