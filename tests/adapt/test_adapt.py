"""Stage 2 learns from observations, trains only what it declares, resumes to the same bits, and saves completely."""

from __future__ import annotations

import dataclasses
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import inside, needs_fork
from killed import Killed, die, killed_at_step, killed_at_write
from recorded import check_learns_by_looking, describe, hdf5, tiny
from small import generator, tiny_head

from action_heads import ActionHead, ObservedPolicy
from action_heads.adapt.build import build
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig
from action_heads.adapt.trainer import Trainer, checkpoint_folder
from action_heads.io import files, locks
from action_heads.training import checkpoint, curve

STATE = torch.tensor([[[0.4, 0.1, 0.2, 0.03]] * 2] * 2)


def seen(value: float = 0.5) -> dict[str, torch.Tensor]:
    return {"agentview": torch.full((2, 2, 3, 16, 16), value)}


def chunk(policy: ObservedPolicy, images=None, state=STATE) -> torch.Tensor:
    return policy.sample(images or seen(), state, steps=3, generator=generator())


def weights(policy: ObservedPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_leaves_everything_to_look_at(folder, vit, drawing, monkeypatch, capsys):
    monkeypatch.setattr(curve, "draw_curve", drawing)
    monkeypatch.setattr(checkpoint, "POINT_EVERY", 3)
    adapt(tiny(folder, encoder=vit, held_out=0.2, workers=1), command="action-heads adapt ...")
    out = folder / "run"
    assert {path.name for path in out.iterdir()} == {
        *("policy.json", "encoder.safetensors", "adapter.safetensors", "state"),
        *("README.md", "curves.json", "curves.png", "results.json"),
    }
    assert not [path for path in out.rglob("*") if path.suffix in (".pkl", ".pt", ".bin", ".pth")]
    results = files.read_json(out / "results.json")
    assert results["command"] == "action-heads adapt ..."
    assert results["episodes"] == {"trained": 5, "held_out": 1}
    assert results["parameters"]["head"]["trained"] == 0
    assert results["parameters"]["encoder"]["trained"] > 0
    assert results["rollouts"] is None
    assert [len(points) for points in files.read_json(out / "curves.json").values()] == [2, 2]
    text = (out / "README.md").read_text()
    assert "action-heads adapt ..." in text
    assert "was not rolled out." in text
    said = capsys.readouterr().out
    assert "observes agentview, position, fingers; actions are position 6d gripper" in said
    assert "5 episodes, 1 held out" in said


def test_learns_by_looking_and_blind_does_not(folder, vit):
    """Only the image tells the side, so a policy that does not see it cannot know the side."""
    check_learns_by_looking(lambda **values: tiny(folder, encoder=vit, encoder_lr=3e-3, **values), folder)


def test_blind_ignores_images(folder, vit):
    policy = adapt(tiny(folder, encoder=vit, blind=True))
    assert torch.equal(chunk(policy, seen(0.1)), chunk(policy, seen(0.9)))
    assert not torch.equal(chunk(policy), chunk(policy, state=STATE + 0.1))
    seeing = adapt(tiny(folder, encoder=vit, out=folder / "seeing", lr=0.1))
    assert not torch.equal(chunk(seeing, seen(0.1)), chunk(seeing, seen(0.9)))


@pytest.mark.parametrize("train_encoder", ["trained", "frozen"])
def test_only_what_is_declared_moves(folder, vit, train_encoder):
    trainer = Trainer(tiny(folder, encoder=vit, train_encoder=train_encoder))
    policy, before = trainer.policy, weights(trainer.policy)
    for batch in trainer.coming():
        trainer.train_step(batch)
    moved = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert moved <= trained
    assert not any(name.startswith("policy.head.") for name in moved)
    assert policy.policy.head.fingerprint() == ActionHead.from_pretrained(folder / "head").fingerprint()
    assert any(name.startswith("policy.adapter.") for name in moved)
    assert any("trunks" in name for name in moved) == (train_encoder == "trained")
    assert any("readouts" in name for name in moved)


@pytest.mark.parametrize("how", ["killed", "asked"])
def test_a_cut_run_resumes_to_the_same_bits(folder, vit, how):
    """An interrupted run resumes to the same bits, with random crops and colours and with workers that read ahead."""
    settings = {"encoder": vit, "crop": (12, 12), "jitter": 0.2, "workers": 1, "held_out": 0.2}
    whole = adapt(tiny(folder, out=folder / "whole", **settings))
    ways = {"killed": (die, Killed), "asked": (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt)}
    with killed_at_step(Trainer, 4, *ways[how]):
        adapt(tiny(folder, **settings))
    assert checkpoint.read(folder / "run" / "state")["step"] == (3 if how == "killed" else 5)
    resumed = adapt(tiny(folder, **settings, save_every=2) if how == "asked" else tiny(folder, **settings))
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())


