"""The front as files, and the column that says what its members chose."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from results.stats.choices import schedule_summary, schedules_differ
from results.store.files import plain_record
from results.store.trial_row import TrialRow
from results.store.trials import compact
from search.cli.tables import front_view
from search.commands import front as fronts
from tests.support.studies.rows import write_row, write_study

CHOICE = {"param/criterion": "fisher", "param/blend": 0.5, "param/order": "together", "param/rounds": 2.0}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    objectives = [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
    info = {"name": "s", "objectives": objectives, "reference": {"flops": 101.0, "boundary_f1": 0.0}}
    write_study(folder, info | {"dense": {"flops": 100.0, "boundary_f1": 0.9}, "widths": {"heads": 4, "channels": 8}})
    for number, (flops, quality, rescore) in enumerate([(50.0, 0.8, "yes"), (20.0, 0.6, "no"), (60.0, 0.7, "no")]):
        row: dict[str, Any] = {"trial_id": f"t{number}", "number": number, "status": "done", "origin": "sampled"}
        row |= {"flops": flops, "flops_fraction": flops / 100, "boundary_f1": quality, "param/rescore": rescore}
        write_row(folder, row | CHOICE | {"heads": [4, 2], "channels": [8, 2]})
    compact(folder)
    return folder


def test_files_hold_the_front_and_the_dense_model(study: Path, tmp_path: Path) -> None:
    files = fronts.write(str(study), tmp_path / "out")
    assert [file.name for file in files] == ["front.csv", "front.md", "front.html", "front.png", "front.svg"]
    table = pd.read_csv(files[0])
    assert table["trial"].fillna("").tolist() == ["t1", "t0", ""]
    assert table["heads"].tolist() == [0.75, 0.75, 1.0] and table["channels"].tolist() == [0.625, 0.625, 1.0]
    lines = files[1].read_text().splitlines()
    assert lines[3].startswith("| t0 | sampled | 50.0% | – | – | 75.0% | 62.5% | 0.8000 |")
    assert "2 of 3 trials are on the front, 0 failed." in lines[-1]
    with Image.open(files[3]) as picture:
        assert picture.width > 500
    head = "| trial | origin | FLOPs left | by the paper's count | parameters left | heads kept | channels kept |"
    assert lines[0].startswith(head)


def test_numbers_keep_every_digit(study: Path) -> None:
    path = study / "trials" / "t0" / "row.json"
    small = {
        "param/lr": 1.2345678901234567e-12,
        "dice": 0.1 + 0.2,
        "missing": None,
        "versions": {"torch": "2", "a": None},
    }
    write_row(study, json.loads(path.read_text()) | small)
    compact(study)
    result = fronts.front(str(study)).to_dict()
    (row,) = [row for row in result["front"] if row["trial_id"] == "t0"]
    assert row["param/lr"] == 1.2345678901234567e-12 and row["dice"] == 0.1 + 0.2
    assert row["heads"] == [4, 2] and row["versions"]["torch"] == "2"
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    other = next(row for row in result["front"] if row["trial_id"] == "t1")
    assert other["param/lr"] is None


def test_plain_values_are_those_that_json_knows() -> None:
    row = {"a": np.float64(1e-12), "b": np.int64(3), "c": np.nan, "d": np.array([1, 2]), "e": np.bool_(True)}
    row |= {"f": pd.NA, "g": -np.inf, "h": {"i": [np.float32(0.5), None]}, "j": "text"}
    expected = {"a": 1e-12, "b": 3, "c": None, "d": [1, 2], "e": True, "f": None, "g": None}
    found = plain_record(row)
    assert found == expected | {"h": {"i": [0.5, None]}, "j": "text"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_a_trial_chose_is_told_in_words() -> None:
    def row(**columns: Any) -> TrialRow:
        return TrialRow.from_flat({"trial_id": "t0", "number": 0, "status": "done"} | columns)

    # words of earlier versions and truth values mean the same
    for rescore in ("yes", True):
        summary = schedule_summary(row(**CHOICE, **{"param/rescore": rescore}))
        assert summary == "fisher + medcore, 2 rounds, fresh scores, together"
    one = row(
        **CHOICE | {"param/rounds": 1.0, "param/blend": 1.0, "param/rescore": "yes", "param/order": "heads_first"}
    )
    assert schedule_summary(one) == "fisher, 1 round, heads first"
    assert schedule_summary(row(**{"param/lr": 1.0})) == ""
    used = {"weights": {"criterion": "medcore", "blend": 1.0}}
    assert schedule_summary(row(**CHOICE, **used)) == "medcore, 2 rounds, together"
    assert schedules_differ([row(**CHOICE), one]) and not schedules_differ([one, one])
    large, small = (row(**CHOICE, **used, **{"param/side": side}) for side in (256, 192))
    assert schedule_summary(small) == "medcore, 2 rounds, together, 192 px" and schedules_differ([large, small])


def test_table_shows_choices_only_where_they_differ(study: Path) -> None:
    console = Console(width=80, record=True)
    result = fronts.front(str(study))
    console.print(front_view(result))
    assert "fisher + medcore, 2 rounds, fresh scores, together" in console.export_text()
    console.print(front_view(dataclasses.replace(result, records=result.records[:1])))
    assert "schedule" not in console.export_text()
