import shlex
from dataclasses import replace
from typing import Any

import pytest
from action_heads_lab.reproduce import figure, paper, results
from action_heads_lab.reproduce.averages import average
from action_heads_lab.reproduce.beside_paper import beside_paper
from action_heads_lab.reproduce.cells import tables
from action_heads_lab.reproduce.config import ALL_MODES, Run
from action_heads_lab.reproduce.families import FAMILIES
from action_heads_lab.reproduce.grid import Reproduce, runs
from action_heads_lab.reproduce.markdown import cost
from action_heads_lab.reproduce.report import ReportConfig, report, robosuite
from action_heads_lab.reproduce.results import Episode, Result
from action_heads_lab.reproduce.statistics import spread
from made_up import outcomes, result


def made_up_grid() -> list:
    """Return results of all runs, with decoupled as good as normal and random-frozen worse."""
    rates = {"decoupled": 0.9, "normal": 0.9, "random-frozen": 0.4, "blind": 0.0}
    heads = {"decoupled": "pretrained", "blind": "pretrained"}
    return [
        result(run, outcomes(rates[run.mode], 50, i), head=heads.get(run.mode, f"random {run.seed}") + run.backbone)
        for i, run in enumerate(runs(Reproduce(all=True), "robosuite"))
    ]


def test_a_cell_never_mixes_two_configurations():
    one = result(Run(episodes=2))
    fewer, other_head = result(Run(episodes=2, seed=42, demos=50)), result(Run(episodes=2, seed=42), head="other")
    other_parts = result(replace(one.run, seed=42, relearn_step=not one.run.relearn_step))
    for other, reason in (
        (fewer, "demos"),
        (other_parts, "relearn_step"),
        (other_head, "pretrained head"),
        (result(one.run, head="other"), "one seed"),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            tables([one, other])
        assert one.id in str(error.value)
        assert other.id in str(error.value)


def test_another_protocol_is_another_table():
    one = result(Run(episodes=2))
    other = result(replace(one.run, adapter="adaln_zero", relearn_step=False))
    assert [len(table.cells) for table in tables([one, other])] == [1, 1]
    text = robosuite([one, other])
    assert text.index("film through blocks") < text.index("adaln_zero through blocks")


def test_runs_of_another_stage_1_are_for_systems_md():
    one = result(Run(episodes=50))
    other = result(replace(one.run, signal="none"), head="other")
    assert robosuite([one, other]) == robosuite([one])


def test_the_grid_of_all_comes_first_however_little_of_it_is_run():
    grid = runs(Reproduce(all=True), "robosuite")
    others = [result(replace(run, adapter="adaln_zero")) for run in grid[:9]]
    text = robosuite([*others, result(grid[0])])
    assert text.index("film through blocks") < text.index("159 of 160 runs remain") < text.index("adaln_zero through")


def test_the_full_grid_is_tabled_pooled_and_tested():
    found = made_up_grid()
    text = robosuite(found)
    assert "not run" not in text
    assert "All runs are done" in text
    assert text.count("**8 tasks**") == 2
    row = next(line for line in text.splitlines() if "**8 tasks** | `mlp`" in line)
    pooled = [r for r in found if r.run.backbone == "mlp" and r.run.mode == "decoupled"]
    assert f"{100 * sum(r.successes for r in pooled) / 1200:.0f} (" in row
    assert "of 1200" in row
    assert "(p = 1" not in row.split("|")[-2], "decoupled differs from random-frozen"
    seeds = text[text.index("Spread of training seeds") :].splitlines()[2:6]
    assert seeds[0] == "| backbone | decoupled | normal | random-frozen |"
    for mode, shown in zip(ALL_MODES, seeds[2].removeprefix("| `mlp` | ").removesuffix(" |").split(" | "), strict=True):
        assert shown == str(spread([r for r in found if (r.run.backbone, r.run.mode) == ("mlp", mode)]))
    assert "Spread of training seeds" not in robosuite([r for r in found if r.run.seed == 0]), "one seed has none"


def test_what_is_not_run_names_its_command_and_cost():
    found = [r for r in made_up_grid() if not (r.run.task == "Stack" and r.run.backbone == "mixer")]
    text = robosuite(found)
    assert "10 of 160 runs remain" in text  # 3 modes of 3 seeds, and blind
    assert "--task Stack --backbone mixer --mode decoupled,normal,random-frozen,blind  # 15 CPU min" in text
    assert next(line for line in text.splitlines() if line.startswith("| Stack | `mixer`")).count("not run") == 4
    assert "160 of 160 runs remain" in robosuite([])


def test_ours_stand_under_the_papers_and_by_themselves_under_every_mode():
    run = Run(family="libero", task="libero_spatial", episodes=50)
    modes = {"decoupled": 0.9, "normal": 0.9, "random-frozen": 0.4, "blind": 0.0}
    found = [result(replace(run, mode=mode), outcomes(rate, 500, 3)) for mode, rate in modes.items()]
    assert all("**ours**" not in line for line in beside_paper("libero", []).splitlines())
    lines = beside_paper("libero", found).splitlines()
    theirs = next(i for i, line in enumerate(lines) if line.startswith("| DP-MLP (`mlp`) | decoupled | paper"))
    assert lines[theirs + 1].startswith("| DP-MLP (`mlp`) | decoupled | **ours** | 92 ")
    title = next(line for line in lines if line.startswith("**Ours: States, head 'small'"))
    assert title.endswith("50 episodes of each task.**")
    own = next(line for line in lines if line.startswith("| libero_spatial | `mlp` |"))
    assert own.count("of 500") == 4
    assert "(p = " in own


def test_writes_the_page_between_its_marks(tmp_path):
    for r in made_up_grid():
        results.save(r, results.path_of(tmp_path / "results", r.run, r.id))
    page = tmp_path / "docs" / "page.md"
    report(ReportConfig(tmp_path / "results", page))
    text = page.read_text()
    assert "DP-MLP" in text
    assert "| 65.9±0.7 |" in text
    assert (page.parent / "reproduction.png").stat().st_size > 20_000
    page.write_text(text.replace("# Results", "# Mine"))
    report(ReportConfig(tmp_path / "results", page))
    assert page.read_text() == text.replace("# Results", "# Mine")
    (page.parent / "reproduction.png").unlink()
    page.write_text("<!-- libero -->\n<!-- end -->")  # a page may have one of the parts
    report(ReportConfig(tmp_path / "results", page))
    assert not [*page.parent.glob("*.png")], "a figure is drawn only for a part of the page that has results"
    assert "| 84.7±0.5 |" in page.read_text()
    assert "| 65.9±0.7 |" not in page.read_text()
    page.write_text("nothing to write into")
    with pytest.raises(ValueError, match="no part <!-- robosuite -->"):
        report(ReportConfig(tmp_path / "results", page))


def test_only_what_every_mode_has_is_pooled():
    """Three modes that are equally good on each task, with other seeds of the tasks, are equally good together."""
    grid = [run for run in runs(Reproduce(all=True), "robosuite") if run.backbone == "mlp"]
    seeds = {("decoupled", "Lift"): (0, 42, 420), ("normal", "Stack"): (0, 42, 420)}
    solved = {"Lift": 150, "Stack": 15}
    found = [
        result(run, [i < solved[run.task] for i in range(run.episodes)])
        for run in grid
        if run.task in solved and run.mode != "blind" and run.seed in seeds.get((run.mode, run.task), (0,))
    ]
    row = next(line for line in robosuite(found).splitlines() if line.startswith("| **2 tasks**, without 4 runs"))
    cells = row.split(" | ")
    assert cells[2] == cells[3] == cells[4]
    assert ";" not in row, "rates by seed would be of other tasks"
    assert cells[6].startswith("+0 ± 0")
    table = tables(found)[0]
    assert {mode: len(results) for mode, results in table.pooled("mlp").items()} == dict.fromkeys(
        table.pooled("mlp"), 2
    )


def test_a_benchmark_of_the_paper_has_its_figure_beside_the_papers(tmp_path, monkeypatch):
    drawn, finish = [], figure._finish
    monkeypatch.setattr(figure, "_finish", lambda picture, path: (drawn.append(picture.axes), finish(picture, path)))
    run = Run(family="mimicgen", task="stack_d1", episodes=4)
    for mode, backbone in (("decoupled", "mlp"), ("decoupled", "mixer"), ("random-frozen", "mixer")):
        r = result(replace(run, mode=mode, backbone=backbone))
        results.save(r, results.path_of(tmp_path / "results", r.run, r.id))
    r = result(replace(run, task="square_d2", backbone="mixer", episodes=2), [True, True])  # in another table
    results.save(r, results.path_of(tmp_path / "results", r.run, r.id))
    page = tmp_path / "page.md"
    report(ReportConfig(tmp_path / "results", page))
    assert "![Success by mode](mimicgen.png)" in page.read_text()
    assert "libero.png" not in page.read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"mimicgen.png"}
    [axes] = drawn
    titles = ["the paper's DP-MLP, on images", "ours, mlp, on states", "ours, mixer, on states"]
    assert [axis.get_title() for axis in axes] == titles
    bars = [[bar.get_height() for bar in axis.patches] for axis in axes]
    assert len(bars[0]) == 18, "two modes of eight tasks, and the average"
    assert bars[0][-2:] == pytest.approx([0.612, 0.659])
    assert bars[1:] == [[0.5], [0.5, 0.5, 1.0]], "no task has all modes, so nothing is pooled"
    labels = [label.get_text() for label in axes[-1].get_xticklabels()]
    assert labels[:3] == ["stack\nd1\n(1)", "square\nd2\n(2)", "coffee\nd2"], "with the number of their table"
    assert labels[-1].startswith("no average,\nnot run in (1), (2):\n")
    assert {*labels[-1].split("\n")[2:]} == {*paper.TASKS["mimicgen"]}, "no task has all modes"


