"""The loop over runs, with arrays instead of recordings and the simulator."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from action_heads_lab.reproduce import families, grid, heads, results, states
from action_heads_lab.reproduce import run as module
from action_heads_lab.reproduce.config import RUN_MODES, Place, Run
from action_heads_lab.reproduce.costs import Costs, preparing
from action_heads_lab.reproduce.grid import Reproduce, estimate, reproduce, runs
from action_heads_lab.reproduce.heads import pretrained, stage1
from action_heads_lab.reproduce.run import perform
from action_heads_lab.reproduce.states import build
from action_heads_lab.sim.rollout import Rollouts
from forked import inside
from made_up import result
from small import tiny_head

from action_heads.io import locks
from action_heads.modes import taken_of
from action_heads.pretrain.trainer import Trainer

OBSERVATION = 5


class Arrays(families.Family):
    """A family with random motion instead of recordings."""

    def samples(self, run, place, horizon):
        g = torch.Generator().manual_seed(0)
        actions = torch.rand(40, horizon, 10, generator=g) - 0.5
        return torch.randn(40, 2 * OBSERVATION, generator=g), actions, torch.zeros(40, horizon, dtype=torch.bool)

    def versions(self):
        return {}


@pytest.fixture
def rolled(monkeypatch):
    """Record the blocks of a fake rollout: (seeds, answer of the policy)."""
    calls = []

    def rollout(task, policy, seeds, **_):
        answer = policy(np.random.default_rng(seeds[0]).normal(size=(3, 2 * OBSERVATION)).astype(np.float32))
        calls.append((seeds, answer))
        n = len(seeds)
        return Rollouts(task, answer.mean() + np.arange(n) % 2 > 0.5, np.full(n, 30), np.array(seeds), 0.1, 1.0)

    monkeypatch.setattr(module, "rollout", rollout)
    monkeypatch.setitem(families.FAMILIES, "robosuite", Arrays())
    return calls


@pytest.fixture
def head(tmp_path):
    return str(tiny_head().save_pretrained(tmp_path / "head"))


def place(tmp_path, name="a") -> Place:
    return Place(results=tmp_path / name / "results", work=tmp_path / name / "work")


def test_a_finished_run_is_read_back(tmp_path, head, rolled):
    run = Run(head=head, steps=3, episodes=30)
    first = perform(run, place(tmp_path))
    assert len(first.episodes) == 30
    assert len(rolled) == 2
    assert perform(run, place(tmp_path)) == first
    assert len(rolled) == 2
    assert results.load_all(tmp_path / "a" / "results") == [first]


def recorded(at: Place, run: Run, content: str) -> Path:
    """Write what stands for a run's recording, and return its path."""
    path = families.FAMILIES["robosuite"].recording_path(run.task, run, at.work)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_a_finished_run_of_another_recording_is_refused(tmp_path, head, rolled):
    run, at = Run(head=head, steps=3, episodes=25), place(tmp_path)
    recorded(at, run, "one")
    done = perform(run, at)
    assert list(done.inputs) == ["Lift-100.npz"]
    assert perform(run, at) == results.load_all(at.results)[0] == done
    path = recorded(at, run, "two")
    options = Reproduce(task="Lift", head=head, steps=3, episodes=25, seeds="0", work=at.work, out=at.results)
    for again in (lambda: perform(run, at), lambda: reproduce(options, "robosuite")):
        with pytest.raises(ValueError, match=r"Lift-mlp-.*other contents of Lift-100\.npz.*another --out"):
            again()
    path.unlink()  # nothing is there to compare with
    assert perform(run, at) == done
    recorded(at, run, "two")
    results.save(replace(done, inputs={}), next(at.results.iterdir()))  # as of an older release
    assert perform(run, at).inputs == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_begun_run_of_another_recording_is_refused(known, tmp_path, head, rolled, monkeypatch):
    run, at = Run(head=head, steps=3, episodes=25), place(tmp_path)
    recorded(at, run, "one")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, "rollout", killed)
        with pytest.raises(KeyboardInterrupt):
            perform(run, at)
    recorded(at, run, "two")
    if known:
        with pytest.raises(ValueError, match=r"progress\.json .*other contents of Lift-100\.npz.*or delete .*runs"):
            perform(run, at)
        return
    (path,) = at.work.glob("runs/*/progress.json")
    begun = results.Progress.load(path)
    begun.inputs.clear()  # as of an older release, which goes on and has the hash from then on
    begun.save()
    assert list(perform(run, at).inputs) == ["Lift-100.npz"]


