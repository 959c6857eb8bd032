"""Comparisons: arms, conditions, statistics, tables; and what `scripts/compare` refuses."""

import csv
import io
import sys
from math import inf, isnan, nan
from pathlib import Path

import pytest
from conftest import ROOT, run_program
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

sys.path.append(str(ROOT / "scripts"))

import compare

from scripts.comparison import tables
from scripts.comparison.arms import ARMS, MOST_STARTS, named, rates, with_delays
from scripts.comparison.conditions import Condition, grid
from scripts.comparison.results import ArmResults, ConditionResults, Outcome, Point, best_rate
from scripts.comparison.statistics import bootstrap, sign_test
from shared.errors import UserError
from shared.settings import Settings
from trainer.report.comparison import interval

values = st.lists(st.floats(-50, 50).map(lambda value: round(value, 3)), min_size=2, max_size=40)


# Statistics


@given(values)
def test_the_t_interval_is_scipys(differences):
    found = interval(differences)
    error = stats.sem(differences)
    if error < 1e-9:
        assert found.low == pytest.approx(found.high)
        return
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=sum(differences) / len(differences), scale=error)
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-3 * error), pytest.approx(high, abs=2e-3 * error))


@given(st.lists(st.sampled_from([-1.5, 0.0, 0.2]), min_size=1, max_size=60))
def test_the_sign_test_is_scipys_binomial_test(differences):
    found = sign_test(differences)
    decided = [value for value in differences if value]
    assert found.wins + found.losses == len(decided)
    expected = stats.binomtest(found.wins, len(decided)).pvalue if decided else 1.0
    assert found.p == pytest.approx(expected)


def test_the_bootstrap_is_scipys_percentile_interval():
    differences = [2.1, -0.4, 3.3, 1.2, 0.9, 4.0, -1.1]
    expected = stats.bootstrap(
        (differences,), lambda x, axis: x.mean(axis=axis), method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert bootstrap(differences) == (pytest.approx(expected.low, abs=0.06), pytest.approx(expected.high, abs=0.06))
    assert bootstrap(differences) == bootstrap(differences)


def test_the_bootstrap_of_few_values_is_narrower_than_the_t_interval():
    differences = [2.1, -0.4, 3.3, 1.2, 0.9]
    low, high = bootstrap(differences)
    assert high - low < 0.8 * 2 * interval(differences).half


# Arms


@pytest.mark.parametrize("name", [*sorted(set(ARMS) - {"llm"}), "plain-2", f"plain-{MOST_STARTS}"])
def test_an_arm_changes_how_to_tune_and_nothing_else(name):
    base = Settings(recipe="cb-minilm", steps=100)
    settings = named(name).apply(base)
    assert settings.model_dump() != base.model_dump()
    changes = {key for key in type(base).model_fields if getattr(base, key) != getattr(settings, key)}
    assert changes <= {"restarts", "optimizer", "prompt"}


def test_an_arm_that_leaves_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="nothing to train"):
        named("head").apply(Settings(recipe="demo"))


@pytest.mark.parametrize("name", ["plain-1", "plain-10", "plain-x", "", "llm-3s"])
def test_an_unknown_arm_is_refused(name):
    with pytest.raises(ValueError, match=r"^no arm .*plain, "):
        named(name)


@pytest.mark.parametrize(("init", "source"), [("random", "random"), ("words", "vocabulary")])
def test_several_starts_share_the_budget_of_one(init, source):
    base = Settings(recipe="demo", steps=100, prompt={"init": init})
    restarts = named("plain-4").apply(base).restarts
    assert restarts.source == source and restarts.policy == "trial"
    assert restarts.candidates == restarts.max_challengers == 3
    assert 4 * restarts.trial_steps <= 100 < 5 * restarts.trial_steps
    with pytest.raises(UserError, match="add --steps"):
        named("plain-4").apply(Settings(recipe="demo", epochs=3))


def test_only_arms_that_ask_are_made_for_each_delay():
    assert [arm.name for arm in with_delays(named("llm"), [0, 20])] == ["llm", "llm-20s"]
    assert with_delays(named("vocabulary"), [0, 20]) == [named("vocabulary")]
    base = Settings(recipe="demo")
    slow = with_delays(named("llm-sync"), [60])[0].apply(base)
    assert slow.restarts.sync_wait_seconds == base.restarts.sync_wait_seconds + 60
    assert slow.bus.lease_seconds == base.bus.lease_seconds + 60


