"""What `attach_to_vlm.py` starts from: demonstrations seen through a wrist camera, and a model that knows its pictures.

uv run examples/tiny_vlm/make.py      # both anew, ten minutes or so; they are in this folder already

Lift in robosuite, with a cube anywhere in a square of 14 cm. The model is SmolVLM in small, taught to say where the
cube is, seen from the hand. That stands for what real models learn from pictures and words.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import torch
import tyro
from action_heads_lab.sim import Demonstrations, Sim, make
from action_heads_lab.sim.frames import Pose, rotation_from_6d
from action_heads_lab.sim.record import SEEDS, run_expert, together
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from tqdm import tqdm, trange
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from action_heads.fit import FitConfig, cosine
from action_heads.vlm import Tap

HERE = Path(__file__).parent
RECORDING, PICTURES = HERE / "lift.npz", HERE / "pictures.npz"
EVERY = 2  # a picture for every second step: their neighbours are alike
PIXELS, CAMERA = 32, "robot0_eye_in_hand"
IMAGE, WORDS = 60, (3, 7, 5)  # the id of a piece of the picture; "lift the cube", had there been a tokenizer


def tiny_vlm() -> SmolVLMForConditionalGeneration:
    """Build a random SmolVLM: a SigLIP of 64 patches, of which a pixel shuffle makes 16 tokens."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = shape | {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 4, "initializer_range": 0.1}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = shape | {"image_size": PIXELS, "patch_size": 4}
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2)
    )


def processed(pictures: Tensor) -> dict[str, Tensor]:
    """Pictures (b h w 3) uint8 -> what SmolVLM's processor makes of them and of the words."""
    ids = torch.tensor([[IMAGE] * 16 + list(WORDS)]).expand(len(pictures), -1)
    pixels = pictures.permute(0, 3, 1, 2)[:, None].float() / 127.5 - 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def lift() -> Sim:
    """Lift with the cube anywhere in a square of 14 cm: in robosuite's, of 6, a hand that opens 8 often wins blind."""
    sim = make("Lift", render=True)
    sim.reset(0)
    sim.env.hard_reset = False  # later resets keep the model, with what follows, and its GL context: they take a tenth
    sim.env.placement_initializer.x_range = sim.env.placement_initializer.y_range = (-0.07, 0.07)
    return sim


def recorded() -> tuple[Demonstrations, Tensor]:
    """Load the demonstrations of this folder, and the wrist camera's image of every second time step (k h w 3)."""
    with np.load(PICTURES) as file:
        return Demonstrations.load(RECORDING), torch.from_numpy(file["wrist"])


def demonstrate(sim: Sim, demos: int) -> Demonstrations:
    """Of the scripted expert, those that succeed."""
    kept = []
    with tqdm(total=demos, desc="recording") as bar:
        for seed in count(SEEDS):
            if len(kept) == demos:
                break
            if (episode := run_expert(sim, seed, sim.task.noise)).success:
                kept.append(episode)
                bar.update()
    return together(kept, "Lift", sim.task.noise)


def photograph(sim: Sim, recording: Demonstrations) -> np.ndarray:
    """(k h w 3): the simulator is put into every second state and looks; nothing moves."""
    data, robot, pictures = sim.mujoco.data, sim.robot, []
    moments = zip(recording.observation[::EVERY], recording.joint_position[::EVERY], strict=True)
    for seen, joints in tqdm(list(moments), desc="rendering"):
        cube = sim.base_in_world @ Pose(seen[11:14], rotation_from_6d(seen[14:20]))
        data.qpos[robot._ref_joint_pos_indexes] = joints
        data.qpos[robot._ref_gripper_joint_pos_indexes] = seen[9:11]
        data.set_joint_qpos("cube_joint0", [*cube.p, *Rotation.from_matrix(cube.R).as_quat()[[3, 0, 1, 2]]])
        sim.mujoco.forward()
        pictures.append(sim.render(PIXELS, CAMERA))
    return np.stack(pictures)


def teach(vlm: SmolVLMForConditionalGeneration, pictures: Tensor, recording: Demonstrations, steps: int) -> None:
    """Train the stand-in for pretraining: the last word's token learns the cube's position and rotation."""
    where, last = locations(recording), int(recording.episode_length[-8:].sum()) // EVERY  # 8 episodes are held out
    tap, answer = Tap(vlm, train="full"), nn.Linear(64, where.shape[1])
    mean, std = where[:-last].mean(0), where[:-last].std(0)
    parameters, config = [*tap.parameters(), *answer.parameters()], FitConfig(steps=steps, lr=1e-3)
    optimizer = torch.optim.AdamW(parameters)
    for step in (bar := trange(steps, desc="teaching", unit="step")):
        optimizer.param_groups[0]["lr"] = cosine(step, config)
        rows = torch.randint(len(where) - last, (128,))
        loss = (answer(tap(**processed(pictures[rows]))[0][:, -1]) - (where[rows] - mean) / std).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    with torch.no_grad():
        said = answer(tap(**processed(pictures[-last:]))[0][:, -1]) * std + mean
    error = 1e3 * (said - where[-last:])[:, :3].norm(dim=1).median()
    print(f"the model says where the cube is to within {error:.0f} mm (median over 8 episodes it has not seen)")


def locations(recording: Demonstrations) -> Tensor:
    """(k 5) of the cube in the hand's frame: position (3, m), and its heading, alike after every quarter turn (2)."""
    seen = recording.observation[::EVERY].astype(np.float64)
    hand, cube = (np.stack([rotation_from_6d(row) for row in seen[:, part]]) for part in (slice(3, 9), slice(14, 20)))
    position = np.einsum("n i j, n i -> n j", hand, seen[:, 20:23])
    heading = 4 * Rotation.from_matrix(np.swapaxes(hand, 1, 2) @ cube).as_euler("zyx")[:, 0]
    return torch.from_numpy(np.c_[position, np.cos(heading), np.sin(heading)]).float()


def main(demos: int = 80, lessons: int = 1500) -> None:
    """Record, and teach the model."""
    sim = lift()
    recording = demonstrate(sim, demos)
    recording.save(RECORDING)
    np.savez_compressed(PICTURES, wrist=photograph(sim, recording))
    sim.close()
    torch.manual_seed(0)
    teach(vlm := tiny_vlm(), recorded()[1], recording, lessons)
    vlm.half().save_pretrained(HERE)


if __name__ == "__main__":
    tyro.cli(main)