def test_a_run_on_other_assets_is_another_run(tmp_path, head, rolled, monkeypatch):
    at, family = place(tmp_path), families.FAMILIES["robosuite"]
    options = Reproduce(task="Lift", head=head, steps=3, episodes=25, seeds="0", work=at.work, out=at.results)
    for now, blocks in (("official", 1), ("official", 1), ("0a1b2c3d", 2)):
        monkeypatch.setattr(family, "installed", lambda now=now: now)
        reproduce(options, "robosuite")
        assert len(rolled) == blocks
    (one,), (other,) = (
        [r for r in results.load_all(at.results) if r.run.assets == name] for name in ("official", "0a1b2c3d")
    )
    assert one.id != other.id
    with pytest.raises(ValueError, match=r"has the assets 'mine', .* installed are '0a1b2c3d'.*assets='0a1b2c3d'"):
        perform(replace(one.run, assets="mine"), at)
    assert perform(one.run, at) == one, "a finished run is read, whatever is installed"


def test_of_two_at_once_one_is_refused(tmp_path, head, rolled):
    run, at = Run(head=head, steps=3, episodes=30), place(tmp_path)
    folder = at.work / "runs" / run.identity(taken_of(pretrained(run, at), run.uses_pretraining))
    with inside(lambda: locks.held(folder)), pytest.raises(locks.InUse, match="leave this run to it: --share"):
        perform(run, at)
    assert not rolled
    perform(run, at)
    with inside(lambda: locks.held(folder)):
        assert len(perform(run, at).episodes) == 30, "a finished run is loaded"


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, head, rolled, monkeypatch):
    run = Run(head=head, steps=3, episodes=60, mode="normal")
    whole = perform(run, place(tmp_path, "whole"))
    real, blocks = module.rollout, []

    def killed(*args, **kwargs):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "rollout", killed)
    with pytest.raises(KeyboardInterrupt):
        perform(run, place(tmp_path, "killed"))
    monkeypatch.setattr(module, "rollout", real)
    monkeypatch.setattr(states, "fit", None)  # it is trained already
    before = len(rolled)
    resumed = perform(run, place(tmp_path, "killed"))
    assert len(rolled) == before + 1
    assert resumed.episodes == whole.episodes
    assert resumed.losses == whole.losses


def test_every_checkpoint_is_rolled_out_from_the_same_starts(tmp_path, head, rolled):
    run = Run(head=head, steps=7, episodes=30, checkpoints=3)
    several, last = perform(run, place(tmp_path)), perform(replace(run, checkpoints=1), place(tmp_path, "last"))
    assert several.earlier.keys() == {2, 4}
    assert several.episodes == last.episodes, "the last policy does not depend on the number of checkpoints"
    assert several.id != last.id
    starts = [[episode.seed for episode in part] for part in (several.episodes, *several.earlier.values())]
    assert starts[0] == starts[1] == starts[2]
    answers = [answer for seeds, answer in rolled[:6] if seeds == rolled[0][0]]
    assert len(answers) == 3
    assert not np.allclose(answers[0], answers[1]), "the policies of two checkpoints differ"
    assert several.best == max(sum(e.success for e in part) for part in (several.episodes, *several.earlier.values()))
    assert results.load_all(tmp_path / "a" / "results") == [several]