def test_conditions_are_all_combinations_each_with_its_own_folder():
    names = [condition.name for condition in grid(["demo", "agnews"], ["words", "random"], [1, 16])]
    assert len(set(names)) == 8 and "demo-random-16shots" in names
    assert [condition.name for condition in grid(["demo"], [], [])] == ["demo"]
    with pytest.raises(UserError, match="same name"):
        grid(["demo", "elsewhere/demo.toml"], [], [])


def test_data_is_taken_from_a_folder_where_it_has_some(tmp_path):
    (tmp_path / "SST2").mkdir()
    assert Condition("sst2", None, None).settings([], tmp_path).task.path == str(tmp_path / "SST2")
    assert Condition("demo", None, None).settings([], tmp_path).task.path == "package:shared/recipes/helpdesk"
    lacking = Condition("agnews", None, None).settings([], tmp_path).task  # data of the hub are not a recipe's own
    assert (lacking.path, lacking.hub) == (str(tmp_path / "agnews"), None)


def test_a_condition_changes_start_and_shots():
    own = Condition("demo", None, None).settings([], None)
    assert own.prompt.words == "a customer message about" and not own.baseline
    other = Condition("demo", "generic", 2).settings(["--steps", "7"], None)
    assert (other.prompt.words, other.task.shots, other.steps) == ("a text about", 2, 7)
    assert Condition("demo", "random", None).settings([], None).prompt.init == "random"


# Results


def outcome(arm="plain", seed=1, test=0.5, dev_loss=1.0, losses=(2.0, 1.0), scored=0, adopted=0):
    summary = {
        "measure": "accuracy",
        "steps": 10,
        "seconds": 2.0,
        "scoring_lane_steps": scored / 3,
        "test": {"accuracy": test},
        "dev": {"loss": dev_loss, "accuracy": 0.5},
        "majority": {"accuracy": 0.25},
        "proposals": {"scored": scored, "adopted": adopted},
    }
    points = [Point(5 * n, 0.5 * n, loss) for n, loss in enumerate(losses)]
    return Outcome(arm, seed, Path(f"out/{arm}-s{seed}"), summary, points, 70 * scored, 20 * scored, 0.0)


def arm(name, tests, **values):
    return ArmResults(name, {seed: outcome(name, seed, test, **values) for seed, test in enumerate(tests, 1)})


