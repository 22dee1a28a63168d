"""The link that commands print opens the front in MLflow, as the table of the study has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.stats.pareto import front_table
from results.store.study_info import read_study_info
from results.store.trials import read_study
from search.commands.sync import sync
from search.tracking.note import write_note
from search.tracking.view import LINK
from tests.support.machines.mlflow_server import Server
from tests.support.studies.rows import write_row
from tests.support.studies.tracked_study import make_study
from tests.support.studies.tracking import noted
from tests.support.studies.views import rows_at


def study_with_a_front(folder: Path) -> Path:
    """A study of six trials: three on the front, one of them repeated, one dominated and one failed."""
    make_study(folder, [])
    for number, (share, quality, origin, repeats) in enumerate(
        [
            (1.0, 0.9, "dense", None),
            (0.5, 0.8, "knapsack 0.5", None),
            (0.6, 0.7, "sampled", None),
            (0.3, 0.6, "sampled", None),
            (0.5, 0.86, "sampled", "t0001"),
        ]
    ):
        row = {"trial_id": f"t{number:04d}", "number": number, "status": "done", "origin": origin, "repeats": repeats}
        figures = {"flops": 100 * share, "flops_fraction": share, "boundary_f1": quality}
        write_row(folder, row | figures | {"finished": f"2026-01-01T00:0{number}:00+00:00"})
    write_row(folder, {"trial_id": "t0005", "number": 5, "status": "failed", "reason": "MemoryError"})
    return folder


def test_the_link_shows_the_front(tmp_path: Path, tracking_server: Server) -> None:
    folder, said = study_with_a_front(tmp_path / "s"), list[str]()
    write_note(folder, noted("view of a front"))
    tracking_server.wait()
    uri = tracking_server.uri
    sync(folder, uri.replace("//", "//me:secret@"), said.append)
    (line,) = said
    assert line.startswith(f"{LINK}{uri}/#/experiments/") and "secret" not in line
    rows = rows_at(uri, line.removeprefix(LINK), tmp_path / "profile")

    table = front_table(read_study(folder), read_study_info(folder).objectives)
    assert [row["attributes.`Run Name`"][:5] for row in rows] == list(table["trial_id"]) == ["t0003", "t0001", "t0000"]
    for name in ("flops_fraction", "boundary_f1"):
        assert [float(row[f"metrics.`{name}`"]) for row in rows] == pytest.approx(list(table[name]))
    assert [row["tags.`medcore.origin`"] for row in rows] == list(table["origin"])
    assert [row["tags.`medcore.knee`"] for row in rows] == ["-", "true", "-"]
