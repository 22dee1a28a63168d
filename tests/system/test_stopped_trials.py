"""A real search whose trials Tune's ASHA scheduler stops, from the configuration to the front and the tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medcore.errors import CheckpointError
from results.store.front import front_of
from results.store.study_info import read_study_info
from results.store.trials import all_rows, read_study
from search.base.config import load_config
from search.commands.export import ExportRequest, export
from search.commands.search import search
from tests.support.studies.study_files import write_tiny_study
from tests.support.studies.tracking import children

#: Enough learning for trials to differ. Half of the recovery lies before the evaluation that the scheduler sees.
SECTIONS: dict[str, Any] = {
    "recovery": {"steps": 8},
    "schedule": {"order": "heads_first"},
    "search": {
        "trials": 9,
        "sampler": "random",
        "scheduler": "asha",
        "scheduler_images": 4,
        "finalists": 0,
        "concurrency": 1,
        "objectives": [{"name": "boundary_f1", "direction": "max"}],
        "space": {"fraction": {"low": 0.05, "high": 0.6}, "head_share": 0.5},
    },
}


@pytest.mark.usefixtures("local_ray", "no_pictures")
def test_asha_stops_trials_of_a_real_search(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path, **SECTIONS))
    outcome = search(config)
    assert outcome.complete and outcome.failed == 0 and outcome.stopped >= 1 and outcome.done >= 2
    assert outcome.message == f"{outcome.done} trials done, 0 failed, {outcome.stopped} stopped early"

    rows = {row.trial_id: row for row in all_rows(config.folder)}
    stopped = {trial_id: row for trial_id, row in rows.items() if row.status == "stopped"}
    assert len(rows) == 9 and len(stopped) == outcome.stopped
    for trial_id, row in stopped.items():
        assert row.reason == "stopped by the scheduler after heads_recovery"
        assert "fraction" in row.params and not row.metrics and row.checkpoint is None
        files = {path.name for path in (config.folder / "trials" / trial_id).iterdir()}
        assert files == {"params.json", "attempt.json", "row.json"}
    done = [row for row in rows.values() if row.is_done]
    assert all((config.folder / str(row.checkpoint)).is_file() for row in done)

    front = front_of(read_study(config.folder), read_study_info(config.folder))
    assert (front.trials, front.done, front.stopped) == (9, outcome.done, outcome.stopped)
    assert {row.trial_id for row in front.members} <= {row.trial_id for row in done}
    runs = children(f"sqlite:///{config.folder / 'mlflow.db'}")
    statuses = {trial_id: run.info.status for trial_id, run in runs.items()}
    assert statuses == {trial_id: "KILLED" if trial_id in stopped else "FINISHED" for trial_id in rows}
    assert len(pd.read_parquet(config.folder / "trials.parquet")) == 9

    slim = config.model_copy(update={"search": config.search.model_copy(update={"keep": "front"})})
    again = search(slim, resume=True)  # no trial is left to run
    assert again.message == outcome.message and {row.trial_id: row for row in all_rows(config.folder)} == rows
    kept = {path.parent.name for path in config.folder.glob("trials/*/model.safetensors")}
    assert kept == {row.trial_id for row in front.members} | {row.trial_id for row in done if row.origin == "dense"}
    with pytest.raises(CheckpointError, match=r"removed.*search\.keep: front"):
        gone = next(row.trial_id for row in done if row.trial_id not in kept)
        export(ExportRequest(str(config.folder), tmp_path / "m.safetensors", select=f"trial:{gone}"))
