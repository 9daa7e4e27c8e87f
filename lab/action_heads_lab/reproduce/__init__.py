"""The paper's experiments: a run and what identifies it, the loop over many of them, their results, the report.

    uv run examples/robosuite/reproduce.py --all    # scripted demonstrations on states: a CPU is enough
    uv run action-heads report results/

See docs/guides/reproduce.md. `reproduce.run.perform` is one run from head to rollouts.
"""
