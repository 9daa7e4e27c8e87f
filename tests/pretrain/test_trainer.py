"""The Stage 1 loop learns, resumes to the same bits, and refuses the state of another run."""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import torch
from killed import killed_at_step
from no_waiting import NoWaiting
from small import generator, tiny_head
from tiny import tiny

from action_heads import EE_DELTA, ActionHead
from action_heads.adapters import ADAPTERS, AdaLNZero
from action_heads.card import KEPT
from action_heads.diffusion.objectives import PREDICTIONS
from action_heads.fit import FitConfig, fit
from action_heads.io import files
from action_heads.pretrain import data
from action_heads.pretrain.batches import Batch
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.objective import SIGNALS
from action_heads.pretrain.speed import measure
from action_heads.pretrain.trainer import Stage1, Trainer
from action_heads.training import checkpoint

pytestmark = pytest.mark.usefixtures("no_picture")


@pytest.mark.parametrize("arch", ["mlp", "mixer", "transformer", "unet"])
@pytest.mark.parametrize("signal", ["joints", "pose", "none"])
def test_finished_head_is_complete(tmp_path, arch, signal):
    head = pretrain(tiny(tmp_path, arch=arch, signal=signal), command="action-heads pretrain ...")
    assert head.frozen
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "README.md", "curves.json"}
    loaded = ActionHead.from_pretrained(tmp_path)
    assert loaded.config.training["command"] == "action-heads pretrain ..."
    assert loaded.config.training["chunks"] == 96
    for name in loaded.config.mechanisms:
        loaded.attach(ADAPTERS[name](3)).sample(torch.zeros(1, 3), steps=2)


@pytest.mark.parametrize(("arch", "signal"), [("mlp", "code"), ("mixer", "code"), ("unet", "none"), ("mlp", "joints")])
def test_a_training_step_waits_for_nothing(tmp_path, arch, signal):
    """Loss, gradient, clipping, optimizer and average of every mechanism, with prefixes where time is mixed."""
    trainer = Trainer(tiny(tmp_path, arch=arch, signal=signal))
    turns = 2 * len(trainer.head.config.mechanisms)
    batch = trainer.draw(0)
    for _ in range(turns):  # The first step of a mechanism allocates the optimizer's state.
        trainer.train_step(batch)
    for _ in range(turns):
        with NoWaiting():
            trainer.train_step(batch)


@pytest.mark.parametrize("graph", [False, True])
def test_a_trainer_is_freed_with_its_last_reference(tmp_path, graph):
    """A cycle would keep its corpus open, and its memory, until the garbage collector runs."""
    trainer = Trainer(tiny(tmp_path, graph=graph))
    trainer.train_step(trainer.draw(0))
    parts = [weakref.ref(part) for part in (trainer, trainer.head, trainer.optimizer)]
    gc.disable()
    try:
        del trainer
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("signal", SIGNALS)
def test_token_mechanisms_train_what_reads_the_tokens(tmp_path, signal):
    """Projections of cross-attention move in Stage 1, and are frozen, saved and loaded with the head."""
    settings = tiny(tmp_path, arch="transformer", signal=signal, mechanisms=("cross_attention", "prefix"))
    trainer = Trainer(settings)
    layers = trainer.head.modulation_of("cross_attention").layers.state_dict()
    before = {name: tensor.clone() for name, tensor in layers.items()}
    trainer.train_step(trainer.draw(trainer.step))  # the mechanisms take turns, and it is the first one's
    assert not any(torch.equal(before[name], tensor) for name, tensor in layers.items())
    head = pretrain(settings)
    weights = head.state_dict()
    loaded = ActionHead.from_pretrained(tmp_path)
    assert loaded.fingerprint() == head.fingerprint()
    for name in settings.mechanisms:
        policy = loaded.attach(ADAPTERS[name](3))
        fitted = fit(policy, torch.zeros(8, 16, 10), torch.randn(8, 3), config=FitConfig(steps=2, batch_size=4))
        assert all(loss < 10 for loss in fitted)
        again = loaded.load_adapter(policy.save_adapter(tmp_path / name))
        samples = [p.sample(torch.ones(2, 3), steps=2, generator=generator()) for p in (policy, again)]
        assert torch.equal(*samples)
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.state_dict().items())


