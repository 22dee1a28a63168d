"""Which weights a search removes: never those of a trial that a rule can choose, now or after the repeats to come."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medcore.errors import MedcoreError
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.store.held_out import Measurement, write_measurement
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, read_row, read_study, trial_folder, write_row
from search.driver import kept as kept_weights
from search.driver.finalists import Finalist, next_finalist
from search.driver.kept import Weights, removable
from search.trials.files import CHECKPOINT
from search.trials.ledger import IssuedTrial, all_issued, write_issued

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


def done(number: int, cost: float, quality: float | None, repeats: int | None = None, **fields: Any) -> TrialRow:
    trial = {"trial_id": f"t{number}", "number": number, "seed": 0, "params": {}}
    trial["origin"] = fields.pop("origin", "sampled")
    metrics = {"cost": cost, "quality": float("nan") if quality is None else quality}
    named = None if repeats is None else f"t{repeats}"
    checkpoint = str(Path("trials") / f"t{number}" / CHECKPOINT)
    return TrialRow.done(trial, metrics=metrics, repeats=named, checkpoint=checkpoint, **fields)


def write(study: Path, *rows: TrialRow) -> None:
    for row in rows:
        folder = trial_folder(study, row.trial_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CHECKPOINT).write_bytes(b"weights")
        write_row(study, row)


def kept(study: Path) -> set[str]:
    return {path.parent.name for path in (study / "trials").glob(f"*/{CHECKPOINT}")}


def test_without_repeats_one_dominator_is_enough() -> None:
    rows = [done(0, 1, 0.5), done(1, 2, 0.7), done(2, 2, 0.6), done(3, 1, 0.5), done(4, 3, None)]
    assert removable(rows, OBJECTIVES, 0) == ["t2"]
    failed = TrialRow(trial_id="t5", number=5, status="failed")
    assert removable([*rows, failed], OBJECTIVES, 0) == ["t2"] and removable([failed], OBJECTIVES, 0) == []


def test_with_repeats_left_it_takes_more_dominators_than_repeats() -> None:
    rows = [done(0, 1, 0.9), done(1, 2, 0.8), done(2, 3, 0.7), done(3, 4, 0.6)]
    assert removable(rows, OBJECTIVES, 0) == ["t1", "t2", "t3"]
    assert removable(rows, OBJECTIVES, 1) == ["t2", "t3"]
    assert removable(rows, OBJECTIVES, 3) == []


def test_the_dense_model_stays_and_repeats_go() -> None:
    rows = [done(0, 9, 0.5, origin="dense"), done(1, 1, 0.6), done(2, 1, 0.1, repeats=1), done(3, 9, 0.4, repeats=0)]
    assert removable(rows, OBJECTIVES, 5) == ["t3", "t2"]
    # its first run failed, so a repeat stands for the candidate
    lost = TrialRow(trial_id="t1", number=1, status="failed")
    assert removable([lost, rows[2]], OBJECTIVES, 0) == []


@pytest.mark.parametrize("seed", range(60))
def test_no_repeats_to_come_put_a_removed_trial_back_on_the_front(seed: int, tmp_path: Path) -> None:
    """Random studies, and repeats of anything with any outcome: the final front has all its weights."""
    rng = np.random.default_rng(seed)
    first, repeats = int(rng.integers(2, 9)), int(rng.integers(0, 4))
    origins = ["dense", *["sampled"] * (first - 1)]
    rows = [done(i, int(rng.integers(4)), float(rng.integers(4)), origin=origins[i]) for i in range(first)]
    weights = Weights(tmp_path, OBJECTIVES, repeats)
    for row in rows:
        write(tmp_path, row)
        weights.ended(row)
    for number in range(first, first + repeats):
        chosen = int(rng.choice([int(name[1:]) for name in kept(tmp_path) if int(name[1:]) < first]))
        row = done(number, rows[chosen].metrics["cost"], float(rng.integers(-9, 9)), repeats=chosen)
        write(tmp_path, row)
        if rng.random() < 0.3:  # killed and resumed
            weights = Weights(tmp_path, OBJECTIVES, repeats)
        weights.ended(row)
        front = front_table(read_study(tmp_path), OBJECTIVES)
        assert set(front["trial_id"]) <= kept(tmp_path)
    weights.sweep(complete=True)
    front = front_table(read_study(tmp_path), OBJECTIVES)
    assert kept(tmp_path) == set(front["trial_id"]) | {"t0"}


@pytest.mark.parametrize("seed", range(60))
def test_no_finalist_needs_weights_that_were_removed(seed: int, tmp_path: Path) -> None:
    """Random studies whose finalists repeat and average, made longer once: averages have all weights.

    So has the front of the first search. Further repeats may bring back what that search has removed.
    """
    rng, number = np.random.default_rng(seed), 0
    for finalists in (int(rng.integers(1, 8)), int(rng.integers(1, 8))):
        before = sum(trial.is_finalist for trial in all_issued(tmp_path)) if number else 0
        weights = Weights(tmp_path, OBJECTIVES, finalists + before, averages=True)
        sampled = number + int(rng.integers(2, 7))
        for left in [0] * (sampled - number) + list(range(finalists, 0, -1)):
            trial = made(tmp_path, number, left)
            assert {*trial.averages} <= kept(tmp_path)
            first = trial.repeats or next(iter(trial.averages), None)
            known = read_row(tmp_path, first) if first else None
            cost = float(rng.integers(4)) if known is None else float(known.metrics["cost"] or 0)
            repeats = int(trial.repeats[1:]) if trial.repeats else None
            row = done(number, cost, float(rng.integers(6)), repeats=repeats, origin=trial.origin)
            write(tmp_path, row)
            weights.ended(row)
            number += 1
        weights.sweep(complete=True)
        if not before:
            front = front_table(read_study(tmp_path), OBJECTIVES)
            assert kept(tmp_path) == set(front["trial_id"]) | {"t0"}


def made(study: Path, number: int, left: int) -> IssuedTrial:
    """Issue a trial as a search with one worker does: sampled, or one of the `left` last finalists."""
    rows, found = all_rows(study) if number else [], None
    if left:
        found = next_finalist(all_issued(study), rows, OBJECTIVES, left, {row.trial_id for row in rows} - kept(study))
    assert found != "wait"
    origin = "dense" if number == 0 else "sampled"
    trial = IssuedTrial(f"t{number}", number, 0, origin, {})
    if isinstance(found, Finalist):
        trial = dataclasses.replace(trial, origin=found.origin, repeats=found.repeats, averages=found.averages)
    write_issued(study, trial)
    return trial


def test_what_was_measured_or_tuned_stays_and_what_a_killed_search_left_goes(tmp_path: Path) -> None:
    rows = [done(0, 1, 0.9), done(1, 2, 0.8), done(2, 3, 0.7), done(3, 4, 0.6)]
    write(tmp_path, *rows)
    (trial_folder(tmp_path, "t2") / "finetune").mkdir()
    measured = Measurement(
        trial_id="t1", fine_tuned=False, finished=None, checkpoint="0" * 64, split="val/report", data="d", images=1,
        metrics={"dice": 0.5}, measured="2026-01-01T00:00:00+00:00", git="g",
    )  # fmt: skip
    write_measurement(tmp_path, measured, pd.DataFrame([{"dataset": "d", "name": "1", "dice": 0.5}]))
    Weights(tmp_path, OBJECTIVES, 0)
    assert kept(tmp_path) == {"t0", "t1", "t2"}
    # a node that was cut off writes its file after all
    weights = Weights(tmp_path, OBJECTIVES, 0)
    write(tmp_path, rows[3])
    weights.sweep(complete=True)
    assert kept(tmp_path) == {"t0", "t1", "t2"}


def test_without_knowing_what_was_measured_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(_: Path) -> list[Measurement]:
        raise MedcoreError("held_out: corrupt")

    write(tmp_path, done(0, 1, 0.9), done(1, 2, 0.8))
    monkeypatch.setattr(kept_weights, "read_measurements", damaged)
    weights = Weights(tmp_path, OBJECTIVES, 0)
    assert kept(tmp_path) == {"t0", "t1"} and "corrupt" in caplog.text
    monkeypatch.undo()
    weights.sweep()
    assert kept(tmp_path) == {"t0"}


def test_only_the_trials_own_file_is_removed(tmp_path: Path) -> None:
    other = tmp_path / "trials" / "t0" / CHECKPOINT
    odd = dataclasses.replace(done(1, 2, 0.1), checkpoint=str(other.relative_to(tmp_path)))
    write(tmp_path, done(0, 1, 0.9), odd)
    Weights(tmp_path, OBJECTIVES, 0)
    assert kept(tmp_path) == {"t0"} and (tmp_path / "trials" / "t1" / "row.json").is_file()


def test_runs_that_may_be_averaged_stay_to_the_end(tmp_path: Path) -> None:
    rows = [done(0, 1, 0.9), done(1, 2, 0.8), done(2, 1, 0.9, repeats=0)]
    write(tmp_path, *rows)
    for row in rows:
        write_issued(tmp_path, IssuedTrial(row.trial_id, row.number, 0, "sampled", {}, repeats=row.repeats))
    weights = Weights(tmp_path, OBJECTIVES, 2, averages=True)
    assert kept(tmp_path) == {"t0", "t1", "t2"}  # one finalist is left, and t1 has one dominator
    average = done(3, 1, 0.95, origin="average of t0")
    write(tmp_path, average)
    weights.ended(average)
    assert kept(tmp_path) == {"t0", "t2", "t3"}
    weights.sweep(complete=True)
    assert kept(tmp_path) == {"t3"}


def test_a_trial_whose_own_repeat_is_running_keeps_its_weights(tmp_path: Path) -> None:
    """Three dominators and one repeat left, but that repeat is of the dominated trial and makes it the best."""
    rows = [done(0, 1, 0.70), done(1, 2, 0.72), done(2, 3, 0.69), done(3, 9, 0.9)]
    write(tmp_path, *rows)
    write_issued(tmp_path, IssuedTrial("t4", 4, 0, "repeat of t2", {}, repeats="t2"))
    weights = Weights(tmp_path, OBJECTIVES, 1)
    assert "t2" in kept(tmp_path)
    repeat = done(4, 3, 0.99, repeats=2)
    write(tmp_path, repeat)
    weights.ended(repeat)
    assert set(front_table(read_study(tmp_path), OBJECTIVES)["trial_id"]) <= kept(tmp_path)