def test_saved_and_loaded_it_does_the_same(folder, vit):
    policy = adapt(tiny(folder, encoder=vit, lr=0.1))
    again = ObservedPolicy.from_pretrained(policy.save(folder / "copy"))
    assert torch.equal(chunk(policy), chunk(again))
    assert chunk(again).shape == (2, 16, 10)
    as_bytes = {name: (255 * x).round().byte() for name, x in seen(0.2).items()}
    assert torch.allclose(chunk(again, as_bytes), chunk(again, seen(0.2)), atol=1e-6)
    other = adapt(tiny(folder, encoder=vit, out=folder / "other", seed=1))
    other.save(folder / "mixed")
    (folder / "mixed" / "encoder.safetensors").write_bytes((folder / "run" / "encoder.safetensors").read_bytes())
    with pytest.raises(files.WeightFileError, match="different saves"):
        ObservedPolicy.from_pretrained(folder / "mixed")


@pytest.mark.parametrize("mode", ["decoupled", "normal"])
def test_checkpoints_are_what_the_policy_was(folder, vit, mode):
    config = tiny(folder, encoder=vit, lr=0.1, steps=6, checkpoints=2, mode=mode)
    trainer, was = Trainer(dataclasses.replace(config, out=folder / "by hand")), {}
    for batch in trainer.coming():
        trainer.train_step(batch)
        with trainer.ema.averaged():
            was[trainer.step] = weights(trainer.policy)
    policies = {6: adapt(config), 3: ObservedPolicy.from_pretrained(checkpoint_folder(folder / "run", 3))}
    assert not checkpoint_folder(folder / "run", 6).exists(), "the last policy is in the folder of the run"
    for step, policy in policies.items():
        now = weights(policy)
        assert now.keys() == was[step].keys()
        assert all(torch.equal(now[name], tensor) for name, tensor in was[step].items())
    assert not torch.equal(chunk(policies[3]), chunk(policies[6]))


@pytest.mark.parametrize("mode", ["random-frozen", "normal"])
@pytest.mark.parametrize("horizon", [None, 4])  # fewer actions than a rollout executes, without rollouts
def test_controls_bring_their_head_along(folder, mode, horizon):
    policy = adapt(tiny(folder, encoder="none", cameras=(), mode=mode, horizon=horizon))
    counts = files.read_json(folder / "run" / "results.json")["parameters"]["head"]
    assert (counts["trained"] == 0) == (mode == "random-frozen" and horizon is None)
    assert (folder / "run" / "head" / "model.safetensors").exists()
    assert policy.policy.head.original.fingerprint() != ActionHead.from_pretrained(folder / "head").fingerprint()
    (folder / "run").rename(folder / "moved")
    again = ObservedPolicy.from_pretrained(folder / "moved")
    assert torch.equal(chunk(policy, {}), chunk(again, {}))
    assert chunk(again, {}).shape == (2, horizon or 16, 10)
    copied = ObservedPolicy.from_pretrained(again.save(folder / "copied"))
    assert torch.equal(chunk(copied, {}), chunk(again, {}))


def test_states_alone_are_standardised(folder):
    trainer = Trainer(tiny(folder, encoder="none", cameras=()))
    rows = torch.cat([batch["state"] for batch in trainer.coming() for _ in range(20)])
    everything = trainer.windows.state
    cond = trainer.policy.condition({}, everything[:, None].expand(-1, 2, -1))
    standard = trainer.policy.policy.adapter.standard(cond)
    assert torch.allclose(standard.mean(0), torch.zeros(8), atol=1e-4)
    moving = everything.std(0) > 1e-6
    assert torch.allclose(standard.std(0, correction=0)[:4][moving], torch.ones(int(moving.sum())), atol=1e-3)
    assert rows.shape[1:] == (2, 4)


def test_another_layout_reshapes_the_head_and_comes_back_in_its_columns(folder):
    policy = adapt(tiny(folder, encoder="none", cameras=(), action_layout="joint:9 gripper"))
    assert policy.policy.head.original is not policy.policy.head
    assert chunk(ObservedPolicy.from_pretrained(folder / "run"), {}).shape == (2, 16, 10)


def test_starts_from_another_run(folder, vit):
    first = adapt(tiny(folder, encoder=vit, lr=0.1))
    hdf5(folder / "more.hdf5", episodes=3)
    settings = {"data": f"robomimic:{folder / 'more.hdf5'}", "start_from": folder / "run", "encoder": vit}
    trainer = Trainer(tiny(folder, out=folder / "tuned", **settings))
    expected = weights(first)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.policy.state_dict().items())
    tuned = adapt(tiny(folder, out=folder / "tuned", **settings))
    assert torch.equal(tuned.policy.normalizer.scale, first.policy.normalizer.scale)
    with pytest.raises(ValueError, match=r"--start-from: .*trained with other settings: horizon 16, here 8"):
        Trainer(tiny(folder, out=folder / "wrong", **settings, horizon=8))
    with pytest.raises(ValueError, match=r"--start-from: .*action_layout position 6d gripper, here joint:9 gripper"):
        Trainer(tiny(folder, out=folder / "wrong", **settings, action_layout="joint:9 gripper"))