def test_loss_falls(tmp_path):
    trainer = Trainer(tiny(tmp_path, steps=150, batch_size=32, warmup=5))
    first = trainer.evaluate(3)
    for _ in range(150):
        trainer.train_step(trainer.draw(trainer.step))
    assert trainer.evaluate(3) < 0.7 * first


@pytest.mark.parametrize(
    ("arch", "schedule"), [("mlp", "cosine"), ("mlp", "constant"), ("mixer", "cosine"), ("unet", "cosine")]
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, arch, schedule, monkeypatch):
    monkeypatch.setattr(checkpoint, "POINT_EVERY", 3)
    whole = pretrain(tiny(tmp_path / "whole", arch=arch, schedule=schedule))
    with killed_at_step(Trainer, 9):
        pretrain(tiny(tmp_path / "cut", arch=arch, schedule=schedule))
    resumed = pretrain(tiny(tmp_path / "cut", arch=arch, schedule=schedule))
    assert resumed.fingerprint() == whole.fingerprint()
    curves = [files.read_json(tmp_path / run / "curves.json") for run in ("whole", "cut")]
    assert curves[0] == curves[1]
    assert [len(curve) for curve in curves[0].values()] == [4, 2]


def test_resumes_where_some_parameter_never_had_a_gradient(tmp_path):
    """A run resumes if some parameter has never had a gradient, such as the bias of norms when only RMS is used."""
    settings = tiny(tmp_path, mechanisms=("adarmsnorm",))
    pretrain(settings)
    trainer = Trainer(settings)
    checkpoint.resume(trainer, tmp_path / "state")
    assert trainer.step == 12


def test_a_finished_run_may_be_moved_and_finished_again(tmp_path):
    first = pretrain(tiny(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert pretrain(tiny(tmp_path / "b")).fingerprint() == first.fingerprint()


def test_state_of_other_settings_is_refused(tmp_path):
    pretrain(tiny(tmp_path))
    with pytest.raises(ValueError, match=r"other settings \(lr, seed\)"):
        pretrain(tiny(tmp_path, lr=0.5, seed=3))


def test_a_finished_head_of_other_settings_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    first = pretrain(tiny(tmp_path))
    shutil.rmtree(tmp_path / "state")
    settled = pretrain(tiny(tmp_path))  # the same settings make the same head again
    assert settled.fingerprint() == first.fingerprint()
    shutil.rmtree(tmp_path / "state")
    monkeypatch.setattr(data, "Mixture", lambda *_: pytest.fail("the data was opened"))
    with pytest.raises(ValueError, match=r"holds a finished head made with other settings \(lr, seed\).*another --out"):
        pretrain(tiny(tmp_path, lr=0.5, seed=3))
    tiny_head().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="a finished head whose settings are not known"):
        pretrain(tiny(tmp_path / "other"))
    assert ActionHead.from_pretrained(tmp_path).fingerprint() == first.fingerprint()


def test_the_card_is_of_this_run_and_keeps_the_user_s_part(tmp_path):
    """The card describes this run, not an earlier one in the folder, and keeps the text that the user added."""
    pretrain(tiny(tmp_path), command="action-heads pretrain --first")
    card = tmp_path / "README.md"
    card.write_text(card.read_text() + "Thanks to the lab.\n")
    (tmp_path / "evaluation.json").write_text('{"fingerprint": "of weights that are gone"}')
    again = tiny(tmp_path, licence="cc-by-4.0", credit=("synthetic:panda=three labs",), name="test/renamed")
    head = pretrain(again, command="action-heads pretrain --second")
    assert head.config.training["licence"] == "cc-by-4.0"
    assert head.config.training["credits"] == {"synthetic:panda": "three labs"}
    text = card.read_text()
    assert "pretrain --second" in text
    assert "pretrain --first" not in text
    assert "license: cc-by-4.0" in text
    assert "- `synthetic:panda`: three labs" in text
    assert "# test/renamed" in text
    assert "](curves.png)" not in text  # these tests draw none
    assert text.endswith(KEPT + "Thanks to the lab.\n")


def test_a_source_that_would_never_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"recorded:panda@2 would never be drawn.*the 8 chunks that a process draws"):
        Trainer(tiny(tmp_path, data=("synthetic:panda@98", "recorded:panda@2")))


