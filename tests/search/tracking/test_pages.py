"""Descriptions that MLflow shows."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from results.store.held_out import Measurement
from results.store.study_info import StudyInfo, study_info
from results.store.trial_row import TrialRow
from search.tracking.note import StudyNote
from search.tracking.pages.experiment import Entry, Newest, experiment_page
from search.tracking.pages.standing import Place, Standing
from search.tracking.pages.study import study_page
from search.tracking.pages.text import END, LONGEST, MOST, own_words, room_above
from search.tracking.pages.trial import trial_page
from tests.support.studies.repeated_study import INFO

NOTE = StudyNote(run_name="s", params={"search.trials": "30", "model.adapted": "/models/medsam.pth"})
SERVER = Place("#/front", server="http://h:5000", address="mlflow:medcore/s", folder="/runs/s")


def info(**more: object) -> StudyInfo:
    return study_info(
        INFO | {"dense": {"flops": 60.0, "boundary_f1": 0.9}, "widths": {"heads": 4, "channels": 8}} | more
    )


def trials(count: int) -> pd.DataFrame:
    """A front of so many members, from the cheapest to the best."""
    rows = [
        {"trial_id": f"t{i:04d}", "number": i, "status": "done", "origin": "sampled", "flops": 10.0 + i}
        | {"flops_fraction": (10 + i) / 60, "flops_paper_fraction": (8 + i) / 60, "boundary_f1": 0.5 + 0.1 * i**0.5}
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def measurement(trial_id: str | None, value: float) -> Measurement:
    figures = {"boundary_f1": value, "hd95": 3.0}
    return Measurement(trial_id, False, None, "a", "val/report", "b", 7, figures, "2026-01-01T00:00:00+00:00", "g")


def test_a_study_shows_front_knee_and_how_to_take_it() -> None:
    place = Place(**{**vars(SERVER), "runs": {"t0001": "#/run1"}, "models": frozenset({"t0001"})})
    measured = [measurement(None, 0.88), measurement("t0001", 0.61)]
    standing = Standing(info(), trials(3), Counter(done=3, failed=1), measured, "FINISHED")
    lines = study_page(NOTE, standing, place, MOST, "get-artifact?path=front.png").splitlines()
    assert standing.knee == "t0001"
    first = lines[0].split("<br>")
    assert first[0] == (
        "**[The front in the table of runs](#/front)** · complete; 4 of 30 trials ended (3 done, 1 failed)"
    )
    assert first[1] == "**Knee: t0001**, FLOPs left 18.3 %, by the paper's count 15.0 %, BF1 0.6000 (dense 0.9000)"
    assert first[2] == "Take it: `medcore export mlflow:medcore/s --select knee --out best.safetensors`"
    table = [
        [cell.strip().removesuffix("&emsp;") for cell in line.strip("|").split("|")] for line in lines if "|" in line
    ]
    assert table[0] == ["trial", "FLOPs left", "by the paper's count", "Boundary F1", "runs", "origin", "held-out BF1"]
    assert table[2] == ["t0000", "16.7 %", "13.3 %", "0.5000", "1", "sampled", "–"]
    assert table[3][0] == "**[t0001](#/run1) knee**" and table[3][-1] == "**0.6100**"
    assert table[5] == ["dense model, not recovered", "100.0 %", "100.0 %", "0.9000", "", "", "0.8800"]
    assert "- held out (`val/report`, 7 images): trial t0001: BF1 0.6100, HD95 3" in lines
    assert "export MLFLOW_TRACKING_URI=http://h:5000" in lines and "![front](get-artifact?path=front.png)" in lines
    assert lines[-1] == END


def test_a_model_that_the_server_lacks_is_taken_from_the_folder() -> None:
    page = study_page(NOTE, Standing(info(), trials(3)), SERVER, MOST)
    assert "the search runs; 0 of 30 trials ended" in page
    assert "medcore export /runs/s --select knee --out best.safetensors" in page
    own = study_page(NOTE, Standing(info(), trials(3)), Place("#/front", folder="/my runs/s"), MOST)
    assert "medcore front '/my runs/s'" in own and "MLFLOW_TRACKING_URI" not in own


@pytest.mark.parametrize("own", ["", "w" * 3000])
def test_a_long_front_is_cut_to_what_mlflow_takes_and_says_so(own: str) -> None:
    """A user's own words take room from the table."""
    runs = {f"t{i:04d}": "#/experiments/1/runs/" + 32 * "a" for i in range(200)}
    page = study_page(NOTE, Standing(info(), trials(200)), Place(**{**vars(SERVER), "runs": runs}), room_above(own))
    shown = page.count("[t0")
    assert 5 < shown < 200 and f"{200 - shown} further members: `front.csv` among the artifacts." in page
    assert len(page) <= MOST and len(page) + len(own) <= LONGEST and page.endswith(END)
    assert len(page) > room_above(own) - 200  # no row more would fit


