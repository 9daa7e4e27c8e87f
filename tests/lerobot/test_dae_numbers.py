"""Numbers that reach a robot through LeRobot are right: real-time chunking, statistics, NaN, rotations, noise."""

from __future__ import annotations

import draccus
import numpy as np
import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.action_queue import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length as padded
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE
from lerobot_policy_dae.left_over import really_left
from tiny_models import vision_model
from tiny_policy import STATS, batch, chunk, features, meta, present, tiny_policy

from action_heads.actions.layouts import FORMS, ActionLayout
from action_heads.actions.normalize import FLOOR
from action_heads.encoders import VisionConfig
from lerobot_policy_dae import DAEConfig, DAEPolicy, make_dae_pre_post_processors

RANGES = {
    "joints_6": ([0.5] * 6 + [-1], [1.5] * 6 + [1.0]),
    "libero": ([-1.0] * 7, [1.0] * 7),
    "pose_euler": ([0.3, 0.2, 0.1] + [-3.0] * 3 + [-1], [0.7, 0.6, 0.5] + [3.0] * 3 + [1.0]),
    "pose_quaternion": ([0.3, 0.2, 0.1] + [-1.0] * 5, [0.7, 0.6, 0.5] + [1.0] * 5),
    "pose_6d": ([0.3, 0.2, 0.1] + [-1.0] * 7, [0.7, 0.6, 0.5] + [1.0] * 7),
}
NOW = present(batch(1, steps=1))


def mixing(folder, monkeypatch, layout: str, **flags) -> DAEPolicy:
    """Return a policy with any action layout that continues chunks."""
    low, high = RANGES[layout]
    monkeypatch.setitem(STATS, ACTION, {"min": np.array(low), "max": np.array(high)})
    return tiny_policy(folder, "mixer", n_obs_steps=1, action_layout=layout, **features(len(low)) | flags)


# ── real-time chunking ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", RANGES)
def test_what_is_really_left_is_committed_and_nothing_else(layout, tmp_path, monkeypatch):
    """Only what is left of the last chunk is committed, although LeRobot cuts or pads it to its execution_horizon."""
    policy = mixing(tmp_path, monkeypatch, layout, num_inference_steps=2)
    for left, horizon in ((0, 10), (0, 40), (1, 10), (8, 10), (15, 4), (15, 40)):
        policy.reset()
        goes_on(policy, left, horizon)


def goes_on(policy: DAEPolicy, left: int, horizon: int) -> None:
    """Check that the chunk begins with what is left and is sampled freely after it, within the range of training."""
    queue, first = ActionQueue(RTCConfig()), chunk(policy, NOW)[0]
    queue.merge(first, first.clone(), 0, 0)
    for _ in range(16 - left):
        queue.get()
    new = policy.predict_action_chunk(
        NOW, inference_delay=11, prev_chunk_left_over=padded(queue.get_left_over(), horizon)
    )
    real = min(left, horizon, 11)
    assert new.shape == (1, 16, first.shape[1])
    assert torch.equal(new[0, :real], first[16 - left :][:real])
    assert not (new == 0).all(-1).any()
    if policy.config.action_layout.startswith("joint"):
        assert new[..., :6].min() > 0.4
    if not real:
        free = []
        for handed_over in ((), (11, torch.zeros(horizon, first.shape[1]))):
            policy.reset()
            torch.manual_seed(1)
            free.append(policy.predict_action_chunk(NOW, *handed_over))
        assert torch.equal(*free)


def test_zeros_that_are_actions_are_committed():
    """Zeros that are actions, such as deltas of an arm at rest, are told from padding by means of the last chunk."""
    moving, still = torch.rand(1, 10, 7) + 0.1, torch.zeros(1, 6, 7)
    last = torch.cat([moving, still], 1)
    for left in range(17):
        shown = torch.cat([last[0, 16 - left :], torch.zeros(20 - left, 7)])[None]
        assert really_left(shown, last) == [max(left, 6)]  # of zeros alone, the end of the chunk is as likely
    assert really_left(torch.cat([moving[:, :4], still], 1), None) == [4]  # a chunk that is not known
    assert really_left(torch.cat([moving[:, :4], still], 1), last) == [4]  # nor the end of this one


def test_rows_of_a_batch_may_have_different_steps_left(tmp_path, monkeypatch):
    policy = mixing(tmp_path, monkeypatch, "pose_quaternion")
    three = present(batch(3, steps=1))
    first = chunk(policy, three)
    left = [0, 2, 7]
    given = torch.stack([padded(first[i, 16 - n :], 10) for i, n in enumerate(left)])
    new = policy.predict_action_chunk(three, inference_delay=5, prev_chunk_left_over=given)
    for i, n in enumerate([0, 2, 5]):
        assert torch.equal(new[i, :n], first[i, 16 - left[i] :][:n])
    assert new.isfinite().all()
    assert not (new == 0).all(-1).any()