@pytest.mark.parametrize(
    ("steps", "checkpoints", "expected"), [(7, 3, [2, 4, 7]), (10, 1, [10]), (2, 5, [1, 2]), (1, 4, [1])]
)
def test_checkpoints_are_even_and_end_with_the_last_step(steps, checkpoints, expected):
    assert Run(steps=steps, checkpoints=checkpoints).checkpoint_steps == expected


def test_a_run_of_an_older_release_keeps_its_name():
    settings = asdict(Run())
    del settings["checkpoints"]
    assert Run.from_dict(settings) == Run()
    assert Run().identity("head") == Run(checkpoints=1).identity("head") != Run(checkpoints=2).identity("head")


def test_modes_start_where_they_should(tmp_path, head):
    from action_heads import ActionHead

    pretrained = ActionHead.from_pretrained(head)
    cond, actions, _ = Arrays().samples(Run(), tmp_path, pretrained.config.horizon)
    policies = {mode: build(Run(mode=mode), pretrained, cond, actions).policy for mode in RUN_MODES}
    assert policies["decoupled"].head is policies["blind"].head is pretrained
    assert policies["random-frozen"].head.fingerprint() != pretrained.fingerprint()
    assert policies["random-frozen"].num_trainable == policies["decoupled"].num_trainable
    assert policies["normal"].num_frozen == 0
    reading = [policy.adapter.read[0].weight for policy in policies.values()]
    assert all(torch.equal(reading[0], other) for other in reading[1:]), "all modes start with the same weights"


def test_controls_do_not_depend_on_the_pretrained_weights(tmp_path):
    one, other = tiny_head(), tiny_head(seed=1)
    for mode, alike in (("decoupled", False), ("blind", False), ("normal", True), ("random-frozen", True)):
        uses = Run(mode=mode).uses_pretraining
        assert (taken_of(one, uses) == taken_of(other, uses)) == alike


@pytest.mark.parametrize("mode", RUN_MODES)
def test_blind_sees_nothing_and_every_other_mode_the_state(mode):
    """A blind run has a condition of zeros, and every other mode the state, with statistics of the condition."""
    state, actions, _ = Arrays().samples(Run(), None, 16)
    policy = build(Run(mode=mode), tiny_head(), state, actions)
    cond = policy.condition(state=state[:, None])
    assert torch.equal(cond, torch.zeros_like(state) if mode == "blind" else state)
    assert torch.equal(policy.policy.adapter.standard.mean, cond.mean(0))


def test_modes_of_a_seed_share_their_starts_and_seeds_do_not():
    def starts(**changes):
        return families.Family().evaluations(Run(**changes))[0][1]

    assert starts() == starts(mode="normal", backbone="mixer")
    assert len(set(starts()) & set(starts(seed=42))) < 5, "two draws of 50 of 10,000 share hardly any"
    assert max(starts(seed=420)) < 10_000, "recordings begin there"


def test_the_grid_and_its_shares():
    everything = runs(Reproduce(all=True), "robosuite")
    assert len(everything) == len(set(everything)) == 8 * 2 * 3 * 3 + 8 * 2
    shares = [everything[i::3] for i in range(3)]
    assert sorted(map(str, everything)) == sorted(str(run) for share in shares for run in share)
    assert {run.seed for run in everything[:56]} == {0}, "seed by seed"
    only = runs(Reproduce(task="Lift", mode="normal", seeds="1", steps=7, demos=3), "robosuite")
    assert only == [replace(everything[0], mode="normal", seed=1, steps=7, demos=3, relearn_step=False)]


def test_lists_have_spaces_and_repetitions():
    plain = runs(Reproduce(task="Lift,Stack", mode="decoupled,normal", backbone="mlp,mixer", seeds="0,42"), "robosuite")
    options = Reproduce(task="Lift, Stack,Lift", mode="decoupled, normal", backbone="mlp ,mixer", seeds="0, 0,42,00")
    assert runs(options, "robosuite") == plain
    assert len(plain) == 16


