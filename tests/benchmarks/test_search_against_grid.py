"""The comparison of the search with grids: what arms change, whom statistics are charged to, and a run that stops."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from benchmarks.search_against_grid import Benchmark, check_plan, parsed
from benchmarks.search_arms import charges, runner
from benchmarks.search_arms.arms import ARMS, DENSE_ARM, Grid, config_of
from benchmarks.search_arms.charges import Charges, TrialClock, trial_seconds
from benchmarks.search_arms.measured import Record, dense_quality
from benchmarks.search_arms.prepared import parts_of
from benchmarks.search_arms.report import spread_text
from medcore.errors import ConfigError, MedcoreError
from results.store.trials import all_rows, read_row, trial_folder
from search.base.config import Config, load_config
from search.commands.sections import trial_settings
from search.trials.ledger import all_issued
from tests.support.studies.made_trials import is_picture
from tests.support.studies.study_files import write_tiny_study

COMMON, REFIT, FISHER, PROFILE = "teacher and search logits", "streams", "fisher", "profile"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(tmp_path_factory.mktemp("tiny"), search={"scheduler": "halving"})


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock on which one second passes between two looks, so that no test depends on the machine."""
    clock = SimpleNamespace(process_time=map(float, itertools.count()).__next__)
    monkeypatch.setattr(charges, "time", clock)
    monkeypatch.setattr(runner, "time", clock)
    yield


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("dense", [COMMON, PROFILE, REFIT]),
        ("search", [COMMON, PROFILE, REFIT]),
        ("random", [COMMON, PROFILE, REFIT]),
        ("knapsack", [COMMON, PROFILE, REFIT]),
        ("uniform-without-refit", [COMMON, PROFILE]),
        ("rule", [COMMON, FISHER, REFIT]),
        ("rule-without-refit", [COMMON, FISHER]),
        ("shares", [COMMON, FISHER]),
    ],
)
def test_each_arm_is_charged_for_what_it_reads(config_file: Path, tmp_path: Path, name: str, parts: list[str]) -> None:
    arm = {**ARMS, "dense": DENSE_ARM}[name]
    config = config_of(arm, load_config(config_file), 2, tmp_path, 48)
    assert parts_of(trial_settings(config)) == parts
    assert config.folder == tmp_path / f"{name}-2" and config.search.trials == 48 and config.seed == 0


def test_samplers_differ_in_nothing_else(config_file: Path, tmp_path: Path) -> None:
    plain = config_of(ARMS["search"], load_config(config_file), 0, tmp_path, 6).model_dump()
    for name in ("random", "nsga2", "gp"):
        other = config_of(ARMS[name], load_config(config_file), 0, tmp_path, 6).model_dump()
        assert other["search"].pop("sampler") == name
        assert other["search"] == {key: value for key, value in plain["search"].items() if key != "sampler"}


def test_the_rule_begins_where_it_reaches() -> None:
    def only_above(share: float, domain: object) -> dict[str, float]:
        if share < 0.2:
            raise ConfigError("out of reach")
        return {"fraction": share}

    domain = SimpleNamespace(dimensions={"fraction": SimpleNamespace(values=(0.05, 0.6))})
    grid = Grid.of(only_above, domain)  # type: ignore[arg-type]
    assert 0.2 <= grid.low < 0.2 * 1.001 and grid.params(0) == {"fraction": grid.low}
    assert [grid.share(1), grid.share(2)] == pytest.approx([0.6, math.sqrt(0.6 * grid.low)])


def test_a_part_is_charged_once(tmp_path: Path, ticks: None) -> None:
    file = tmp_path / "statistics.json"
    with pytest.raises(KeyboardInterrupt), Charges(file).charged("fisher"):
        raise KeyboardInterrupt
    assert Charges(file).seconds("fisher") == 1.0
    with Charges(file).charged("fisher") as report:
        report("scores", 1, 2)
        assert Charges(file).seconds("fisher") == 2.0
    assert Charges(file).seconds("fisher") == 3.0
    with Charges(file).charged("fisher") as report:
        report("scores", 2, 2)
    assert Charges(file).seconds("fisher") == 3.0 and Charges(file).seconds("profile") == 0.0


def test_seconds_add_up_over_starts(tmp_path: Path, ticks: None) -> None:
    for total in (1.0, 2.0):
        TrialClock(tmp_path, "t0000", since=charges.time.process_time()).save()
        assert trial_seconds(tmp_path, "t0000") == total


