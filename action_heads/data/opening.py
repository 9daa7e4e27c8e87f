"""Open a recording from its spec, check it, and cut it into windows."""

from __future__ import annotations

import json

import numpy as np

from action_heads.data.bounded_reads import BadData, BadEpisode, left_out
from action_heads.data.cache import Table, cached
from action_heads.data.checks import check
from action_heads.data.convert import resample, to_steps
from action_heads.data.formats import READERS
from action_heads.data.notices import RangeNotices
from action_heads.data.schema import Schema
from action_heads.data.spec import RATE_HZ, Spec
from action_heads.kinematics import PANDA, Arm, Trajectories, Windows, recorded_trajectories
from action_heads.kinematics.trajectories import chosen

BUNDLED = "panda_kinematics"  # `npz:` with this name opens the recordings that come with the package
MOST_RAISED = 1000.0  # largest factor by which resampling may raise the rate


def open_windows(spec: Spec, steps: int, split: str = "train") -> Windows:
    """Open a recording, check every row of it, and return its windows.

    Args:
        spec: the recording.
        steps: length of a window in time steps.
        split: "train", "held_out" or "all".

    Raises:
        BadData: the recording is damaged, contradicts its column map, or has no window of that length.
        ValueError: an option of the spec is wrong.
        OSError: there is no such file or dataset.
    """
    if spec.kind == "recorded" or (spec.kind == "npz" and spec.where == BUNDLED):
        table, short = recorded_trajectories(), "skip"
        if spec.kind == "recorded" and spec.where != "panda":
            if spec.where not in table.corpora:
                known = ", ".join(f"recorded:{name}" for name in sorted(set(table.corpora)))
                raise ValueError(
                    f"{spec}: the package only contains recordings of the Panda. Write recorded:panda for all of them, "
                    f"or one of {known}."
                )
            table = table.only(spec.where)
    else:
        table, short = read(spec), spec.options.get("short", "error")
    if short == "error" and (table.lengths < steps).any():
        few = np.flatnonzero(table.lengths < steps)
        listed = ", ".join(f"{table.names[i]} ({table.lengths[i]})" for i in few[:5])
        raise BadData(
            f"{spec}: {len(few)} of {len(table)} episodes are shorter than a window of {steps} time steps at "
            f"{table.rate_hz:g} Hz: {listed}{', ...' if len(few) > 5 else ''}. Leave them out with ?short=skip."
        )
    if not (table.lengths >= steps).any():
        raise BadData(
            f"{spec}: none of its {len(table)} episode(s) is as long as a window of {steps} time steps at "
            f"{table.rate_hz:g} Hz; the longest has {table.lengths.max()}. Lower --horizon, or record longer episodes."
        )
    episodes = chosen(table, split, steps)
    if not episodes.any():
        raise BadData(
            f"{spec}: none of its {len(table)} episode(s) of at least {steps} time steps is in the split {split!r}. "
            "About one in twenty, and at least one per corpus, is held out. Record at least two such episodes."
        )
    return Windows(table, steps, episodes)


def find_arm(name: str, tip: str | None = None) -> Arm:
    """Return the Panda for the name `panda`, or the arm of a URDF or MJCF file, up to the link `tip`."""
    if name != "panda":
        from action_heads.kinematics.model import read_arm

        return read_arm(name, tip)
    if tip:
        raise ValueError(
            f"tip={tip} was given for panda, whose actions are always poses of its TCP. For another tip name a URDF or "
            "MJCF file instead of panda."
        )
    return PANDA


def read(spec: Spec) -> Trajectories:
    """Return the motion of a whole recording, from the cache if it has been read before."""
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
            f"{spec}: resampling from {recorded:g} Hz to {rate:g} Hz would give more than {MOST_RAISED:g} times as "
            "many time steps. Give the recorded rate as ?recorded_hz=, or a lower ?rate=."
        )

    recipe = {
        "schema": schema.to_dict(),
        "arm": None if arm is None else [arm.name, arm.frame],
        "rates": [recorded, rate],
        "base": None if base is None else base.tolist(),
        "skip": skip or ("empty" if skip_empty else False),
    }

    def build(table: Table) -> None:
        skipped, count = [], 0
        table.content.update(json.dumps(recipe, sort_keys=True).encode())
        notices = RangeNotices(schema, recording.normalises and bool(schema.joints), str(spec))
        for shard in recording.shards():
            for raw in shard:
                count += 1
                try:
                    if raw.name in recording.bad:
                        raise BadEpisode(recording.bad[raw.name])
                    check(raw, schema, arm, base, str(spec))
                except BadEpisode as error:
                    if not (skip or (skip_empty and not len(raw))):
                        raise
                    skipped.append(str(error))
                    continue
                # The recorded numbers are hashed, since the converted ones may differ in their last bits by processor.
                raw.add_to(table.content)
                converted = to_steps(raw, schema, arm, base)
                notices.add(raw, converted)
                steps = resample(converted, recorded, rate, arm.continuous if arm else ())
                table.append(raw.corpus, raw.name, steps)
        notes = [left_out(str(spec), skipped, count)] if skipped else []
        table.warning = "\n".join(notes + notices.warnings())

    identity = {"kind": spec.kind, "source": recording.identity, **recipe}
    return cached(identity, rate, arm, build)


def _base(spec: Spec, schema: Schema, arm: Arm | None) -> np.ndarray | None:
    """Return the position (3,) of the arm's base in the world frame, in m; None if poses are not shifted."""
    given = spec.options.get("base")
    needed = schema.world and (schema.joints is None or arm is None)
    if given is None and needed:
        raise BadData(
            f"{spec}: its poses are in the world frame, and there are no joints of a known arm. Give the position of "
            "the robot's base in m, as in ?base=-0.56,0,0.912. For delta actions you can also keep the world frame "
            "with ?base=world; absolute actions need the base."
        )
    if given is None or given == "world" or not schema.world:
        if given not in (None, "world"):
            raise ValueError(f"{spec}: poses of {schema.name} are in the base frame already. Leave out ?base=.")
        return None
    try:
        base = np.array([float(value) for value in given.split(",")])
    except ValueError:
        base = np.zeros(0)
    if base.shape != (3,) or not np.isfinite(base).all():
        raise ValueError(f"{spec}: base must be x,y,z in m, or world, but is {given!r}.")
    return base