@pytest.mark.parametrize("family", paper.TASKS)
def test_the_papers_averages_are_those_of_its_tasks(family):
    """The averages of the paper are the means of its tasks within a point, which guards against copying errors."""
    for values in paper.TABLE_2[family].values():
        means = [mean for mean, _ in values]
        assert len(means) == len(paper.TASKS[family]) + 1
        assert sum(means[:-1]) / len(means[:-1]) == pytest.approx(means[-1], abs=0.6)


def test_the_best_checkpoint_stands_beside_the_last():
    run = Run(
        family="mimicgen", task="stack_d1", mode="normal", episodes=4, checkpoints=2, steps=10, relearn_step=False
    )
    end = result(run, [True, False, False, False])
    better = {5: tuple(replace(episode, success=True) for episode in end.episodes)}
    last, best = [
        line
        for line in beside_paper("mimicgen", [replace(end, earlier=better)]).splitlines()
        if line.startswith("| DP-MLP (`mlp`) | normal | **ours")
    ]
    assert "| 25 (5 to 70) of 4 | not run |" in last
    assert "best of 2 checkpoints | 100; 100 | not run |" in best


def test_rows_of_several_protocols_have_their_number():
    run = Run(family="mimicgen", task="stack_d1", mode="normal", episodes=4, relearn_step=False)
    found = [
        result(run, outcomes(1, 4, 0), id="one"),
        result(replace(run, checkpoints=2), outcomes(0, 4, 0), id="two"),
    ]
    text = beside_paper("mimicgen", found)
    for row in ("**ours (1)** | 100 ", "**ours (2)** | 0 ", "**ours (2)**, best of 2 checkpoints |"):
        assert f"| {row}" in text
    assert "**Ours (1): States" in text
    assert "4 episodes per run, last of 2 checkpoints.**" in text


