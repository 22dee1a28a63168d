"""Rows of older versions: their words become today's values, also in a table with rows of both."""

from __future__ import annotations

import json
from pathlib import Path

from results.stats.choices import schedule_summary
from results.stats.old_words import params_of_today, row_of_today, truth_value
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, compact, read_study

OLD = {"trial_id": "t0000", "number": 0, "status": "done", "seed": 1, "origin": "yes", "dice": 0.5}
PARAMS = {"param/criterion": "fisher", "param/blend": 1.0, "param/order": "together"}


def test_words_become_booleans_in_parameters_only() -> None:
    assert [truth_value(value) for value in ("yes", "no", "medcore", 1.0, None)] == [True, False, "medcore", 1.0, None]
    assert params_of_today({"rescore": "no", "lr": 0.1}) == {"rescore": False, "lr": 0.1}
    assert row_of_today(OLD | {"param/rescore": "yes"}) == OLD | {"param/rescore": True}


def test_a_resumed_study_has_rows_of_both_kinds(tmp_path: Path) -> None:
    old = OLD | PARAMS | {"param/rescore": "yes", "param/rounds": 2.0, "param/adaptive_alpha": "no"}
    new = OLD | PARAMS | {"param/rescore": False, "param/rounds": 2, "param/adaptive_alpha": True, "trial_id": "t0001"}
    for row in (old, new):
        folder = tmp_path / "trials" / str(row["trial_id"])
        folder.mkdir(parents=True)
        (folder / "row.json").write_text(json.dumps(row))
    rows = all_rows(tmp_path)
    assert [row.params["rescore"] for row in rows] == [True, False]
    assert [schedule_summary(row) for row in rows] == [
        "fisher, 2 rounds, fresh scores, together",
        "fisher, 2 rounds, together",
    ]
    compact(tmp_path)
    table = read_study(tmp_path)
    assert table["param/rescore"].tolist() == [True, False]
    assert table["param/adaptive_alpha"].tolist() == [False, True]


def test_a_row_from_elsewhere_is_read_the_same_way() -> None:
    row = TrialRow.from_flat(OLD | {"param/adaptive_alpha": "no"})
    assert row.params == {"adaptive_alpha": False} and row.origin == "yes"
