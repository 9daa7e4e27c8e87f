"""The paper's eight tasks of MimicGen, on states or images: `action_heads_lab.sim.mimicgen.TASKS`.

What is not installed is said.

uv run examples/mimicgen/reproduce.py --task stack_d1 --mode decoupled,normal,random-frozen --seeds 0
"""

if __name__ == "__main__":
    from action_heads_lab.reproduce.command import main  # here, since every process of simulation imports this file

    main("mimicgen")
