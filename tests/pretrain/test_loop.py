"""The training loop reports, logs, stops when asked, and gives up when training cannot succeed."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import struct
import subprocess
import sys
import time

import pytest
from tiny import tiny

from action_heads import ActionHead, cli
from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.trainer import Trainer
from action_heads.training import checkpoint, loop
from action_heads.training.loop import Diverged

FLAGS = shlex.split("--width 16 --depth 2 --batch-size 8 --precision fp32")


def points(folder) -> list[tuple[str, int]]:
    """Return (tag, step) of every value in a run's TensorBoard files, and ("start", step) where a run resumed."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "state" / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # length 8 bytes, checksum 4, event, checksum 4
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [("start", event.step)] * event.HasField("session_log")
            found += [(value.tag, event.step) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_leaves_everything_to_look_at(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "POINT_EVERY", 3)
    pretrain(tiny(tmp_path, workers=2))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "model.safetensors", "golden.safetensors", "README.md", "curves.json", "curves.png", "state")
    }
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pt", ".bin", ".pth")]
    assert {("loss", 3), ("learning_rate", 12), ("chunks_per_second", 9), ("held_out_loss", 6)} <= {*points(tmp_path)}
    assert "](curves.png)" in (tmp_path / "README.md").read_text()
    said = capsys.readouterr()
    assert "fp32 on cpu" in said.out
    assert f"action-heads evaluate-head {tmp_path}" in said.out
    assert re.search(r"\d chunks/s \(training step alone [\d,]+, source alone [\d,]+\)", said.out)
    assert re.search(r"12/12 .*step/s, loss \d\.\d+, [1-9][\d,]* chunks/s", said.err)