def test_a_doubtful_time_is_not_shown() -> None:
    timed = trials(3).assign(latency_ms=[10.0, 11.0, 12.0])
    assert "| 11&emsp; |" in study_page(NOTE, Standing(info(), timed), SERVER, MOST).replace("**", "")
    page = study_page(NOTE, Standing(info(), timed.assign(latency_doubt=[None, "busy", None])), SERVER, MOST)
    assert "| 11&emsp; |" not in page.replace("**", "") and "| 12&emsp; |" in page


def test_an_empty_front_is_said_and_offers_no_model() -> None:
    page = study_page(NOTE, Standing(info(), pd.DataFrame()), SERVER, MOST)
    assert "The front is empty so far" in page and "medcore export" not in page and "Take" not in page


def test_a_trial_shows_its_budget_as_bars() -> None:
    row = TrialRow(
        "t0007", 7, "done", origin="sampled", budget={"heads": (4, 2, 0), "channels": (8, 1, 4)},
        metrics={"flops_fraction": 0.412, "boundary_f1": 0.7126},
    )  # fmt: skip
    lines = trial_page(row, info(), "#/study", ["**On the front**"]).splitlines()
    assert lines[0] == "**t0007**, sampled, of the study [s](#/study)"
    assert "FLOPs left 41.2 %, BF1 0.7126 (dense 0.9000)" in lines and "**On the front**" in lines
    assert "heads        █▅·  50 %" in lines and "channels     █▂▅  54 %" in lines
    widths = info(widths={"heads": [4, 4, 2], "channels": 8})
    assert "heads        █▅·  60 %" in trial_page(row, widths, "#/study")
    failed = TrialRow("t0008", 8, "failed", reason="MemoryError: <b>")
    assert "failed: MemoryError: \\<b\\>" in trial_page(failed, info(), "#/study")


@pytest.mark.parametrize(
    ("earlier", "kept"),
    [
        (None, ""),
        (f"old words\n\n{END}", ""),
        (f"old words\n\n{END}\n\nmine", "\n\nmine"),
        ("a user's own words", "\n\na user's own words"),
        ("**s**: how far each block of `x` can be pruned\n\n- of an earlier version", ""),
    ],
)
def test_a_user_s_own_words_stay(earlier: str | None, kept: str) -> None:
    text = f"new words\n\n{END}"
    assert own_words(earlier) == own_words(text + own_words(earlier)) == kept


def test_an_experiment_begins_with_its_newest_study() -> None:
    entries = [Entry("new", "#/f1", "#/r1", "knee t0001"), Entry("old", "#/f2", "#/r2", "complete")]
    lines = experiment_page(entries, Newest("mlflow:medcore/new", "http://h"), 5000).splitlines()
    assert lines[0] == "**[front of new](#/f1)** · knee t0001 · [table and commands](#/r1)<br>"
    assert "[front of old](#/f2)" in lines[1]
    take = "medcore export mlflow:medcore/new --select knee --out best.safetensors"
    assert lines[-1] == END and lines[lines.index(take) - 1] == "export MLFLOW_TRACKING_URI=http://h"
    assert "MLFLOW_TRACKING_URI" not in experiment_page(entries, Newest("/runs/new"), 5000)
    assert "medcore export" not in experiment_page(entries, Newest(), 5000)


def test_an_experiment_leaves_out_its_oldest_studies_if_there_is_no_room() -> None:
    entries = [Entry(f"s{i}", f"#/f{i}", f"#/r{i}", 350 * "x") for i in range(15)]
    page = experiment_page(entries, Newest("/runs/s0"), 3000)
    shown = page.count("[front of s")
    assert 1 < shown < 15 and f"[front of s{shown - 1}]" in page and len(page) <= 3000
    assert len(experiment_page(entries[: shown + 1], Newest("/runs/s0"), 10_000)) > 3000
    assert experiment_page(entries, Newest(), 0).count("[front of s") == 1
