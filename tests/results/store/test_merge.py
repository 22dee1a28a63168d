"""A study with repeats on disk has one row for each candidate. A study without repeats has the table it had before."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.stats.objectives import read_objectives
from results.stats.pareto import front_table
from results.stats.select import choose, metric_names
from results.stats.uncertainty import with_intervals
from results.store.front import front_of
from results.store.study_info import study_info
from results.store.trials import all_rows, compact, finished_ids, read_images, read_row, read_runs, read_study
from tests.support.studies.repeated_study import FIRST, INFO, MEANS, REPEATS, write_repeated_study

OBJECTIVES = read_objectives(INFO["objectives"])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_repeated_study(tmp_path / "s")


def test_a_repeated_trial_has_one_row_with_means(study: Path) -> None:
    table = read_study(study).set_index("trial_id")
    assert table.index.tolist() == [*FIRST, "t0004", "t0005", "t0010"]
    assert table.loc[[*FIRST], "boundary_f1"].to_dict() == pytest.approx(MEANS)
    assert table.loc[[*FIRST], "seeds"].tolist() == [2, 3, 2, 1] and table["seeds"].isna().sum() == 3
    assert table.loc["t0001", "seed_sd/boundary_f1"] == pytest.approx(0.05)
    assert table.loc[["t0000", "t0001"], "single/boundary_f1"].tolist() == [0.80, 0.70]
    assert table.loc["t0003", ["seed_sd/boundary_f1", "single/boundary_f1"]].isna().all()
    own = table.loc["t0001"]
    assert (own["flops"], own["seed"], own["origin"], own["heads"]) == (50.0, 1, "sampled", [4, 2])


def test_raw_rows_stay(study: Path) -> None:
    ids = sorted([*FIRST, *REPEATS, "t0004", "t0005", "t0010"])
    assert [row.trial_id for row in all_rows(study)] == read_runs(study)["trial_id"].tolist() == ids
    assert finished_ids(study) == {*ids} and "seeds" not in read_runs(study)
    row = read_row(study, "t0006")
    assert row is not None and row.repeats == "t0001" and row.metrics["boundary_f1"] == 0.60
    before, images = read_study(study), read_images(study)
    compact(study)
    assert pd.read_parquet(study / "trials.parquet")["trial_id"].tolist() == ids
    assert {*pd.read_parquet(study / "images.parquet")["trial_id"]} == {*FIRST, *REPEATS}
    shutil.rmtree(study / "trials")
    pd.testing.assert_frame_equal(read_study(study)[before.columns], before)
    pd.testing.assert_frame_equal(read_images(study), images)


def test_images_are_means_under_the_first_run(study: Path) -> None:
    images = read_images(study)
    assert images["trial_id"].unique().tolist() == [*FIRST]
    means = images.groupby(["trial_id", "dataset"])["boundary_f1"].mean().groupby("trial_id").mean()
    assert means.to_dict() == pytest.approx(MEANS)
    some = read_images(study, {"t0001", "t0007"})  # a repeat is no trial of its own
    pd.testing.assert_frame_equal(some, images[images["trial_id"] == "t0001"].reset_index(drop=True))


def test_repeats_stand_for_a_first_run_that_is_gone(study: Path) -> None:
    (study / "trials" / "t0001" / "row.json").unlink()
    table = read_study(study).set_index("trial_id")
    assert "t0007" not in table.index and table.loc["t0006", "seeds"] == 2
    assert table.loc["t0006", "boundary_f1"] == pytest.approx(0.625)
    assert {"t0006"} == {*read_images(study)["trial_id"]} - {*FIRST}


def test_a_study_without_repeats_is_as_it_was(tmp_path: Path) -> None:
    study = write_repeated_study(tmp_path / "s", repeats=False)
    table, runs = read_study(study), read_runs(study)
    names = ["trial_id", "number", "status", "reason", "seed", "origin", "flops", "flops_fraction", "boundary_f1"]
    names += ["heads", "channels", "seconds", "fidelity/refit/flops", "fidelity/refit/boundary_f1"]
    assert list(table) == names and table.to_csv().encode() == runs.to_csv().encode()
    own = pd.concat([pd.read_parquet(study / "trials" / name / "images.parquet") for name in FIRST], ignore_index=True)
    pd.testing.assert_frame_equal(read_images(study), own)
    front = front_of(table, study_info(INFO)).to_dict()
    assert front["further_runs"] == 0 and front["seed_noise"] == {} and front["dethroned"] == []


def test_the_front_is_that_of_means_and_names_who_left_it(study: Path) -> None:
    trials = with_intervals(read_study(study), read_images(study), OBJECTIVES)
    front = front_of(trials, study_info(INFO))
    assert [member.trial_id for member in front.members] == ["t0002", "t0000"]
    assert (front.trials, front.done, front.failed, front.stopped, front.further_runs) == (7, 4, 2, 1, 4)
    assert front.hypervolume == pytest.approx(60 * 0.70 + 1 * 0.81)
    (left,) = front.dethroned
    assert (left.trial_id, left.runs, left.single["boundary_f1"]) == ("t0001", 3, 0.70)
    assert left.mean["boundary_f1"] == pytest.approx(0.65)
    noise = front.seed_noise["boundary_f1"]
    assert noise.freedom == 4 and noise.sd == pytest.approx(((2 * 0.0025 + 0.0002 + 0.0002) / 4) ** 0.5)
    first, dense = front.uncertainties()
    assert (first.metric, first.runs, first.mean) == ("boundary_f1", 2, pytest.approx(0.70))
    assert first.seeds is not None and first.images is not None and dense.images is not None
    assert first.seeds[0] == pytest.approx(0.70 - 12.7062 * 0.01, abs=1e-4)  # t(1) of 97.5 % is 12.7062
    assert first.images[0] < 0.70 < first.images[1] < dense.images[1]
    assert front.recovered is not None and front.recovered["boundary_f1"] == pytest.approx(0.81)


def test_rules_know_candidates_and_their_means_alone(study: Path) -> None:
    trials = read_study(study)
    assert choose(trials, OBJECTIVES, "flops<=50")["trial_id"] == "t0002"
    assert choose(trials, OBJECTIVES, "trial:t0001")["boundary_f1"] == pytest.approx(0.65)
    assert metric_names(trials) == ["flops", "flops_fraction", "boundary_f1", "seconds"]
    assert np.isin(front_table(trials, OBJECTIVES)["trial_id"], [*FIRST]).all()
    for rule, reason in (("trial:t0005", r"t0005 is not done \(stopped\)"), ("trial:t0006", "no finished trial")):
        with pytest.raises(MedcoreError, match=reason):
            choose(trials, OBJECTIVES, rule)