def test_heads_of_one_recipe_may_be_of_several_processors():
    """Heads with the same settings of Stage 1 belong to one cell even if their bits differ."""
    named = {"name": "mlp-128x4-9ff6197b", "frozen": 10, "trainable": 5}
    one = result(Run(episodes=2), head="a")
    other = result(Run(episodes=2, seed=42), head="b")
    one, other = (replace(r, head=named | {"fingerprint": r.head["fingerprint"]}) for r in (one, other))
    (table,) = tables([one, other])
    assert len(table.cell("Lift", "mlp", "decoupled")) == 2
    assert "on several processors" not in cost([one, one])
    assert "on several processors" in cost([one, other])
    again = replace(one, head=other.head, id="another")
    with pytest.raises(ValueError, match=r"two runs of one seed.*published results and your own"):
        tables([one, again])


def test_counts_are_of_all_tasks():
    """The last task's were given as those of all, though the observations of tasks differ in size."""
    heads = [{"name": "h", "fingerprint": "a", "frozen": 10, "trainable": trained} for trained in (7, 1005, 6)]
    runs = [Run(episodes=2, task=task) for task in ("Lift", "Stack", "PickPlaceCan")]
    found = [replace(result(run), head=head) for run, head in zip(runs, heads, strict=True)]
    assert "`mlp` decoupled 6 to 1,005, frozen 10." in cost(found)


