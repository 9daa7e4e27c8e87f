import json

import pytest
from made_up import result

from action_heads.reproduce import results
from action_heads.reproduce.config import Run
from action_heads.reproduce.results import Episode


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
    with pytest.raises(ValueError, match=r"run\.json is no result.*lacks \['lr'\]"):
        results.load(path)
    with pytest.raises(FileNotFoundError, match="fills outputs/reproduce/results/robosuite"):
        results.load_all(tmp_path / "nowhere")