@pytest.mark.parametrize(("family", "most"), [("robosuite", 10_000), ("libero", 50)])
def test_no_more_episodes_than_starts(family, most):
    """On LIBERO, episodes behind the init states would start as demonstrations do."""
    assert runs(Reproduce(all=True, episodes=most), family)
    with pytest.raises(
        ValueError, match=rf"{most + 1} episodes of .* are more than its {most} .*Choose at most {most}"
    ):
        runs(Reproduce(all=True, episodes=most + 1), family)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "dae/mixer-5m-fk"}, "dae/mixer-5m-fk is a mixer, but the run is of a mlp. Choose --backbone mixer"),
        ({"head": "dae/mlp-5m-fk-delta"}, "predicts delta actions, but the demonstrations have absolute ones"),
        ({"head": "dae/mlp-5m-fk", "execute": 17}, "predicts 16 time steps, but the rollouts execute 17"),
    ],
)
@pytest.mark.parametrize("mode", RUN_MODES)
def test_a_named_head_must_be_that_of_the_run(changes, message, mode, tmp_path, rolled, monkeypatch):
    monkeypatch.setattr(Arrays, "samples", None)  # nothing is recorded
    with pytest.raises(ValueError, match=message):
        perform(Run(mode=mode, **changes), place(tmp_path))
    assert not rolled


@pytest.mark.parametrize("mode", ["normal", "random-frozen"])
def test_a_control_does_not_start_stage_1_and_is_the_run_that_it_would_be_after_it(mode, tmp_path, rolled, monkeypatch):
    monkeypatch.setitem(heads.SHAPES["small"], "mlp", (16, 1))
    monkeypatch.setattr(heads, "pretrain", lambda *_: pytest.fail("Stage 1 was started"))
    run = Run(mode=mode, steps=2, episodes=25)
    done = perform(run, place(tmp_path))
    after = Trainer(stage1(run, tmp_path / "a" / "work")).head  # its shape and statistics do not change in training
    assert done.id == run.identity(taken_of(after, pretrained=False))
    assert done.head["name"] == after.config.name
    with pytest.raises(pytest.fail.Exception, match="Stage 1 was started"):
        perform(replace(run, mode="decoupled"), place(tmp_path))


def test_the_bundled_head_has_one_name(tmp_path):
    for backbone in ("mlp", "mixer"):
        by_size, by_name = (
            runs(Reproduce(task="Lift", backbone=backbone, mode="decoupled,normal", head=head), "robosuite")
            for head in ("paper", f"dae/{backbone}-5m-fk")
        )
        assert by_size == by_name
    (other,) = runs(Reproduce(task="Lift", seeds="0", head="dae/mlp-0.7m-fk"), "robosuite")
    assert other.head == "dae/mlp-0.7m-fk"


def test_controls_of_another_signal_are_listed_as_finished(tmp_path, monkeypatch, capsys):
    """Before heads had one name for controls, results were saved under the signal that they were started with."""
    run, at = Run(mode="normal", signal="none", episodes=4), Place(results=tmp_path / "r", work=tmp_path / "w")
    config, head = stage1(run, at.work), tiny_head().freeze()
    assert config
    config.folder.mkdir(parents=True)
    (config.folder / "golden.safetensors").touch()
    monkeypatch.setattr(grid.heads, "pretrained", lambda *_: head)
    named = {"name": "mlp-128x4-00000000", "frozen": 1, "trainable": 1, "fingerprint": None}
    done = replace(result(run), head=named, id=run.identity(taken_of(head, False)))
    results.save(done, results.path_of(at.results, run, done.id))
    options = Reproduce(task="Lift", mode="normal", seeds="0", steps=1000, episodes=4, out=at.results, work=at.work)
    for signal in ("pose", "joints", "none"):
        reproduce(replace(options, signal=signal, dry_run=True), "robosuite")
        assert "1 runs, 1 of them already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "workers", "expected"), [("0/1", None, 8), ("1/3", None, 2), ("0/9", None, 1), ("1/3", 5, 5)]
)
def test_processes_of_simulation_fill_the_cores(share, workers, expected, monkeypatch, tmp_path):
    used = []
    monkeypatch.setattr(grid, "cores", lambda: 8)
    monkeypatch.setattr(grid, "_is_finished", lambda run, place: False)
    monkeypatch.setattr(grid, "perform", lambda run, place: used.append(place.workers))
    reproduce(Reproduce(all=True, share=share, workers=workers, out=tmp_path), "robosuite")
    assert set(used) == {expected}