def test_a_report_of_a_user_lies_in_the_users_folder(tmp_path, monkeypatch):
    assert ReportConfig(tmp_path).page.parts[0] == "outputs"
    monkeypatch.chdir(tmp_path)
    one = result(Run(episodes=2))
    results.save(one, results.path_of(tmp_path / "mine", one.run, one.id))
    report(ReportConfig(tmp_path / "mine"))
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "outputs"}
    (tmp_path / "page.md").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        report(ReportConfig(tmp_path / "mine", tmp_path / "page.md"))


def test_a_difference_of_some_of_the_seeds_says_of_how_many_pairs():
    runs = [Run(episodes=50, seed=seed) for seed in (0, 42)]
    found = [result(run) for run in runs] + [result(replace(runs[0], mode="normal")) for _ in "1"]
    row = next(line for line in robosuite(found).splitlines() if line.startswith("| Lift | `mlp`"))
    assert "of 100; 50, 50 | 50 (37 to 63) of 50 | not run" in row
    assert row.split(" | ")[6] == "+0 ± 0 (p = 1), on 50 pairs"
    whole = robosuite([*found, result(replace(runs[1], mode="normal"))])
    assert "+0 ± 0 (p = 1) |" in whole
    assert "pairs" not in whole


def test_each_table_has_the_cost_of_its_own_runs():
    run = Run(family="mimicgen", task="stack_d1", episodes=4)
    slow = {"training": 600.0, "policy": 10.0, "environment": 30.0, "cpu": 1234.0}
    other = replace(run, seed=42, checkpoints=2, steps=10)
    several = [result(replace(other, seed=seed), seconds=slow, earlier={5: result(run).episodes}) for seed in (0, 42)]
    one, two = beside_paper("mimicgen", [result(run), result(replace(run, task="square_d2")), *several]).split(
        "**Ours ("
    )[1:]
    assert "takes 90 CPU seconds" in one
    assert "takes 1234 CPU seconds" in two
    assert two.count("a t test on") == 1
    assert two.count("With one training seed they do not cover") == 1


def test_controls_of_every_signal_without_a_code_are_one_run():
    modes = {
        signal: [Run(mode=mode, signal=signal, episodes=2) for mode in ("decoupled", "normal", "random-frozen")]
        for signal in ("none", "pose", "joints", "code")
    }
    assert modes["none"][1:] == modes["pose"][1:] == modes["joints"][1:]
    assert modes["none"][1].identity("h") == modes["code"][1].identity("h"), "the head has the difference"
    assert len({run for runs in modes.values() for run in runs}) == 8
    found = tables([result(run, head=run.signal) for run in {run for runs in modes.values() for run in runs}])
    assert {table.protocol["signal"] for table in found} == {*modes}
    for table in found:
        by_mode = table.modes("Lift", "mlp")
        assert {mode: len(cell) for mode, cell in by_mode.items()} == dict.fromkeys(by_mode, 1)
        assert (by_mode["normal"][0].run.signal == "code") == (table.protocol["signal"] == "code")
    (alone,) = tables([result(modes["pose"][1])])
    assert alone.protocol["signal"] == "none"