@pytest.mark.parametrize(
    ("delay", "previous", "message"),
    [
        (2.5, torch.zeros(4, 7), "inference_delay must be an integer number of ticks"),
        (2, torch.zeros(4, 6), r"shape \(4, 6\); expected \(steps, 7\)"),
        (2, torch.zeros(2, 4, 7), r"\(2, 4, 7\)"),
        (2, torch.full((4, 7), torch.nan), "holds NaN"),
        (2, [[0.0] * 7], "a list"),
    ],
)
def test_what_is_no_left_over(delay, previous, message, tmp_path, monkeypatch):
    policy = mixing(tmp_path, monkeypatch, "joints_6")
    with pytest.raises(ValueError, match=message):
        policy.predict_action_chunk(NOW, delay, previous)


# ── statistics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def statistics(tremble: float = 0.0) -> dict[str, dict[str, torch.Tensor]]:
    """Return statistics, under the names of every mode, of a state whose last column varies by `tremble`."""
    centre, spread = torch.tensor([0.0, 0.1, -0.2, 0.5]), torch.tensor([1.0, 0.02, 0.3, tremble])
    state = {"mean": centre, "std": spread, "min": centre - spread, "max": centre + spread}
    state |= {"q01": centre - spread, "q99": centre + spread, "q10": centre - spread, "q90": centre + spread}
    return {OBS_STATE: state, ACTION: {k: torch.tensor(x, dtype=torch.float32) for k, x in STATS[ACTION].items()}}


def seen(preprocessor, last: float) -> torch.Tensor:
    return preprocessor({OBS_STATE: torch.tensor([1.0, 0.12, -0.5, last])})[OBS_STATE][0]


def of_a_new_policy(policy, tremble, folder):
    return make_dae_pre_post_processors(policy.config, statistics(tremble))[0]


def reloaded(policy, tremble, folder):
    for pipeline in make_dae_pre_post_processors(policy.config, statistics(tremble)):
        pipeline.save_pretrained(folder)
    return make_pre_post_processors(policy.config, str(folder))[0]


def fine_tuned(policy, tremble, folder):
    """Return the saved pipelines with another dataset's statistics, as `lerobot-train` loads them for fine-tuning."""
    for pipeline in make_dae_pre_post_processors(policy.config, statistics(0.3)):
        pipeline.save_pretrained(folder)
    of = {"norm_map": policy.config.normalization_mapping, "stats": statistics(tremble)}
    inputs, outputs = policy.config.input_features, policy.config.output_features
    overrides = {
        "preprocessor_overrides": {"normalizer_processor": of | {"features": {**inputs, **outputs}}},
        "postprocessor_overrides": {"unnormalizer_processor": of | {"features": outputs}},
    }
    return make_pre_post_processors(policy.config, str(folder), **overrides)[0]


@pytest.mark.parametrize("make", [of_a_new_policy, reloaded, fine_tuned])
@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_a_column_that_never_moved_does_not_reach_the_policy_as_thousands(mode, make, tmp_path):
    policy = tiny_policy(tmp_path)
    policy.config.normalization_mapping = {
        "STATE": NormalizationMode[mode],
        "ACTION": NormalizationMode.IDENTITY,
        "VISUAL": NormalizationMode.IDENTITY,
    }
    others = torch.tensor([1.0, 1.0, -1.0, 0.0])  # normalised as ever
    for tremble in (0.0, 1e-6, 1e-5, FLOOR / 2):
        preprocessor = make(policy, tremble, tmp_path / f"saved-{tremble}")
        torch.testing.assert_close(seen(preprocessor, 0.5), others, atol=1e-5, rtol=0)
        assert seen(preprocessor, 0.501)[3].abs() <= 1
        if tremble <= 1e-6:
            assert seen(preprocessor, 1.5)[3].abs() <= 1.1
    torch.testing.assert_close(seen(make(policy, 0.25, tmp_path / "more"), 1.0)[3], torch.tensor(2.0))


@pytest.mark.parametrize("make", [of_a_new_policy, fine_tuned])
def test_statistics_of_a_state_that_are_not_finite_are_named(make, tmp_path):
    with pytest.raises(ValueError, match=rf"{OBS_STATE} are NaN or infinite in dimension 3"):
        make(tiny_policy(tmp_path), float("nan"), tmp_path / "saved")


