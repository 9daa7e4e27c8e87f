"""Open a recording from its spec, check it, and cut it into windows."""

from __future__ import annotations

import numpy as np

from action_heads.data.bounded_reads import BadData, BadEpisode
from action_heads.data.cache import Table, cached
from action_heads.data.checks import check
from action_heads.data.convert import resample, to_steps
from action_heads.data.formats import READERS
from action_heads.data.notices import Told
from action_heads.data.schema import Schema
from action_heads.data.spec import RATE_HZ, Spec
from action_heads.kinematics import PANDA, Arm, Trajectories, Windows, recorded_trajectories
from action_heads.kinematics.trajectories import chosen

BUNDLED = "panda_kinematics"  # the name under which `npz:` finds the recordings that come with the package
MOST_RAISED = 1000.0  # times: steps that interpolation may make of one
MOST_SKIPPED = 0.5  # of the episodes: more than that is no accident


def open_windows(spec: Spec, steps: int, split: str = "train") -> Windows:
    """Windows of so many steps of a recording's split, after every row of it was checked."""
    if spec.kind == "recorded" or (spec.kind == "npz" and spec.where == BUNDLED):
        if spec.kind == "recorded" and spec.where != "panda":
            raise ValueError(f"{spec}: the package carries recordings of the Panda alone: recorded:panda")
        table, short = recorded_trajectories(), "skip"
    else:
        table, short = read(spec), spec.options.get("short", "error")
    if short == "error" and (table.lengths < steps).any():
        few = np.flatnonzero(table.lengths < steps)
        listed = ", ".join(f"{table.names[i]} ({table.lengths[i]})" for i in few[:5])
        raise BadData(
            f"{spec}: {len(few)} of {len(table)} episodes are shorter than a window of {steps} steps at "
            f"{table.rate_hz:g} Hz: {listed}{', ...' if len(few) > 5 else ''}. Leave them out with ?short=skip"
        )
    if not (table.lengths >= steps).any():
        raise BadData(
            f"{spec}: none of its {len(table)} episode(s) holds a window of {steps} steps at {table.rate_hz:g} Hz, the "
            f"longest has {table.lengths.max()}: give a shorter --horizon, or longer recordings"
        )
    episodes = chosen(table, split, steps)
    if not episodes.any():
        raise BadData(
            f"{spec}: its {len(table)} episode(s) leave none of {steps} steps to the split {split!r}, for about one in "
            "twenty, and at least one of each corpus, is held out: record more, or use the split 'all'"
        )
    return Windows(table, steps, episodes)


def find_arm(name: str, tip: str | None = None) -> Arm:
    """Return the arm of that name, `panda`, or of that model file as far as a tip."""
    if name != "panda":
        from action_heads.kinematics.model import read_arm

        return read_arm(name, tip)
    if tip:
        raise ValueError(f"tip={tip} was given for the Panda, whose actions are poses of its TCP; name its model file")
    return PANDA


def read(spec: Spec) -> Trajectories:
    """Return the whole of a recording, from the cache where it was read before."""
    recording = READERS[spec.kind](spec)
    schema = recording.schema
    arm = None if schema.arm is None else find_arm(schema.arm, spec.options.get("tip"))
    recorded = recording.rate_hz
    rate = recorded if spec.options.get("rate") == "native" else spec.number("rate", RATE_HZ)
    base = _base(spec, schema, arm)
    skip = spec.options.get("bad") == "skip"
    skip_empty = skip or spec.options.get("short") == "skip"
    if rate > MOST_RAISED * recorded:
        raise ValueError(
            f"{spec}: {recorded:g} Hz recorded would become {rate:g} Hz, more than {MOST_RAISED:g} times as many "
            "steps: give the rate it was recorded at as recorded_hz, or a lower rate"
        )

    def build(table: Table) -> None:
        skipped, count = [], 0
        told = Told(schema, recording.normalises and bool(schema.joints), str(spec))
        for shard in recording.shards():
            for raw in shard:
                count += 1
                try:
                    check(raw, schema, arm, base, str(spec))
                except BadEpisode as error:
                    if not (skip or (skip_empty and not len(raw))):
                        raise
                    skipped.append(str(error))
                    continue
                converted = to_steps(raw, schema, arm, base)
                told.add(raw, converted)
                steps = resample(converted, recorded, rate)
                table.append(raw.corpus, raw.name, steps)
        if len(skipped) > MOST_SKIPPED * count:
            raise BadData(f"{spec}: {len(skipped)} of {count} episodes are bad, the first: {skipped[0]}")
        notes = told.warnings()
        if skipped:
            notes = [f"{spec}: left out {len(skipped)} of {count} episodes, the first: {skipped[0]}", *notes]
        table.warning = "\n".join(notes)

    identity = {
        "kind": spec.kind,
        "source": recording.identity,
        "schema": schema.to_dict(),
        "arm": None if arm is None else [arm.name, arm.frame],
        "rates": [recorded, rate],
        "base": None if base is None else base.tolist(),
        "skip": skip or ("empty" if skip_empty else False),
    }
    return cached(identity, rate, arm, build)


def _base(spec: Spec, schema: Schema, arm: Arm | None) -> np.ndarray | None:
    """Return the position (3,) of the arm's base in m, or None where poses need no such shift."""
    given = spec.options.get("base")
    needed = schema.world and (schema.joints is None or arm is None)
    if given is None and needed:
        raise BadData(
            f"{spec}: its poses are in the world frame and there are no joints of a known arm. Say where the "
            "robot's base stands, in m, as in ?base=-0.56,0,0.912; or keep the world frame with ?base=world, which is "
            "as good for delta actions, but not for absolute ones"
        )
    if given is None or given == "world" or not schema.world:
        if given not in (None, "world"):
            raise ValueError(f"{spec}: base was given, but the poses of {schema.name} are in the base frame")
        return None
    try:
        base = np.array([float(value) for value in given.split(",")])
    except ValueError:
        base = np.zeros(0)
    if base.shape != (3,) or not np.isfinite(base).all():
        raise ValueError(f"{spec}: base is x,y,z in m or world, not {given!r}")
    return base