@pytest.mark.parametrize("study", ["table-2", "table-3", "table-4", "figure-3"])
def test_studies_are_runs(study, tmp_path):
    found = runs(Reproduce(task="Lift", study=study, seeds="0"), "robosuite")
    assert len(found) == len(set(found))
    assert {"decoupled", "random-frozen"} <= {run.mode for run in found}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "Name one with --task"),
        ({"all": True, "recipe": "mine"}, "choose one of paper, code, both"),
        *(
            ({"all": True, "share": share}, "share is PART/PARTS with .* counted from 0")
            for share in ("2/2", "1", "a/b")
        ),
        *(({"all": True, "seeds": seeds}, "seeds must be numbers") for seeds in ("a", "", "0,,1", "-1", "0 1")),
        ({"all": True, "mode": "blind"}, "mode is 'blind', which has no effect: --all says"),
        ({"all": True, "study": "table-3", "backbone": "unet"}, "backbone is 'unet', .* --study table-3 says"),
        ({"all": True, "study": "table-9"}, "choose one of table-2"),
        (
            {"all": True, "study": "table-2", "recipe": "code"},
            "recipe is 'code', .* --study table-2 says which adapter",
        ),
        ({"all": True, "study": "table-2", "signal": "pose"}, "signal is 'pose', .* --study table-2 decides it"),
        ({"all": True, "study": "table-3", "stage1": "own"}, "stage1 is 'own', .* --study table-3 decides it"),
        ({"all": True, "study": "table-4", "signal": "pose"}, "signal is 'pose', .* --study table-4 decides it"),
        ({"all": True, "study": "table-2", "head": "dae/mixer-5m-fk"}, "differ in backbone and signal, .* is one head"),
        (
            {"all": True, "study": "table-3", "head": "dae/mlp-5m-fk"},
            "differ in stage1, .* Choose --head small or paper",
        ),
        ({"all": True, "head": "dae/mlp-5m-fk", "signal": "none"}, "signal is 'none', .* is pretrained already"),
        ({"all": True, "head": "dae/mlp-5m-fk", "stage1": "own"}, "stage1 is 'own', .* is pretrained already"),
    ],
)
def test_errors_teach(wrong, message):
    with pytest.raises(ValueError, match=message):
        Reproduce(**wrong)


def test_costs_are_those_of_runs_that_are_alike(tmp_path, head, rolled):
    at = place(tmp_path)
    assert "a guess from published runs" in estimate([Run()], at)
    perform(Run(head=head, steps=2, episodes=4), at)
    assert "from finished runs" in estimate([Run(steps=9)], at)
    assert (
        estimate([Run(), Run(observation="image")], at) == "their cost is unknown, since no run on images has finished"
    )


def test_estimates_are_near_what_runs_took():
    """Estimates are within a factor of four of each published run from other tasks or no runs.

    They are within one of five from other families, whose published runs were on machines up to three times as fast.
    """
    found = results.load_all(Path(__file__).parents[2] / "results")
    for of, most in ((lambda one: one.run.task, 4), (lambda one: one.run.family, 5), (lambda one: None, 4)):
        costs = {of(one): Costs([other for other in found if of(one) and of(other) != of(one)]) for one in found}
        for one in found:
            assert 1 / most < costs[of(one)].seconds(one.run) / one.seconds["cpu"] < most, one