def of_libero(**episodes: int) -> list[Result]:
    """Return results of suites in every mode; the last episodes of every task fail, the first three do not."""
    run = FAMILIES["libero"].effort(Run(family="libero", task="libero_goal"))
    return [
        replace(
            result(replace(run, task=f"libero_{suite}", mode=mode, episodes=count)),
            episodes=tuple(Episode(f"libero_{suite}/{i}", k, k < 3, 40) for i in (0, 1) for k in range(count)),
        )
        for suite, count in episodes.items()
        for mode in ("decoupled", "normal", "random-frozen")
    ]


def test_suites_with_other_numbers_of_episodes_have_an_average_of_the_first_episodes_of_all():
    three = of_libero(spatial=9, object=4, goal=9)
    lines = beside_paper("libero", three).splitlines()
    row = next(line for line in lines if line.startswith("| DP-MLP (`mlp`) | decoupled | **ours"))
    assert row.endswith("| not run | not run: `libero_10` |")
    whole = beside_paper("libero", three + of_libero(**{"10": 5})).splitlines()
    row = next(line for line in whole if "first 4 episodes of each task" in line)
    assert row.startswith("| DP-MLP (`mlp`) | normal | **ours (1), (2), (3)**, first 4")
    rates = [cell.strip().split(" ")[0] for cell in row.split("|")[4:-1]]
    assert rates == ["75"] * 5, "3 of the first 4 episodes of each task"
    assert row.count(" of 8 |") == 4
    assert " of 32 |" in row


def test_an_average_over_several_tables_is_compared_in_every_mode():
    found = of_libero(spatial=9, object=4, goal=9, **{"10": 5})
    fail = [replace(r, episodes=tuple(replace(e, success=False) for e in r.episodes)) for r in found]
    found = [worse if r.run.mode == "random-frozen" else r for r, worse in zip(found, fail, strict=True)]
    text = beside_paper("libero", found)
    table = text.split("**Ours (1), (2), (3), first 4 episodes of each task.**\n\n")[1].split("\n\n")[0].splitlines()
    assert len(table) == 7, "a row for each suite and one over all"
    assert table[0].startswith("| suite | backbone | decoupled | normal | random-frozen |")
    cells = table[-1].split(" | ")
    assert cells[0] == "| **4 suites**"
    assert [cell.split(" (")[0] for cell in cells[2:5]] == ["75", "75", "0"]
    assert [cell.endswith(" of 32") for cell in cells[2:5]] == [True] * 3
    assert cells[6].startswith("+0 ± 0 (p = 1)")
    assert cells[7].startswith("+75 ± ")
    assert "first 4 episodes of each task.**" not in beside_paper("libero", [r for r in found if r not in found[-1:]])


def test_an_average_is_of_the_training_seeds_that_all_tasks_and_modes_share():
    found = of_libero(spatial=3, object=3, goal=3, **{"10": 3})
    more = [replace(r, run=replace(r.run, seed=42)) for r in found]
    (table,) = tables([*found, *more])
    assert len(average([table], "mlp", [*paper.LIBERO]).results["normal"]) == 8
    (table,) = tables([*found, *more[1:]])
    whole = average([table], "mlp", [*paper.LIBERO])
    assert whole.complete
    assert {r.run.seed for results in whole.results.values() for r in results} == {0}
    (table,) = tables([*found[3:], *more[:3]])
    assert not average([table], "mlp", [*paper.LIBERO]).results, "no seed has all tasks"


