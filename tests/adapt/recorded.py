"""Recordings of a task in which only the colour of the image tells the direction, and runs of a second on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from action_heads.adapt.settings import AdaptConfig

SIZE = 16  # pixels
LENGTH = 12  # ticks of an episode, plus its number
COLOURS = np.array([[220, 30, 30], [30, 30, 220]], np.uint8)


def episode(index: int) -> dict[str, np.ndarray]:
    """Return an episode in which the hand moves by 2 cm per tick to the side of its colour, and closes at the end."""
    steps = LENGTH + index
    side = 1 - 2 * (index % 2)
    position = np.stack([np.full(steps, 0.4), side * 0.02 * np.arange(steps), np.full(steps, 0.2)], axis=1)
    rotation = np.tile([1.0, 0, 0, 0, -1, 0], (steps, 1))
    gripper = np.where(np.arange(steps) < steps - 3, -1.0, 1.0)[:, None]
    noise = np.random.default_rng(index).integers(0, 20, (steps, SIZE, SIZE, 3), np.uint8)
    image = COLOURS[index % 2] + noise
    return {
        "actions": np.concatenate([position, rotation, gripper], axis=1).astype(np.float32),
        "position": np.abs(position).astype(np.float32),  # does not tell the side
        "fingers": np.linspace(0.04, 0, steps)[:, None].astype(np.float32),
        "agentview_image": image,
        "wrist_rgb": image[:, ::-1],
    }


def hdf5(path: Path, episodes: int = 6, without: tuple[str, ...] = (), **changed) -> Path:
    """Write episodes as robomimic does."""
    import h5py

    with h5py.File(path, "w") as file:
        for index in range(episodes):
            parts = {name: x for name, x in (episode(index) | changed).items() if name not in without}
            group = file.create_group(f"data/demo_{index}")
            for name, values in parts.items():
                group[name if name == "actions" else f"obs/{name}"] = values
    return path


def describe(path: Path, text: str = "move") -> None:
    """Write the description of the task into a file of demonstrations."""
    import h5py

    with h5py.File(path, "r+") as file:
        file["data"].attrs["language_instruction"] = text


def tiny(folder: Path, **changes) -> AdaptConfig:
    """Return settings of a run of a second on `folder/demos.hdf5` with the head `folder/head`, into `folder/run`."""
    settings = {
        "data": f"robomimic:{folder / 'demos.hdf5'}",
        "out": folder / "run",
        "head": str(folder / "head"),
        "cameras": ("agentview",),
        "state": ("position", "fingers"),
        "features": 8,
        "hidden": 16,
        "steps": 6,
        "batch_size": 8,
        "warmup": 2,
        "save_every": 3,
        "held_out": 0.0,
        "precision": "fp32",
        "workers": 0,
    }
    if changes.get("encoder") == "none" or changes.get("vlm"):
        del settings["features"]
    return AdaptConfig.from_flat(settings | changes)


def check_learns_by_looking(settings: Callable[..., AdaptConfig], folder: Path) -> None:
    """Check that a policy learns from the recording, and much less if its images are hidden."""
    from action_heads.adapt.trainer import Trainer

    losses = {}
    for blind in (False, True):
        values = {"out": folder / str(blind), "blind": blind, "steps": 150, "batch_size": 16}
        trainer = Trainer(settings(**values, ema=0.9, lr=1e-2, held_out=0.34, seed=1))
        first = trainer.evaluate()
        for batch in trainer.coming():
            trainer.train_step(batch)
        losses[blind] = trainer.evaluate()
        assert losses[blind] < 0.8 * first
    assert losses[False] < 0.8 * losses[True]