@given(st.lists(st.lists(st.one_of(st.floats(0, 5), st.just(nan)), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_best_rate_has_by_seed_the_lowest_development_loss_whatever_the_test_says(losses):
    arms = [
        ArmResults(f"r{n}", {seed: outcome(f"r{n}", seed, loss / 5, loss) for seed, loss in enumerate(row)})
        for n, row in enumerate(losses)
    ]
    best = best_rate(arms)
    for seed in range(3):
        lowest = min(inf if isnan(row[seed]) else row[seed] for row in losses)
        assert best.outcomes[seed].dev_loss == lowest


def test_the_way_to_plains_loss_is_the_first_evaluation_that_has_it():
    plain = arm("plain", [0.5, 0.5], losses=(2.0, 1.5, 1.0))
    fast = arm("llm", [0.5, 0.5], losses=(2.0, 0.9, 0.8))
    never = arm("always", [0.5, 0.5], losses=(2.0, 1.1, 1.1))
    assert [point.lane_steps for point in fast.reached(plain)] == [5, 5]
    assert [point.lane_steps for point in plain.reached(plain)] == [10, 10]
    assert never.reached(plain) == []


def conditions():
    shown = [arm("plain", [0.5, 0.6]), arm("plain-best", [0.55, 0.6]), arm("llm", [0.7, 0.25], scored=12, adopted=2)]
    return [ConditionResults("demo", shown, []), ConditionResults("other", shown, [])]


def test_the_tables_say_differences_to_plain_best_and_what_arms_cost():
    text = tables.markdown(conditions(), "scripts/compare demo", ROOT)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    llm = [row for row in rows if row[0] == "llm"]
    gap = interval([15.0, -35.0])
    assert llm[0][3:5] == ["-10.00", f"{gap.low:+.2f} to {gap.high:+.2f}"] and llm[0][6] == "1 : 1 (p = 1.000)"
    assert llm[1][5:] == ["4.0", "840 + 240", "6.0", "1 of 2"]
    assert all(len(row) == len(rows[0]) for row in rows[:5])
    assert "## Mean of demo, other" in text and llm[-1][2] == "-10.00"


def test_a_single_seed_has_no_interval():
    text = tables.markdown([ConditionResults("demo", [arm("plain", [0.5]), arm("llm", [0.7])], [])], "c", ROOT)
    assert "| llm | 1.000 | 70.0 | +20.00 | - | - | 1 : 0 (p = 1.000) | - |" in text


def test_arms_are_compared_with_random_words_where_these_were_run():
    """The mean over conditions is paired by seed as well."""
    one = ConditionResults("one", [arm("plain", [0.5, 0.5]), arm("vocabulary", [0.6, 0.7]), arm("llm", [0.7, 0.9])], [])
    two = ConditionResults("two", [arm("plain", [0.5, 0.5]), arm("vocabulary", [0.6, 0.7]), arm("llm", [0.9, 0.7])], [])
    text = tables.markdown([one, two], "c", ROOT)
    last = [line.strip("| ").split(" | ")[-1] for line in text.splitlines() if line.startswith("| llm ")]
    for gaps, cell in zip([[10.0, 20.0], [30.0, 0.0], [20.0, 10.0]], [last[0], last[2], last[4]], strict=True):
        found = interval(gaps)
        assert cell == f"{found.mean:+.2f}, {found.low:+.2f} to {found.high:+.2f}"
    assert [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| vocabulary ")][::2] == ["- |"] * 3
    gaps = list(csv.DictReader(io.StringIO(tables.differences_csv([one]))))
    assert [(row["arm"], row["reference"]) for row in gaps] == [
        ("plain", "vocabulary"),
        ("vocabulary", "plain"),
        ("llm", "plain"),
        ("llm", "vocabulary"),
    ]


def test_the_csv_files_have_a_line_for_each_run_and_each_difference():
    runs = list(csv.DictReader(io.StringIO(tables.runs_csv(conditions()))))
    assert len(runs) == 12 and {row["condition"] for row in runs} == {"demo", "other"}
    assert runs[4]["arm"] == "llm" and float(runs[4]["scoring"]) == 4.0
    gaps = list(csv.DictReader(io.StringIO(tables.differences_csv(conditions()))))
    assert [row["arm"] for row in gaps] == ["plain", "llm"] * 2
    assert float(gaps[1]["mean"]) == pytest.approx(-10) and gaps[1]["better"] == gaps[1]["worse"] == "1"


def test_plots_are_written_as_png_and_pdf(tmp_path):
    pytest.importorskip("matplotlib")
    from scripts.comparison import plots

    one = conditions()[0]
    plots.curves(one, tmp_path / "curves")
    plots.forest([("llm", [1.0, 2.0]), ("one seed", [3.0])], "title", tmp_path / "differences")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "differences.pdf").read_bytes().startswith(b"%PDF")


# The command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--seeds", "5-1"], "lower than the first"),
        (["demo", "--seeds", "x"], "names no seeds"),
        (["demo", "--arms", "plain,nothing"], "no arm 'nothing'"),
        (["demo", "--rates", "0"], "not above 0"),
        (["demo", "--rates", "nan"], "not above 0"),
        (["demo", "--rates", "fast"], "'fast' is not a number"),
        (["demo", "--starts", "warm"], "no start 'warm'"),
        (["demo", "--shots", "0"], "not above 0"),
        (["demo", "--shots", "1.5"], "'1.5' is not a number"),
        (["demo", "--delay", "-1"], "not a number of seconds"),
        (["demo", "--jobs", "none"], "'none' is not a number"),
        (["demo", "--data", "nowhere"], "no such folder"),
        (["demo", "--steps", "-3"], "steps"),
        (["demo", "--no-such-setting", "3"], "no-such-setting"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_use_is_refused_in_one_line(arguments, words, tmp_path):
    ended = run_program(compare.main, *arguments, "--out", tmp_path)
    assert words in ended.refused()
    assert not any(tmp_path.iterdir())


def test_rates_are_arms_of_plain_tuning():
    assert [one.name for one in rates([5e-4, 1e-3])] == ["plain-lr0.0005", "plain-lr0.001"]
    assert rates([5e-4])[0].apply(Settings(recipe="demo")).optimizer.lr == 5e-4
