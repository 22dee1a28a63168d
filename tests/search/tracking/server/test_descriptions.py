"""What people read in MLflow is kept up to date, and is written only if it changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from medcore.errors import ConfigError, TrackingError
from medcore.models.checkpoint import load
from results.store.held_out import Measurement
from search.commands.export import ExportRequest, export
from search.tracking.pages.text import END
from search.tracking.remote import send_held_out, send_report
from search.tracking.server import client as mlflow_client
from tests.support.studies.export_study import write_study_of_one
from tests.support.studies.tracked_study import add_trial, make_study
from tests.support.studies.tracking import children, mlflow_tracker, parents, started

NOTE = "mlflow.note.content"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of tags and metrics as they are written."""
    names: list[str] = []
    own = {name: getattr(mlflow_client.Server, name) for name in ("set_tag", "set_experiment_tag", "log")}

    def noting(method: str) -> Any:
        def call(self: Any, *arguments: Any) -> None:
            names.append(method if method == "log" else arguments[1])
            own[method](self, *arguments)

        return call

    for name in own:
        monkeypatch.setattr(mlflow_client.Server, name, noting(name))
    return names


def experiment_note(store: str) -> str:
    experiment = MlflowClient(store).get_experiment_by_name("medcore")
    assert experiment is not None
    return str(experiment.tags[NOTE])


def test_descriptions_follow_the_study(tmp_path: Path, store: str, written: list[str]) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8), (90, 0.7)])
    tracker = started(folder, store)
    assert tracker.sync()
    (parent,) = parents(store)
    assert "the search runs; 2 of 4 trials ended (2 done)" in parent.data.tags[NOTE]
    assert "**[t0000](#/experiments/1/runs/" in parent.data.tags[NOTE] and " knee**" in parent.data.tags[NOTE]
    assert "knee t0000: BF1 0.8000 · the search runs" in experiment_note(store)
    assert f"medcore export {folder} --select knee" in experiment_note(store)
    runs = children(store)
    assert "**On the front**, and its knee" in runs["t0000"].data.tags[NOTE]
    assert runs["t0001"].data.tags[NOTE].startswith("**t0001**, sampled, of the study [s](#/experiments/1/runs/")
    assert [item.dataset.name for item in runs["t0001"].inputs.dataset_inputs] == ["kvasir"]

    client = MlflowClient(store)
    client.set_tag(parent.info.run_id, NOTE, parent.data.tags[NOTE] + "\n\nmy own words")
    add_trial(folder, 2, 40, 0.9)  # dominates both
    assert tracker.finish() is None
    (parent,) = parents(store)
    assert "complete; 3 of 4 trials ended (3 done)" in parent.data.tags[NOTE]
    assert parent.data.tags[NOTE].endswith(f"{END}\n\nmy own words")
    runs = children(store)
    assert "On the front" not in runs["t0000"].data.tags[NOTE] and "On the front" in runs["t0002"].data.tags[NOTE]
    assert {key: run.data.tags.get("medcore.knee") for key, run in runs.items()} == {
        "t0000": "false",
        "t0001": None,
        "t0002": "true",
    }
    assert experiment_note(store).startswith("**[front of s](#/experiments/1/runs?workflowType=machine_learning&")

    written.clear()
    again = started(folder, store)
    assert again.finish() is None and written == []
    assert again.page is not None and again.page.endswith(f"after: mlflow ui --backend-store-uri {store}")


def test_a_mean_over_runs_replaces_the_figure_of_the_first_run(tmp_path: Path, store: str) -> None:
    folder = make_study(tmp_path / "s", [(50, 0.8)])
    assert started(folder, store).finish() is None
    row = (folder / "trials" / "t0000" / "row.json").read_text()
    (folder / "trials" / "t0001").mkdir()
    text = row.replace('"t0000"', '"t0001"').replace('"number": 0', '"number": 1').replace("0.8", "0.7")
    repeat = text.replace('"trial_id"', '"repeats": "t0000", "trial_id"')
    (folder / "trials" / "t0001" / "row.json").write_text(repeat)
    assert started(folder, store).finish() is None
    run = children(store)["t0000"]
    assert run.data.metrics["boundary_f1"] == pytest.approx(0.75) and run.data.metrics["seeds"] == 2
    history = MlflowClient(store).get_metric_history(run.info.run_id, "boundary_f1")
    assert [(point.step, round(point.value, 6)) for point in history] == [(0, 0.8), (1, 0.75)]
    assert "Means over 2 runs: BF1 0.7500" in run.data.tags[NOTE]


def test_what_is_added_later_is_described(tmp_path: Path, store: str) -> None:
    """A report with a contact sheet, and held-out figures of a model that is at the server."""
    folder = write_study_of_one(tmp_path)
    tracker = mlflow_tracker(folder, store)
    tracker.start({"search": {"trials": 1}, "tracking": {"models": "knee"}})
    assert tracker.finish() is None
    run = children(store)["t0000"]
    assert "Its model is `model.safetensors` among the artifacts." in run.data.tags[NOTE]
    assert "medcore export mlflow:medcore/s --select knee" in experiment_note(store)
    assert f"![budget](get-artifact?path=budget.png&run_uuid={run.info.run_id})" in run.data.tags[NOTE]
    files = {item.path for item in MlflowClient(store).list_artifacts(run.info.run_id)}
    assert files == {"model.safetensors", "budget.png"}

    said: list[str] = []
    page, sheet = tmp_path / "page.html", tmp_path / "t0000.png"
    page.write_text("<p>report</p>")
    Image.new("RGB", (1600, 800)).save(sheet)
    assert send_report(folder, page, [sheet], store, said.append) is None
    figures = {"boundary_f1": 0.5}
    own = Measurement("t0000", False, None, "a", "val/report", "b", 7, figures, "2026-01-01T00:00:00+00:00", "g")
    assert send_held_out(folder, own, 1, store, said.append) is None
    run = children(store)["t0000"]
    assert "![contact sheet](get-artifact?path=contact_sheet.png&run_uuid=" in run.data.tags[NOTE]
    shown = MlflowClient(store).download_artifacts(run.info.run_id, "contact_sheet.png", str(tmp_path))
    assert Image.open(shown).size == (720, 360)
    assert run.data.metrics["report/boundary_f1"] == 0.5
    assert len({*said}) == 1 and said[0].startswith("front in MLflow: ")

    out = tmp_path / "taken.safetensors"
    request = ExportRequest("mlflow:medcore/s", out, latency=False, tracking_uri=store)
    assert export(request).trial_id == "t0000"
    taken, trained = load(out).state_dict(), load(folder / "trials" / "t0000" / "model.safetensors").state_dict()
    assert all(torch.equal(taken[name], value) for name, value in trained.items())
    with pytest.raises(ConfigError, match=r"mlflow:medcore/s: --finetune needs the study's folder"):
        export(dataclasses.replace(request, finetune=True))
    MlflowClient(store).delete_tag(run.info.run_id, "medcore.trial_id")
    with pytest.raises(TrackingError, match=r"has no model of trial t0000; .*tracking\.models: front"):
        export(request)


def test_two_studies_of_one_name_are_told_apart(tmp_path: Path, store: str) -> None:
    """The second one goes by the id of its run, because its name would lead to either."""
    for place in ("a", "b"):
        assert started(make_study(tmp_path / place / "s", [(50, 0.8)]), store).finish() is None
    by_id = [run for run in parents(store) if f"medcore front mlflow:medcore/{run.info.run_id}" in run.data.tags[NOTE]]
    assert len(by_id) == 1 and len(parents(store)) == 2
    assert experiment_note(store).count("**[front of s](") == 2
