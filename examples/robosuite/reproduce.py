"""The paper's question on eight robosuite tasks, on states or images, with scripted demonstrations: no download.

uv run examples/robosuite/reproduce.py --task Lift --mode decoupled,normal,random-frozen --seeds 0
uv run examples/robosuite/reproduce.py --task Lift --observe images       # wants a GPU; on states a CPU is enough
uv run examples/robosuite/reproduce.py --all                 # the whole grid; --dry-run says its cost
uv run examples/robosuite/reproduce.py --all --share 0/2     # and 1/2 in another process
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # here, since every process of simulation imports this file

    main("robosuite")