def test_a_short_trial_tells_what_a_whole_run_costs():
    """A trial with few training steps and episodes predicts the cost of a whole run."""
    whole = result(Run(steps=2000, episodes=50))
    trial = replace(whole.run, steps=20, episodes=5)
    seconds = {"training": 0.6, "policy": 1.0, "environment": 3.0, "cpu": 4.6}
    found = replace(result(trial), seconds=seconds)  # a hundredth of the training, a tenth of the rollouts
    assert Costs([found]).seconds(whole.run) == pytest.approx(60 + 40)
    assert Costs([found]).seconds(replace(whole.run, checkpoints=5)) == pytest.approx(60 + 200)


def test_what_is_not_recorded_or_pretrained_is_counted_once(tmp_path):
    left = [Run(mode=mode, seed=seed) for mode in ("decoupled", "normal") for seed in range(3)]
    one, control = preparing(left[:1], tmp_path), preparing(left[3:], tmp_path)
    assert preparing(left, tmp_path) == one > control > 0  # a control needs the recording, and no Stage 1
    assert preparing([*left, Run(task="Stack")], tmp_path) > one
    for place in ("recordings/Lift-100.npz", f"heads/{stage1(Run(), tmp_path).name}/golden.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert preparing(left, tmp_path) == 0


def test_finished_runs_are_finished_on_another_processor(tmp_path, monkeypatch, capsys):
    """A run is finished even if its head has other bits on this processor, or is not pretrained here."""
    run = Run(episodes=4)
    head = {"name": str(stage1(run, tmp_path / "w").name), "frozen": 1, "trainable": 1, "fingerprint": "of another"}
    done = replace(result(run, head="of another"), head=head)
    results.save(done, results.path_of(tmp_path / "r", run, done.id))
    monkeypatch.setattr(grid.heads, "pretrain", None)
    options = Reproduce(task="Lift", seeds="0", steps=1000, episodes=4, out=tmp_path / "r", work=tmp_path / "w")
    reproduce(replace(options, dry_run=True), "robosuite")
    assert "1 runs, 1 of them already finished" in capsys.readouterr().out
    reproduce(options, "robosuite")
    monkeypatch.setattr(module.heads, "pretrained", lambda *_: tiny_head().freeze())
    assert perform(run, Place(results=tmp_path / "r", work=tmp_path / "w")) == done


def test_runs_of_a_user_do_not_go_to_the_published_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    used = []
    monkeypatch.setattr(grid, "perform", lambda run, place: used.append(place.results))
    options = Reproduce(task="Lift", seeds="0")
    shutil.copytree(Path(__file__).parents[2] / "results/robosuite", tmp_path / "results/robosuite")
    reproduce(options, "robosuite")
    assert used == [Path("outputs/reproduce/results/robosuite")]
    assert "1 of the remaining runs are published in results/robosuite" in capsys.readouterr().out
    reproduce(replace(options, out=Path("results/robosuite")), "robosuite")
    assert len(used) == 1, "--out can choose the published results"


def test_reproduce_skips_what_is_finished(tmp_path, head, rolled, capsys):
    options = Reproduce(
        task="Lift,Stack",
        mode="decoupled,blind",
        seeds="0",
        head=head,
        steps=2,
        episodes=4,
        out=tmp_path / "r",
        work=tmp_path / "w",
    )
    reproduce(options, "robosuite")
    assert len(list((tmp_path / "r").glob("*.json"))) == 4
    reproduce(options, "robosuite")
    assert len(rolled) == 4
    assert "4 runs, 4 of them already finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"unknown task Juggle.*Lift, Stack"):
        reproduce(replace(options, task="Juggle"), "robosuite")
