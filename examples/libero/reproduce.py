"""LIBERO-Object, -Spatial and -Goal on states or images: one policy for the ten tasks of a suite, 50 rollouts of each
from the suite's init states.

uv run examples/libero/reproduce.py --task libero_object --mode decoupled,normal,random-frozen --seeds 0
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # here, since every process of simulation imports this file

    main("libero")