def test_seed_decides(tmp_path):
    heads = [pretrain(tiny(tmp_path / f"{i}", seed=seed)) for i, seed in enumerate((0, 0, 1))]
    assert heads[0].fingerprint() == heads[1].fingerprint() != heads[2].fingerprint()


def test_mixed_noise_levels_have_clean_prefixes(tmp_path):
    from action_heads.pretrain.objective import noise_levels

    head = Trainer(tiny(tmp_path, arch="mixer")).head
    t, clean = noise_levels(head, 256, mixed=True, generator=generator(), levels="uniform", per_step=True)
    assert t.shape == clean.shape == (256, 16)
    assert (clean.long().diff(dim=1) <= 0).all()  # a prefix: once noisy, noisy to the end
    assert not clean[:, -1].any()
    assert (t[clean] == 0).all()
    own = (t[:, -1:] != t)[~clean].float().mean()
    assert 0.2 < own < 0.8  # some chunks share one level, some do not


def test_steps_that_share_a_level_have_clean_prefixes_too(tmp_path, monkeypatch):
    """Time steps that share a level may have a clean prefix, which the network sees clean and which has no loss."""
    from action_heads.pretrain import objective

    head = tiny_head("unet")
    t, clean = objective.noise_levels(head, 256, mixed=True, generator=generator(), levels="uniform", per_step=False)
    assert t.shape == (256, 1)
    assert clean.shape == (256, 16)
    assert (clean.long().diff(dim=1) <= 0).all()
    assert 0.3 < clean.float().mean() < 0.6
    stage, x0, seen = Stage1(head, "none", 1, "uniform"), torch.rand(64, 16, 10) * 2 - 1, []
    predict = head.predict
    monkeypatch.setattr(head, "predict", lambda *given: seen.append((given[0], predict(*given))) or seen[-1][1])
    losses = [stage(Batch(x0, None), stage.variant(step), generator(step)) for step in (0, 1)]
    _, clean = objective.noise_levels(head, 64, mixed=True, generator=generator(1), levels="uniform", per_step=False)
    (plain, _), (x, output) = seen
    assert not (plain == x0).any()
    assert torch.equal((x == x0).all(-1), clean)
    torch.testing.assert_close(losses[1], (output - x0).square().mean(-1)[~clean].mean())


@pytest.mark.parametrize("mixed", [False, True])
def test_levels_are_an_option(tmp_path, mixed):
    from action_heads.pretrain.objective import noise_levels

    trainer = Trainer(tiny(tmp_path, levels="last"))
    assert trainer.stage.levels == "last"
    t, clean = noise_levels(trainer.head, 256, mixed, generator(), levels="last", per_step=True)
    assert (t[~clean] == 99).all()
    assert (t[clean] == 0).all()


def test_head_takes_an_adapter_of_its_mechanism_only(tmp_path):
    head = pretrain(tiny(tmp_path, mechanisms=("film",)))
    with pytest.raises(ValueError, match="pretrained for film"):
        head.attach(AdaLNZero(3))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_trains(tmp_path, prediction):
    trainer = Trainer(tiny(tmp_path, prediction=prediction, arch="mixer"))
    losses = [trainer.train_step(trainer.draw(trainer.step)).item() for _ in range(3)]
    assert all(0 < loss < 5 for loss in losses)