def test_language_is_learnt_ahead(folder, tmp_path_factory):
    from tiny_models import text_model

    text = text_model(tmp_path_factory.mktemp("text"))
    settings = tiny(folder, encoder="none", cameras=(), text=text)
    with pytest.raises(ValueError, match=r"--text: .*no descriptions of its tasks"):
        build(settings)  # The name of a file is no description.
    describe(folder / "demos.hdf5", "move")
    policy = adapt(settings)
    assert list(policy.encoder.text.known) == ["move"]
    policy.sample({}, STATE, ["move"] * 2, steps=2)


def test_another_run_is_not_overwritten(folder):
    settings = {"encoder": "none", "cameras": ()}
    adapt(tiny(folder, **settings))
    with pytest.raises(ValueError, match=r"other settings \(lr\).*another --out"):
        adapt(tiny(folder, **settings, lr=0.5))
    (folder / "run" / "state").rename(folder / "gone")
    with pytest.raises(ValueError, match=r"holds a finished policy made with other settings \(lr\)"):
        adapt(tiny(folder, **settings, lr=0.5))
    adapt(tiny(folder, **settings, save_every=4))


def test_a_run_that_began_before_the_settings_were_nested_goes_on(folder, monkeypatch):
    monkeypatch.chdir(folder)
    began = folder / "run" / "state" / "run.json"
    began.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "data/settings/adapt_run.json", began)
    settings = files.read_json(began)["config"]
    values = {name: value for name, value in settings.items() if name != "processes"}
    given = values | {"out": "run", "workers": 0, "save_every": 2}
    with pytest.raises(ValueError, match=r"other settings \(noise_samples\)"):
        adapt(AdaptConfig.from_flat(given | {"noise_samples": 1}))
    adapt(AdaptConfig.from_flat(given))
    assert files.read_json(folder / "run" / "state" / "state.json")["config"] == settings
    assert files.read_json(folder / "run" / "policy.json")["training"]["settings"] == settings


@needs_fork
def test_another_process_s_run_is_left_alone(folder):
    config = tiny(folder, encoder="none", cameras=())
    with (
        inside(lambda: locks.held(config.out)),
        pytest.raises(locks.InUse, match=r"run is in use by another run \(pid"),
    ):
        adapt(config)
    tiny_head().save_pretrained(config.out)
    card = (config.out / "README.md").read_text()
    with pytest.raises(ValueError, match="holds a finished head whose settings are not known"):
        adapt(config)
    assert (config.out / "README.md").read_text() == card


def test_cut_at_any_write_the_next_run_completes_it(folder, monkeypatch):
    """A run that was cut while writing any of its files is completed by the next call."""
    settings = {"encoder": "none", "cameras": (), "mode": "random-frozen", "checkpoints": 2}
    replace, calls = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append(paths) or replace(*paths))
    whole, out = weights(adapt(tiny(folder, out=folder / "whole", **settings))), folder / "run"
    expected = {str(path.relative_to(folder / "whole")) for path in (folder / "whole").rglob("*.[jsm]*")}
    assert "checkpoints/step-3/head/config.json" in expected
    for cut in range(0, len(calls), 3):
        with killed_at_write(cut):
            adapt(tiny(folder, **settings))
        (out / ".policy.json.0123abcd.tmp").touch()
        again = adapt(tiny(folder, **settings))
        assert all(torch.equal(tensor, whole[name]) for name, tensor in again.state_dict().items()), cut
        assert {str(path.relative_to(out)) for path in out.rglob("*.[jsmt]*") if "events" not in path.name} == expected
        shutil.rmtree(out)


def test_module_is_the_subcommand(folder, monkeypatch):
    given = ["--data", f"robomimic:{folder / 'demos.hdf5'}", "--head", str(folder / "head"), "--out", str(folder / "r")]
    flags = ["--encoder", "none", "--state", "position", "fingers", "--steps", "2", "--batch-size", "4", "--workers"]
    monkeypatch.setattr(sys, "argv", ["action_heads/adapt/__main__.py", *given, *flags, "0"])
    runpy.run_module("action_heads.adapt", run_name="__main__")
    assert files.read_json(folder / "r" / "results.json")["command"].startswith("action-heads adapt --data robomimic:")


@pytest.mark.slow
def test_two_processes(folder, vit):
    """Two processes share the batches, agree, and give the same bits when repeated. One process is another run."""

    def launch(out: str, steps: int) -> str:
        command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "action_heads.adapt"]
        given = ["--data", f"robomimic:{folder / 'demos.hdf5'}", "--head", str(folder / "head"), "--encoder", vit]
        given += ["--cameras", "agentview", "--state", "position", "--steps", str(steps), "--save-every", "3"]
        given += ["--schedule", "constant", "--batch-size", "8", "--precision", "fp32", "--out", str(folder / out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [sys.executable, "-m", *command, *given], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    said = launch("whole", 6)
    assert "2 processes" in said
    assert said.count("training loss") == 1, "only the main process prints"
    first = ObservedPolicy.from_pretrained(folder / "whole")
    launch("again", 6)
    again = ObservedPolicy.from_pretrained(folder / "again")
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(again).values(), strict=True))
    with pytest.raises(ValueError, match=r"other settings \(.*processes"):
        Trainer(tiny(folder, encoder=vit, out=folder / "whole"))