def test_other_assets_are_another_table_and_the_page_names_the_difference():
    official = of_libero(spatial=3, goal=3)
    other = [replace(r, run=replace(r.run, assets="stand-in"), id=f"{i}") for i, r in enumerate(of_libero(spatial=3))]
    text = beside_paper("libero", official + other)
    assert "- *Ours (1)*: official assets.\n- *Ours (2)*: stand-in assets.\n" in text
    assert "through blocks, stand-in assets, 3 episodes of each task.**" in text
    unknown = beside_paper("libero", [replace(r, run=replace(r.run, assets="")) for r in other])
    assert "unknown assets" in unknown, "an older result does not say"
    assert "- *Ours" not in unknown, "one table has nothing to differ from"
    everything = of_libero(object=3, **{"10": 3}) + official[3:] + other
    rows = [line for line in beside_paper("libero", everything).splitlines() if line.startswith("| DP-MLP")]
    assert not any("first 3 episodes" in row for row in rows), "an average never mixes assets"
    assert rows[1].endswith("| not run: `libero_spatial` |")


def test_runs_on_other_assets_stand_below_and_not_beside_the_papers():
    official = of_libero(spatial=3)
    other = [
        replace(r, run=replace(r.run, assets="stand-in"), id=f"{i}") for i, r in enumerate(of_libero(goal=4, object=4))
    ]
    above, below = beside_paper("libero", other + official).split("### On other assets\n\n")
    rows = [line for line in above.splitlines() if line.startswith("| DP-MLP (`mlp`) | decoupled | **ours")]
    assert len(rows) == 1
    assert rows[0].startswith("| DP-MLP (`mlp`) | decoupled | **ours (1)** | 100 ")
    assert "**Ours (2)" not in above
    assert below.startswith("**Ours (2): States")
    assert "| libero_goal | `mlp` | 75 " in below
    alone = beside_paper("libero", other)
    assert "### On other assets" not in alone
    assert "| DP-MLP (`mlp`) | decoupled | **ours** | not run | 75 " in alone


def test_what_the_papers_table_lacks_of_ours_names_its_command_and_cost():
    found = of_libero(spatial=3, goal=3)
    text = beside_paper("libero", found)
    assert "| DP-C (`unet`) | decoupled | **ours** | not run | not run | not run | not run |" in text
    assert "| DP-T (`transformer`) | normal | **ours** | not run |" in text
    assert "50 of 56 runs of training seed 0 remain, about " in text
    assert "Training seeds not run: 42, 420;" in text
    command = "uv run examples/libero/reproduce.py --seeds 0 --episodes 3 --out results/libero"
    assert f"{command} --backbone mlp --mode decoupled,normal,random-frozen,blind \\\n" in text
    assert f"{command} --backbone mlp --mode blind \\\n  --task libero_spatial,libero_goal\n" in text.replace(
        "libero_goal,libero_spatial", "libero_spatial,libero_goal"
    )
    assert f"{command} --study table-2 \\\n" in text
    stand_in = [replace(r, run=replace(r.run, assets="stand-in")) for r in found]
    assert "56 of 56 runs of training seed 0 remain" in beside_paper("libero", stand_in)
    slower = [replace(r, seconds={name: 60 * value for name, value in r.seconds.items()}) for r in found]

    def cost_of(text: str) -> str:
        return next(line for line in text.splitlines() if line.startswith("# unet: "))

    assert cost_of(text) != cost_of(beside_paper("libero", slower)), "the cost is that of the finished runs"


def test_the_commands_for_missing_runs_name_exactly_these_runs():
    """The options on the page give the runs that are missing, beside some that are done and skipped."""
    found, missing = of_libero(spatial=3, goal=3), set()
    block = beside_paper("libero", found).split("```bash\n")[1].split("```")[0].replace("\\\n", "")
    for line in block.splitlines():
        if line.startswith("uv run"):
            words = shlex.split(line)[3:]
            values: dict[str, Any] = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
            values["episodes"] = int(values["episodes"])
            missing |= {*runs(Reproduce(**values), "libero")}
    left = {replace(run, episodes=1) for run in missing} - {replace(r.run, episodes=1) for r in found}
    assert len(left) == 50
