import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from action_heads_lab.reproduce import results
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.results import Episode
from made_up import result


def test_round_trip_and_rates(tmp_path):
    one = result(Run(episodes=6))
    path = results.path_of(tmp_path / "robosuite", one.run, one.id)
    results.save(one, path)
    assert results.load(path) == one
    assert results.load_all(tmp_path) == [one]
    assert one.successes == 3
    assert one.policy_share == pytest.approx(0.25)
    assert one.env_steps_per_second == pytest.approx(6 * 40 / 30)
    assert json.loads(path.read_text())["rates"]["policy_share"] == 0.25


def test_what_an_unfinished_run_has_done_is_kept(tmp_path):
    done = {600: [Episode("Lift", 3, True, 40, "a.mp4"), Episode("Lift", 5, False, 120)], 300: []}
    progress = results.Progress(tmp_path / "p.json", {"training": 1.5}, [0.1], done).save()
    assert results.Progress.load(tmp_path / "p.json") == progress


def test_foreign_files_are_refused(tmp_path):
    one = result(Run(episodes=2))
    path = tmp_path / "run.json"
    results.save(one, path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        results.load(path)
    del record["run"]["lr"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"run\.json is not the result of a run.*lacks \['lr'\]"):
        results.load(path)
    with pytest.raises(FileNotFoundError, match="writes outputs/reproduce/results/robosuite"):
        results.load_all(tmp_path / "nowhere")


def test_the_folder_of_all_work_is_not_that_of_results(tmp_path):
    one = result(Run(episodes=2))
    results.save(one, results.path_of(tmp_path / "results" / "robosuite", one.run, one.id))
    assert results.load_all(tmp_path) == [one]
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "progress.json").write_text("{}")
    with pytest.raises(ValueError, match=r"works in, with more than results. Give .*/results$"):
        results.load_all(tmp_path)
    assert results.load_all(tmp_path / "results") == [one]


PUBLISHED = Path(__file__).parents[2] / "results"


def broken(text: str, rng: random.Random) -> str:
    """Replace a value or key of a JSON text, or cut out a piece of it."""
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        return text[:at] + text[at + rng.randrange(1, 40) :]
    record = json.loads(text)
    place = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        others = [None, True, 3, -1, 1e400, "x", [], {}, [[1]], 10**30, "dae/mlp-5m-fk"]
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice(others)
        return json.dumps(record)


def test_damaged_results_raise_documented_errors_that_name_the_file(tmp_path):
    """A damaged result is refused, or loads as one that a report can show."""
    from action_heads_lab.reproduce.cells import tables
    from action_heads_lab.reproduce.costs import Costs
    from action_heads_lab.reproduce.markdown import cost, modes_table

    path, rng, refused = tmp_path / "damaged.json", random.Random(0), 0
    one = result(Run(episodes=4, checkpoints=2, steps=10))
    results.save(replace(one, earlier={5: one.episodes}), path)
    whole = path.read_text()
    for _ in range(150):
        path.write_text(broken(whole, rng))
        try:
            found = results.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            (table,) = tables([found])
            assert modes_table(table, [found.run.task], [found.run.backbone])
            assert cost([found])
            assert Costs([found]).seconds(one.run) >= 0
    assert refused > 75


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "3", "null", '"x"', "[" * 100_000, '{"a": ' * 100_000, "\x80", "1" * 9999]
)
def test_what_is_no_result_at_all_is_named(text, tmp_path):
    path = tmp_path / "no.json"
    path.write_bytes(text.encode("latin-1"))
    for load in (results.load, results.Progress.load, lambda path: results.load_all(path.parent)):
        with pytest.raises(ValueError, match=r"no\.json"):
            load(path)


def test_a_damaged_unfinished_run_is_named(tmp_path):
    path, rng = tmp_path / "progress.json", random.Random(0)
    done = {600: [Episode("Lift", 3, True, 40, "a.mp4"), Episode("Lift", 5, False, 120)], 300: []}
    results.Progress(path, {"training": 1.5, "cpu": 2.0}, [0.1], done).save()
    whole, refused = path.read_text(), 0
    for _ in range(150):
        path.write_text(broken(whole, rng))
        try:
            results.Progress.load(path).save()
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 75


def test_changed_settings_do_not_pass_for_the_run(tmp_path):
    path = tmp_path / "run.json"
    results.save(result(Run(episodes=2)), path)
    for old, new in (('"lr": 0.0025', '"lr": 0.5'), ('"steps": 1000', '"steps": 9'), ('"seed": 0, ', '"seed": 7, ')):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(ValueError, match=r"run\.json is not the result .*not that of its settings"):
            results.load(path)


def test_published_results_are_sound_and_known_by_the_recipe_of_their_heads(tmp_path):
    """Published results count as finished on every processor, whatever bits it gives."""
    from action_heads_lab.reproduce import heads

    paths = sorted(PUBLISHED.rglob("*.json"))
    assert len(paths) > 160
    for path in paths:
        found = results.load(path)
        config = heads.stage1(found.run, Path("outputs/reproduce"))
        assert config
        assert results.by_recipe(path.parent, found.run, str(config.name)) == path
        assert results.by_recipe(path.parent, replace(found.run, seed=7), str(config.name)) is None
        assert results.by_recipe(path.parent, found.run, "mlp-128x4-00000000") is None