def test_a_nan_among_the_actions_names_column_and_episode(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    high = [1.0] * 7
    monkeypatch.setitem(STATS, ACTION, {"min": np.array([-1.0] * 7), "max": np.array([*high[:2], np.nan, *high[3:]])})
    folder = tmp_path / "meta" / "episodes" / "chunk-000"
    folder.mkdir(parents=True)
    bad = [*high[:2], float("nan"), *high[3:]]
    rows = {"episode_index": [0, 1, 2], "stats/action/min": [[-1.0] * 7] * 3, "stats/action/max": [high, bad, high]}
    pq.write_table(pa.table(rows), folder / "file-000.parquet")
    dataset = meta()
    dataset.root = tmp_path
    with pytest.raises(ValueError, match=r"'action'.*dimension 2 \(position, 3 of 3\).*episode 1\.$") as found:
        tiny_policy(tmp_path, dataset_meta=dataset)
    assert "--policy" not in str(found.value)
    with pytest.raises(ValueError, match=r"dimension 2"):  # a dataset without such a table
        tiny_policy(tmp_path, dataset_meta=meta())


def test_a_gripper_that_was_declared_counts(tmp_path, monkeypatch):
    monkeypatch.setitem(STATS, ACTION, {"min": np.array([-1.0] * 6 + [0]), "max": np.array([1.0] * 7)})
    with pytest.raises(ValueError, match=r"--policy\.gripper: column 6.*declare these"):
        tiny_policy(tmp_path)
    tiny_policy(tmp_path, gripper=(-1.0, 1.0))
    assert draccus.parse(DAEConfig, args=["--gripper=[-1,1]", "--device=cpu"]).gripper == (-1.0, 1.0)
    assert type(draccus.parse(DAEConfig, args=["--gripper=[-1,1]", "--device=cpu"]).gripper) is tuple
    assert type(draccus.parse(DAEConfig, args=["--device=cpu"]).gripper) is not tuple


# ── NaN ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", [OBS_STATE, OBS_IMAGE])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_tick_is_named_and_does_not_poison_later_ones(key, bad, tmp_path, monkeypatch):
    """A bad observation raises an error and leaves later ticks correct, even when the head does not check its input."""
    monkeypatch.setattr("action_heads.policy.ConditionedHead._look", lambda *_: False)
    eyes = VisionConfig(backbone=vision_model("vit", tmp_path / "vit"))
    policy, twin = (tiny_policy(tmp_path, image=True, vision=eyes, n_action_steps=1) for _ in range(2))
    good = [present(batch(2, image=True)) for _ in range(4)]
    for i, now in enumerate(good):
        now[OBS_STATE] = now[OBS_STATE] + i
    spoilt = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in good[1].items()}
    spoilt[key].view(-1)[-1] = bad
    for i, now in enumerate(good):
        if i == 2:
            with pytest.raises(ValueError, match=rf"{key} has 1 NaN or infinite values, the first in batch row 1"):
                policy.select_action(spoilt)
            with pytest.raises(ValueError, match=key):
                policy.predict_action_chunk(spoilt)
        torch.manual_seed(i)
        expected = twin.select_action(now)
        torch.manual_seed(i)
        assert torch.equal(policy.select_action(now), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({OBS_STATE: torch.zeros(3, 5)}, r"observation.state has shape \(3, 5\).*\(batch, 4\)"),
        ({OBS_STATE: torch.zeros(4)}, r"shape \(4,\)"),
        ({OBS_STATE: torch.zeros(2, 4)}, "differ in their batch size.*reset"),
        ({OBS_STATE: torch.zeros(3, 2, 4)}, "the present alone"),
        ({OBS_STATE: torch.zeros(3, 4).long()}, r"torch.int64 \(3, 4\), expected floats"),
        ({OBS_STATE: np.zeros((3, 4))}, "a ndarray, expected floats"),
    ],
)
def test_what_is_no_observation_is_not_remembered(change, message, tmp_path):
    policy = tiny_policy(tmp_path)
    now = present(batch())
    policy.select_action(now)
    before = list(policy.observations.past)
    with pytest.raises(ValueError, match=message):
        policy.select_action(now | change)
    assert [id(step) for step in policy.observations.past] == [id(step) for step in before]
    policy.select_action(now)


def test_a_chunk_without_a_value_is_not_given_out(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path, action_layout="pose_euler")
    monkeypatch.setattr(policy.conditioned, "act", lambda cond, *_: torch.zeros(len(cond), 16, 10))
    with pytest.raises(ValueError, match="NaN or infinity, first in batch row 0, time step 0, column 3"):
        policy.predict_action_chunk(present(batch()))
    with pytest.raises(ValueError, match="is NaN or infinite after decoding"):
        policy.select_action(present(batch()))


def test_a_state_far_off_is_said_once(tmp_path, caplog):
    policy, now = tiny_policy(tmp_path), present(batch())
    now[OBS_STATE][1, 3] = 10_002
    for _ in range(2):
        policy.select_action(now)
    assert [
        record.message
        for record in caplog.records
        if "observation.state reaches 10002 in dimension 3" in record.message
    ]
    assert sum("reaches" in record.message for record in caplog.records) == 1