def test_another_plan_is_refused(tmp_path: Path) -> None:
    check_plan(tmp_path / "plan.json", 60.0, 48)
    check_plan(tmp_path / "plan.json", 60.0, 48)
    with pytest.raises(ConfigError, match="another --seconds or --trials-like"):
        check_plan(tmp_path / "plan.json", 90.0, 48)


def test_a_failed_dense_model_is_an_error() -> None:
    with pytest.raises(MedcoreError, match="seed 3: the dense model's trial failed"):
        dense_quality(Record("dense", 3, 0.0, 1.0, [], Counter({"failed": 1})))


def test_text_of_several_seeds() -> None:
    assert spread_text(pd.Series([0.1, 0.3])) == "0.2000 (0.1000–0.3000)"
    assert spread_text(pd.Series([0.1, math.nan])) == "0.1000, 1 of 2 seeds"
    assert spread_text(pd.Series([math.nan])) == "none" and spread_text(pd.Series([0.5])) == "0.5000"


def benchmark(config: Config, work: Path, out: Path, arms: str, seeds: int = 1, seconds: int = 45) -> Benchmark:
    options = f"--seconds {seconds} --trials-like 1 --seeds {seeds} --arms {arms}".split()
    return Benchmark(config, parsed(["--work", str(work), "--out", str(out), *options]), Console(quiet=True))


def test_the_last_seconds_average_what_was_repeated(config_file: Path, tmp_path: Path, ticks: None) -> None:
    work = tmp_path / "work"
    benchmark(load_config(config_file), work, tmp_path / "out", "search", seconds=110).run()
    trials = all_issued(work / "search-0")
    kinds = ["average" if trial.averages else "repeat" if trial.repeats else "sample" for trial in trials]
    assert [kind for kind, _ in itertools.groupby(kinds)][:3] == ["sample", "repeat", "average"]
    average = next(trial for trial in trials if trial.averages)
    row = read_row(work / "search-0", average.trial_id)
    assert row is not None and row.is_done and not list(work.glob("search-0/trials/*/model.safetensors"))


def test_runs_continue_and_end_in_a_report(
    config_file: Path, tmp_path: Path, ticks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a search that stops trials, so that all ways to end are met
    stopping = {**ARMS["search"].changes, "search.sampler": "tpe", "search.scheduler": "halving"}
    monkeypatch.setitem(ARMS, "search", replace(ARMS["search"], changes=stopping))
    config, work, out = load_config(config_file), tmp_path / "work", tmp_path / "out"
    run_trial, starts = runner.run_trial, itertools.count()

    def interrupted(study: runner.ArmStudy, proposer: runner.Proposer) -> None:
        if next(starts) == 4:
            raise KeyboardInterrupt
        run_trial(study, proposer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "run_trial", interrupted)
        benchmark(config, work, out, "search knapsack").run()
    before = {row.trial_id: row for row in all_rows(work / "search-0")}
    benchmark(config, work, out, "search knapsack", seeds=2).run()

    after = {row.trial_id: row for row in all_rows(work / "search-0")}
    assert before and before.items() <= after.items()
    trials = all_issued(work / "search-0")
    first = next(trial.number for trial in trials if trial.repeats)
    seconds = [trial_seconds(work / "search-0", trial.trial_id) for trial in trials]
    statistics = pd.read_csv(out / "table.csv")["statistics_seconds"][0]
    assert statistics + sum(seconds[:first]) >= 0.8 * 45 > statistics + sum(seconds[: first - 1])
    assert all(trial.is_finalist for trial in trials[first:]) and first > 1  # the number of trials, which ends nothing
    origins = [trial.origin for trial in all_issued(work / "knapsack-0")]
    assert origins[:3] == ["knapsack 0.3", "knapsack 1", "knapsack 0.5477"]
    done = next(row for row in after.values() if row.is_done)
    kept = {path.name for path in trial_folder(work / "search-0", done.trial_id).iterdir()}
    assert "report.json" in kept and "model.safetensors" not in kept

    table = pd.read_csv(out / "table.csv")
    assert list(zip(table["arm"], table["seed"], strict=True)) == [
        ("search", 0), ("search", 1), ("knapsack", 0), ("knapsack", 1),
    ]  # fmt: skip
    assert (table["seconds"] >= 45).all() and (table["models"] > 0).all() and (table["failed"] == 0).all()
    text = (out / "table.md").read_text()
    assert "45 processor seconds for each arm and seed, 2 seeds" in text and "`search` − arm, paired by seed" in text
    assert is_picture(out / "hypervolume.png")

    issued = len(all_issued(work / "search-0"))
    benchmark(config, work, out, "search knapsack", seeds=2).run()  # nothing is left to do
    assert len(all_issued(work / "search-0")) == issued
