"""Recordings with images are the same to the bit, whatever the number of processes that rendered them."""

import json
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from action_heads_lab.sim.again import Images, run_again
from action_heads_lab.sim.dataset import RecordConfig, save_dataset
from action_heads_lab.sim.record import run_expert, together
from action_heads_lab.sim.workers import in_order

pytestmark = pytest.mark.sim
CAMERAS = ("agentview", "robot0_eye_in_hand")


class Slow:
    """A worker whose later messages are answered sooner."""

    def __init__(self, count):
        self.count = count

    def __call__(self, message):
        time.sleep(0.02 * (self.count - message))
        if message == -1:
            raise ValueError("a message that fails")
        return message**2

    def close(self):
        pass


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_replies_come_in_the_order_of_the_messages(workers):
    assert list(in_order(workers, range(7), Slow, 7)) == [message**2 for message in range(7)]


@pytest.mark.slow  # two processes start
def test_an_error_of_a_worker_is_raised():
    with pytest.raises(RuntimeError, match="a message that fails"):
        list(in_order(2, [0, -1, 2], Slow, 2))


@pytest.fixture(scope="module")
def two(lift):
    """Return two demonstrations of Lift that differ."""
    return together([run_expert(lift, seed) for seed in (10_001, 10_003)], "Lift", 0.0)


def test_one_and_two_processes_write_the_same_bits(two, tmp_path):
    """Columns and images are equal, in robomimic's HDF5 and in a LeRobotDataset."""
    h5py = pytest.importorskip("h5py")
    found = {}
    for workers in (1, 2):
        path = save_dataset(two, tmp_path / f"{workers}.hdf5", CAMERAS, 24, workers)
        with h5py.File(path) as file:
            demos = [{name: demo["obs"][name][()] for name in demo["obs"]} for demo in file["data"].values()]
            found[workers] = [
                one | {"actions": demo["actions"][()]} for one, demo in zip(demos, file["data"].values(), strict=True)
            ]
            assert json.loads(file["data"].attrs["recording"])["seeds"] == [10_001, 10_003]
        assert path.read_bytes() == (tmp_path / "1.hdf5").read_bytes(), "the files are equal too"
    for one, other in zip(found[1], found[2], strict=True):
        assert {*one} == {*other} >= {"actions", "action.delta", *(f"{camera}_image" for camera in CAMERAS)}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)
    first, second = (one["agentview_image"] for one in found[1])
    assert first[0].std() > 10, "images show something"
    assert not np.array_equal(first[0], second[0]), "and the episodes differ"


@pytest.mark.skipif(find_spec("lerobot") is None, reason="needs the lerobot extra")
def test_both_formats_hold_the_same_images_and_columns(two, tmp_path, monkeypatch):
    from action_heads_lab.sim import dataset
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    h5py = pytest.importorskip("h5py")
    rendered = [
        {f"observation.images.{CAMERAS[0]}": np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), np.uint8)}
        for n in two.episode_length
    ]
    monkeypatch.setattr(dataset, "run_again", lambda *_: iter(rendered))
    folder, path = (save_dataset(two, tmp_path / name, CAMERAS[:1], 8) for name in ("set", "file.hdf5"))
    item = LeRobotDataset("local/lift", root=folder)[int(two.episode_length[0]) + 2]
    with h5py.File(path) as file:
        demo = file["data/demo_1"]
        image = item[f"observation.images.{CAMERAS[0]}"].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(np.round(image * 255), demo["obs/agentview_image"][2])
        np.testing.assert_array_equal(item["action"].numpy(), demo["actions"][2])
        np.testing.assert_array_equal(item["observation.state"].numpy(), demo["obs/observation.state"][2])


def test_our_reader_takes_the_file(two, tmp_path, monkeypatch):
    from action_heads_lab.sim import dataset

    pytest.importorskip("h5py")
    from action_heads.data.robomimic import Robomimic
    from action_heads.data.spec import Spec

    images = {f"observation.images.{CAMERAS[0]}": np.zeros((int(max(two.episode_length)), 8, 8, 3), np.uint8)}
    cut = [{name: value[:n] for name, value in images.items()} for n in two.episode_length]
    monkeypatch.setattr(dataset, "run_again", lambda *_: iter(cut))
    path = save_dataset(two, tmp_path / "lift.hdf5", CAMERAS[:1], 8)
    opened = Robomimic(Spec.parse(f"robomimic:{path}"), observed=True)
    assert opened.cameras == {"agentview": (8, 8)}
    assert {"observation.eef", "observation.gripper"} <= {*opened.widths}
    assert opened.rate_hz == 20
    with pytest.raises(FileExistsError, match="another file"):
        save_dataset(two, path, CAMERAS[:1], 8)


def test_actions_that_differ_are_refused(two):
    other = replace(two, action=two.action + 1e-3)
    with pytest.raises(RuntimeError, match=r"episode 0 of Lift \(seed 10001\) came out different"):
        next(run_again(other, 1, Images, "Lift", (), 8))


def test_the_own_columns_of_libero_are_for_a_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"--schema libero writes a LeRobotDataset.*Give a folder"):
        RecordConfig("libero_object/0", tmp_path / "soup.hdf5", schema="libero")
