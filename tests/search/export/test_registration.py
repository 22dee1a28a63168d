"""`medcore export --register`: what the registry of MLflow gets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from medcore.errors import MedcoreError, TrackingError
from search.commands.export import ExportRequest, export
from search.tracking.server import client as mlflow_client
from search.tracking.server import registry as model_registry
from search.tracking.server.records import ModelVersion, NewRun
from tests.support.studies.export_study import names


def test_a_long_card_loses_what_the_files_tell_and_at_last_its_end() -> None:
    sections = [f"## {title}\n\n{1500 * 'x'}\n\n" for title in ("Origin", "Quality", "Structure", "Limits")]
    assert model_registry.shortened("".join(sections[:2])) == "".join(sections[:2])
    short = model_registry.shortened("".join(sections))
    assert short.startswith("".join(sections[i] for i in (0, 1, 3))) and short.endswith("among the model's files.\n")
    assert len(model_registry.shortened(f"## Quality\n{9999 * 'x '}")) <= 5000


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("standalone", "polyps", r"--register polyps: .*--format mlflow"),
        ("mlflow", "a/b", "--register 'a/b'"),
        ("mlflow", "polyps-1.0", "--register 'polyps-1.0'"),
        ("mlflow", "60%", "--register '60%'"),
        ("mlflow", "our's", "--register 'our's'"),
        ("mlflow", " ", "--register ' '"),
    ],
)
def test_registration_is_refused_before_anything_is_written(kind: str, name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match=reason):
        export(ExportRequest("no such study", tmp_path / "out", format=kind, register=name))
    assert names(tmp_path) == []


def test_a_model_that_could_not_be_sent_is_marked(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, server = MlflowClient(uri), mlflow_client.Server(uri)
    experiment = client.create_experiment("medcore", artifact_location=(tmp_path / "taken").as_uri())
    (tmp_path / "taken").write_text("a file where a folder should be")
    run_id, folder = server.create_run(experiment, NewRun("s", None, {})), tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("")
    with pytest.raises(TrackingError, match="taken"):
        server.register(run_id, folder, ModelVersion("polyps", "best", {"report/boundary_f1": "0.7"}, ""))
    (model,) = client.search_logged_models([experiment])
    assert model.status == "FAILED" and model.tags["report/boundary_f1"] == "0.7"
    assert client.search_registered_models() == []