def test_delta_heads_train_save_and_load(tmp_path):
    made = pretrain(tiny(tmp_path, action="delta"))
    loaded = ActionHead.from_pretrained(tmp_path)
    assert loaded.config.space == made.config.space == EE_DELTA
    assert loaded.fingerprint() == made.fingerprint()
    deltas = loaded.normalizer.scale[:3]  # metres a step, not the reach of the arm
    assert deltas.max() < 0.5


def test_how_often_is_saved_changes_nothing(tmp_path):
    made = {pretrain(tiny(tmp_path / f"{n}", save_every=n)).fingerprint() for n in (2, 12)}
    assert len(made) == 1


def test_workers_change_nothing(tmp_path):
    made = {pretrain(tiny(tmp_path / f"{n}", workers=n)).fingerprint() for n in (1, 3)}
    trainer = Trainer(tiny(tmp_path / "none"))
    for _ in range(12):
        trainer.train_step(trainer.draw(trainer.step))
    trainer.ema.copy_to_model()
    trainer.head.save_pretrained(tmp_path / "none", dtype=torch.bfloat16)
    assert made == {ActionHead.from_pretrained(tmp_path / "none").fingerprint()}


def test_bf16_differs_a_little(tmp_path):
    """Losses in bf16 and fp32 differ a little in one process, although accelerate's precision is a singleton."""
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(tiny(tmp_path, precision=precision))
        losses.append([trainer.train_step(trainer.draw(trainer.step)).item() for _ in range(5)])
        assert all(p.dtype == torch.float32 for p in trainer.parameters)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_auto_stays_what_it_was_when_the_run_began(tmp_path, monkeypatch):
    """A resumed run keeps its precision `auto`, although the measurement behind it may come out otherwise on a CPU."""
    from action_heads.training import accelerator as module

    for answer in (True, False):
        monkeypatch.setattr(module, "bfloat16_is_faster", lambda device, answer=answer: answer)
        made = pretrain(tiny(tmp_path, precision="auto"))
        assert made.config.training["machine"] == "bf16 on cpu"


def test_record_tells_speeds(tmp_path):
    speeds = pretrain(tiny(tmp_path)).config.training["chunks_per_second"]
    assert speeds.keys() == {"training", "step_alone", "source_alone"}
    assert all(value > 0 for value in speeds.values())


def test_measuring_speed_takes_its_steps_back(tmp_path):
    trainer = Trainer(tiny(tmp_path))
    trainer.train_step(trainer.draw(trainer.step))
    before = {name: tensor.clone() for name, tensor in trainer.state_dict().items()}
    measure(trainer)
    after = trainer.state_dict()
    assert trainer.step == trainer.ema.updates == 1
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_joints_are_asked_of_a_source_without_them(tmp_path, monkeypatch):
    class PosesOnly(data.Mixture):
        def __call__(self, n, generator):
            return super().__call__(n, generator)._replace(joints=None)

    monkeypatch.setattr(data, "Mixture", PosesOnly)
    with pytest.raises(ValueError, match="--signal code"):
        Trainer(tiny(tmp_path, signal="joints"))
    trainer = Trainer(tiny(tmp_path, signal="code"))
    trainer.train_step(trainer.draw(0))


def test_a_run_may_go_on_from_a_head(tmp_path):
    """The weights and the normalizer are those of the first head; only its name and record are the run's."""
    first = pretrain(tiny(tmp_path / "first"))
    again = Trainer(
        tiny(tmp_path / "again", name="test/again", init=str(tmp_path / "first"), data=("synthetic:droid",))
    )
    assert again.head.fingerprint() == first.fingerprint()
    assert again.settings()["init"] == str(tmp_path / "first")
    assert "init" not in Trainer(tiny(tmp_path / "other")).settings()
    head = pretrain(again.config)
    assert head.config.name == "test/again"
    assert head.fingerprint() != first.fingerprint()
    with pytest.raises(ValueError, match="has depth 2, but this run makes a head with depth 3"):
        Trainer(tiny(tmp_path / "deeper", depth=3, init=str(tmp_path / "first")))