# ── rotations ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Turning:
    """A policy that turns a hand about z by more than two turns."""

    def __init__(self, layout):
        self.at, self.layout = 0, layout

    def act(self, cond, *_):
        angle = 0.3 * (self.at + torch.arange(16.0))
        rows = torch.stack([angle.cos(), -angle.sin(), 0 * angle, angle.sin(), angle.cos(), 0 * angle], -1)
        return torch.cat([torch.zeros(16, 3), rows, torch.ones(16, 1)], -1).expand(len(cond), -1, -1)


WAYS = ("select_action", "chunks of one robot", "real-time chunking")


@pytest.mark.parametrize("form", FORMS)
def test_no_rotation_jumps_from_step_to_step(form, tmp_path, monkeypatch):
    layout = f"position {form} gripper"
    low = [-1.0] * ActionLayout.parse(layout).width
    monkeypatch.setitem(STATS, ACTION, {"min": np.array(low), "max": -np.array(low)})
    policy = tiny_policy(tmp_path, "mixer", n_obs_steps=1, action_layout=layout, **features(len(low)))
    hand = Turning(policy.layout)
    monkeypatch.setattr(policy.conditioned, "act", hand.act)
    for way in WAYS:
        policy.reset()
        hand.at, played, new = 0, [], None
        for _ in range(4):
            if way == "select_action":
                played += [policy.select_action(NOW)[0] for _ in range(8)]
            else:
                left = None if new is None or way == WAYS[1] else padded(new[0, 8:], 10)
                new = policy.predict_action_chunk(NOW, 3, left)
                played += list(new[0, :8])
            hand.at += 8
        assert torch.stack(played).diff(dim=0).abs()[:, 3:-1].max() < 0.4


def test_canonical_rotations_are_a_flag(tmp_path, monkeypatch):
    low = [-1.0] * 8
    monkeypatch.setitem(STATS, ACTION, {"min": np.array(low), "max": -np.array(low)})
    flags = {"action_layout": "pose_quaternion", "canonical_rotations": True, **features(8)}
    policy = tiny_policy(tmp_path, "mixer", n_obs_steps=1, **flags)
    hand = Turning(policy.layout)
    monkeypatch.setattr(policy.conditioned, "act", hand.act)
    hand.at = 8
    assert (policy.predict_action_chunk(NOW)[..., 6] >= 0).all()


# ── noise of training ────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(policy: DAEPolicy, steps: int, monkeypatch, **options) -> list[list[int]]:
    """Return the noise levels of `steps` training steps."""
    objective, levels = type(policy.conditioned.head.objective), []
    draw = objective.random_steps
    monkeypatch.setattr(objective, "random_steps", lambda *a, **k: levels.append(draw(*a, **k)) or levels[-1])
    for _ in range(steps):
        policy(batch(6, **options))
    monkeypatch.setattr(objective, "random_steps", draw)
    return [x.flatten().tolist() for x in levels]


def test_noise_is_drawn_by_seed_step_and_process(tmp_path, monkeypatch):
    def run(seed=1000, rank=0):
        policy = tiny_policy(tmp_path).train()
        monkeypatch.setattr("lerobot_policy_dae.draws.process", lambda: rank)
        torch.manual_seed(seed)
        return drawn(policy, 3, monkeypatch)

    first = run()
    assert first == run()
    assert len({str(step) for levels in (first, run(rank=1), run(seed=1)) for step in levels}) == 9


def test_a_resumed_run_draws_what_it_would_have(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path).train()
    torch.manual_seed(1000)
    drawn(policy, 2, monkeypatch)
    policy.save_pretrained(tmp_path / "saved")
    expected = drawn(policy, 2, monkeypatch)
    again = DAEPolicy.from_pretrained(tmp_path / "saved").train()
    torch.manual_seed(1000)
    torch.rand(7)  # whatever else was drawn
    assert drawn(again, 2, monkeypatch) == expected


def test_noise_and_augmentation_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Noise levels depend neither on augmentation nor on evaluated batches, and torch's generator stays untouched."""
    eyes = {"backbone": vision_model("vit", tmp_path / "vit"), "crop": (28, 28)}
    found = []
    for jitter, evaluated in ((0.0, False), (0.3, True)):
        policy = tiny_policy(tmp_path, image=True, vision=VisionConfig(**eyes, jitter=jitter)).train()
        torch.manual_seed(1000)
        levels = drawn(policy, 1, monkeypatch, image=True)
        if evaluated:
            held_out = drawn(policy.eval(), 2, monkeypatch, image=True)
            assert held_out[0] != held_out[1]
            policy.train()
        found.append((levels + drawn(policy, 1, monkeypatch, image=True), torch.rand(1).item()))
    assert found[0] == found[1]