@pytest.mark.usefixtures("no_picture")
class TestStopping:
    """A run stops on Ctrl-C, on SIGTERM, and when the loss is not finite."""

    @pytest.fixture
    def asked_at(self, monkeypatch):
        """Return a function (step, signal) that sends the signal in the middle of that training step."""
        train_step = Trainer.train_step

        def at(step: int, number: int) -> None:
            def asked(self, batch):
                if self.step == step:
                    os.kill(os.getpid(), number)
                return train_step(self, batch)

            monkeypatch.setattr(Trainer, "train_step", asked)

        return at

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_when_asked(self, tmp_path, asked_at, number, monkeypatch, capsys):
        whole = pretrain(tiny(tmp_path / "whole"))
        asked_at(7, number)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny(tmp_path / "cut"))
        assert checkpoint.read(tmp_path / "cut" / "state")["step"] == 8
        assert "Stopped after training step 8 of 12" in (said := capsys.readouterr().out)
        assert "run the same command again to resume" in said
        asked_at(-1, number)
        resumed = pretrain(tiny(tmp_path / "cut"))
        assert resumed.fingerprint() == whole.fingerprint()
        assert files.read_json(tmp_path / "cut" / "curves.json") == files.read_json(tmp_path / "whole" / "curves.json")

    def test_in_the_last_step_is_to_finish(self, tmp_path, asked_at):
        asked_at(11, signal.SIGINT)
        assert pretrain(tiny(tmp_path)).frozen

    def test_the_command_ends_as_a_shell_expects(self, tmp_path, asked_at, monkeypatch):
        asked_at(2, signal.SIGINT)
        before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
        monkeypatch.setattr(sys, "argv", ["action-heads", "pretrain", *FLAGS, "--steps", "9", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 130
        assert signal.getsignal(signal.SIGINT) is before

    def test_when_the_loss_is_not_finite(self, tmp_path, monkeypatch):
        train_step = Trainer.train_step
        monkeypatch.setattr(
            Trainer, "train_step", lambda self, batch: train_step(self, batch) * (float("nan") if self.step == 9 else 1)
        )
        monkeypatch.setattr(loop, "READ_EVERY", 2)
        with pytest.raises(
            Diverged, match=r"the loss of training step 9 is nan.*state, of training step 6.*--lr below 0.001"
        ):
            pretrain(tiny(tmp_path))
        assert checkpoint.read(tmp_path / "state")["step"] == 6
        assert (tmp_path / "state" / "step-6.safetensors").exists()

    def test_when_the_loss_is_hopeless(self, tmp_path, monkeypatch):
        train_step = Trainer.train_step
        monkeypatch.setattr(Trainer, "train_step", lambda self, batch: train_step(self, batch) + 1e3 * (self.step > 4))
        with pytest.raises(Diverged, match=r"the loss of training step 5 is 1001.*No state was saved"):
            pretrain(tiny(tmp_path, warmup=2))

    def test_points_beyond_the_last_state_are_purged(self, tmp_path, monkeypatch):
        """TensorBoard drops points after the last state of a killed run, since the next run logs where it starts."""
        monkeypatch.setattr(checkpoint, "POINT_EVERY", 1)
        train_step = Trainer.train_step

        def dies(self, batch):
            return train_step(self, batch) / (self.step < 8 or 1 // 0)

        monkeypatch.setattr(Trainer, "train_step", dies)
        with pytest.raises(ZeroDivisionError):
            pretrain(tiny(tmp_path))
        monkeypatch.setattr(Trainer, "train_step", train_step)
        time.sleep(1.1)  # TensorBoard's files are named by the second
        pretrain(tiny(tmp_path))
        found = points(tmp_path)
        after = found[found.index(("start", 6)) :]
        assert [step for tag, step in after if tag == "loss"] == [*range(7, 13)]


def test_module_is_the_subcommand(tmp_path, monkeypatch):
    arguments = [*FLAGS, "--steps", "3", "--data", "synthetic:panda", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["action_heads/pretrain/__main__.py", *arguments])
    runpy.run_module("action_heads.pretrain", run_name="__main__")
    training = ActionHead.from_pretrained(tmp_path).config.training
    assert training["command"] == shlex.join(["action-heads", "pretrain", *arguments])
    assert training["data"] == ["synthetic:panda"]


def launch(out, steps: int, **changes) -> subprocess.Popen:
    """Start the module in two processes on the CPU. `accelerate launch --cpu` would start one, since it needs MPI."""
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "action_heads.pretrain"]
    run = [
        "--data",
        "synthetic:panda",
        "--arch",
        "mixer",
        "--save-every",
        "50",
        "--steps",
        str(steps),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *command, *FLAGS, *run], env=environment, **pipes)


@pytest.mark.slow
def test_two_processes(tmp_path, monkeypatch):
    """Two processes stop together on a signal and resume to the same bits, but only as two processes again."""
    whole = launch(tmp_path / "whole", 200)
    said, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    assert said.count("evaluate-head") == 1  # the main process speaks, alone
    training = ActionHead.from_pretrained(tmp_path / "whole").config.training
    assert training["settings"]["processes"] == 2
    assert "2 processes" in training["machine"]

    cut = launch(tmp_path / "cut", 200)
    while cut.poll() is None and not checkpoint.read(tmp_path / "cut" / "state"):
        time.sleep(0.05)
    cut.terminate()
    said, errors = cut.communicate(timeout=300)
    assert said.count("run the same command again to resume") == 1, errors
    stopped = checkpoint.read(tmp_path / "cut" / "state")["step"]
    assert 50 <= stopped < 200

    again = launch(tmp_path / "cut", 200)
    said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert f"resumed from step {stopped}" in said
    heads = [ActionHead.from_pretrained(tmp_path / name) for name in ("whole", "cut")]
    assert heads[0].fingerprint() == heads[1].fingerprint()
    assert len({(tmp_path / name / "curves.json").read_text() for name in ("whole", "cut")}) == 1

    with pytest.raises(ValueError, match=r"other settings \(.*processes"):
        pretrain(tiny(tmp_path / "whole"))


@pytest.mark.usefixtures("no_picture")
def test_a_batch_is_shared_evenly(tmp_path, monkeypatch):
    from accelerate.state import PartialState

    PartialState(cpu=True).num_processes = 3
    with pytest.raises(ValueError, match="a multiple of 3"):
        Trainer(tiny(tmp_path))


@pytest.mark.usefixtures("no_picture")
def test_graphs_are_refused_in_several_processes(tmp_path):
    from accelerate.state import PartialState

    PartialState(cpu=True).num_processes = 2
    with pytest.raises(ValueError, match="--graph needs a single process, but this run has 2"):
        Trainer(tiny(tmp_path, graph=True))
