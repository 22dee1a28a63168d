"""`medcore export` on a study of real files: one look at the held-out part, and fine-tuning before it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient

from medcore.data.load import load_image_set
from medcore.devices import device_of
from medcore.errors import ConfigError, MedcoreError
from medcore.models.checkpoint import load, read_info
from medcore.quality.evaluate import evaluate, summarise
from medcore.training.train import validation_loss
from results.stats.intervals import macro_interval
from results.store.held_out import read_measurements
from results.store.trial_row import TrialRow
from results.store.trials import read_study
from search.base.config import load_config
from search.cli import studies
from search.commands import front as fronts
from search.commands.evaluate import evaluate as evaluate_file
from search.commands.export import ExportRequest
from search.commands.export import export as run
from search.commands.report.report import report
from search.commands.sync import sync
from search.export import held_out
from search.study.identity import Identity, write_identity
from search.study.training_job import train_settings
from search.tracking.server.tracker import MlflowTracker
from search.tracking.tracker import Destination
from tests.support.helpers import TINY
from tests.support.machines.command_line import medcore
from tests.support.studies.held_out_study import KILLED, write_study_of_files
from tests.support.studies.study_files import environment

pytestmark = pytest.mark.usefixtures("instant_timing")

FINETUNE = {"epochs": 3, "lr": 2e-3, "patience": 0, "batch_size": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    write_study_of_files(place, FINETUNE)
    return place


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy to write in; its data are the original's, its splits lie next to it."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "tiny"


def export(study: Path, out: Path, **options: Any) -> tuple[TrialRow, list[str]]:
    said = list[str]()
    return run(ExportRequest(str(study), out, select="trial:t0000", **options), said.append), said


def own_columns(study: Path, trial_id: str) -> dict[str, float]:
    row = read_study(study).set_index("trial_id").loc[trial_id]
    return {str(key).removeprefix("report/"): value for key, value in row.items() if str(key).startswith("report/")}


def test_the_figures_are_those_of_an_evaluation_and_go_everywhere(study: Path, made: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker(Destination(study))
    tracker.start(yaml.safe_load((study / "config.yaml").read_text()))
    assert tracker.sync("FINISHED")
    out, store = tmp_path / "best.safetensors", f"sqlite:///{study / 'mlflow.db'}"
    result = medcore("export", study, "--select", "trial:t0000", "--out", out)
    assert result.returncode == 0 and not result.stderr, result.stderr
    splits = study.parent / "splits"
    ours, dense = (
        evaluate_file(file, [made / "polyps"], "val/report", splits=splits)
        for file in (out, made / "adapted.safetensors")
    )
    columns = own_columns(study, "t0000")
    assert columns and all(ours[name] == value for name, value in columns.items())
    row = json.loads(read_info(out)["row"])
    assert {name: row[f"report/{name}"] for name in columns} == columns
    assert own_columns(study, "t0001").keys() == columns.keys()
    assert pd.isna([*own_columns(study, "t0001").values()]).all()
    shown = [row.held_out["dice"] for row in fronts.front(str(study)).members if row.trial_id == "t0000"]
    assert shown == [ours["dice"]]
    assert "report/dice" in pd.read_parquet(study / "trials.parquet")
    (kept,) = [found for found in read_measurements(study) if found.trial_id == "t0000"]
    images = pd.read_parquet(study / "held_out" / f"{kept.key}.parquet")
    low, high = macro_interval(images["boundary_f1"], images["dataset"])
    line = f"held-out val/report, {ours['images']} images: Boundary F1 {ours['boundary_f1']:.4g} ({low:.4g}–{high:.4g})"
    assert line in result.stdout and f"dense model, not recovered: {dense['boundary_f1']:.4g} (" in result.stdout
    card = out.with_suffix(".card.md").read_text(encoding="utf-8")
    first = next(line for line in card.splitlines() if line.startswith("| Boundary F1 ↑"))
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[1:4] == [f"{ours['boundary_f1']:.4g}", f"{low:.4g} to {high:.4g}", f"{dense['boundary_f1']:.4g}"]
    assert "1 candidate of this study was measured on it." in card and "an honest figure is lower" not in card
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`medcore.trial_id` = 't0000'")
    assert runs[0].data.metrics["report/boundary_f1"] == ours["boundary_f1"] and runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["medcore.held_out"].startswith(f"val/report, {ours['images']} images")


def test_nothing_is_measured_twice_and_looks_are_counted(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = list[int]()
    monkeypatch.setattr(held_out, "evaluate", lambda model, images: runs.append(len(images)) or evaluate(model, images))
    first, _ = export(study, tmp_path / "a.safetensors")
    assert len(runs) == 2  # the candidate and the dense model
    again, said = export(study, tmp_path / "b", format="standalone")
    assert len(runs) == 2 and again == first and not any(line.startswith("measuring") for line in said)
    run(ExportRequest(str(study), tmp_path / "c.safetensors", select="trial:t0001"))
    assert len(runs) == 3
    card = (tmp_path / "c.card.md").read_text(encoding="utf-8")
    assert "2 candidates of this study were measured on it" in card
    # another image is another part
    data = tmp_path / "polyps"
    shutil.copytree(yaml.safe_load((study / "config.yaml").read_text())["data"]["folders"][0], data)
    config = yaml.safe_load((study / "config.yaml").read_text())
    config["data"] |= {"folders": [str(data)]}
    (study / "config.yaml").write_text(yaml.safe_dump(config))
    splits = json.loads((data / "splits.json").read_text())
    saved = next((study.parent / "splits").glob("*.json"))
    parts = splits | json.loads(saved.read_text())
    parts["val"] = [name for name in parts["val"] if name != parts["val/report"][0]]
    parts["val/report"] = parts["val/report"][1:]
    (data / "splits.json").write_text(json.dumps(parts))
    export(study, tmp_path / "d.safetensors")
    assert runs[3:] == [runs[0] - 1] * 2
    # gone data do not matter to what is known
    shutil.rmtree(data)
    found, _ = export(study, tmp_path / "e.safetensors")
    assert len(runs) == 5 and found.held_out["dice"] == own_columns(study, "t0000")["dice"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"folders": ["/gone"]}, "/gone"),
        ({"report_split": "val/none"}, "no split 'val/none'"),
        ({"report_split": "empty"}, "no usable image in split 'empty'"),
        ({"report_split": "val"}, "images of split 'val' are in 'val/search' too"),
        ({"report_split": None}, "names no data.report_split"),
    ],
)
def test_what_cannot_be_measured_is_said(
    change: dict[str, Any], reason: str, study: Path, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = yaml.safe_load((study / "config.yaml").read_text())
    config["data"] = {key: value for key, value in (config["data"] | change).items() if value is not None}
    (study / "config.yaml").write_text(yaml.safe_dump(config))
    saved = next((study.parent / "splits").glob("*.json"))
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"empty": []}))
    row, _ = export(study, tmp_path / "best.safetensors")
    (warning,) = [message for message in caplog.messages if message.startswith("not measured on held-out images: ")]
    assert reason in warning and not row.held_out
    card = (tmp_path / "best.card.md").read_text(encoding="utf-8")
    assert "it was not measured" in card and reason in card
    assert read_measurements(study) == [] and "report/dice" not in read_study(study)


def test_another_unpruned_model_is_not_measured(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_identity(study, Identity({"model.adapted": "0" * 64}))
    row, _ = export(study, tmp_path / "m.safetensors")
    assert "holds another model than at the start" in caplog.text and own_columns(study, row.trial_id)


def test_without_a_look_only_what_is_known_is_told(study: Path, tmp_path: Path) -> None:
    _, said = export(study, tmp_path / "a.safetensors", held_out=False)
    assert not any("held-out" in line for line in said) and not (study / "held_out").exists()
    card = (tmp_path / "a.card.md").read_text(encoding="utf-8")
    assert "it was not measured (left out by --no-held-out)" in card


def test_figures_of_a_row_that_ran_again_are_not_shown_until_it_is_exported(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(study, tmp_path / "a.safetensors")
    path = study / "trials" / "t0000" / "row.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "2026-02-02T00:00:00"}))
    assert "report/dice" not in read_study(study)
    # the same bytes again: known, and now of that run
    monkeypatch.setattr(held_out, "evaluate", lambda *_: pytest.fail("it was measured before"))
    row, _ = export(study, tmp_path / "b.safetensors")
    assert own_columns(study, "t0000")["dice"] == row.held_out["dice"]
    assert len(read_measurements(study)) == 2


def test_a_study_that_cannot_be_written_is_exported_nevertheless(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (study / "held_out").write_text("a file where a folder should be")
    row, said = export(study, tmp_path / "a.safetensors")
    assert row.held_out["dice"] > 0 and any(line.startswith("held-out val/report") for line in said)
    assert sum("cannot be kept" in message for message in caplog.messages) == 2


def test_corrupt_measurements_are_named(study: Path, tmp_path: Path) -> None:
    export(study, tmp_path / "a.safetensors")
    path = next((study / "held_out").glob("*.json"))
    path.write_text('{"trial_id": "t0000"}')
    with pytest.raises(MedcoreError, match=rf"{path.name}: corrupt"):
        read_study(study)


def test_the_tracking_server_being_away_costs_a_warning(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MlflowTracker(Destination(study, "http://127.0.0.1:9")).start({"study": "tiny"})
    row, _ = export(study, tmp_path / "a.safetensors")
    assert row.held_out["dice"] > 0
    assert sum("the held-out figures were not sent" in message for message in caplog.messages) == 1
    store = f"sqlite:///{tmp_path / 'other.db'}"
    assert sync(study, store) == 2
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("medcore")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`medcore.trial_id` = 't0000'")
    assert run.data.metrics["report/dice"] == row.held_out["dice"]
    assert run.data.tags["medcore.held_out"].endswith("candidates measured on it: 1")


def test_the_report_shows_them(study: Path, tmp_path: Path) -> None:
    report(str(study), tmp_path / "before.html", images=1)
    assert 'id="held-out"' not in (tmp_path / "before.html").read_text()
    row, _ = export(study, tmp_path / "a.safetensors")
    report(str(study), tmp_path / "after.html", images=1)
    page = (tmp_path / "after.html").read_text()
    shown = page.split('id="held-out"')[1].split("<h2")[0]
    assert "<td>dense model, not recovered</td>" in shown and "<td>trial t0000</td>" in shown
    assert f"<td>{row.held_out['boundary_f1']:.4g}<span" in shown


def test_fine_tuning_learns_and_is_not_done_twice(study: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    result = medcore("export", study, "--select", "trial:t0000", "--out", out, "--finetune")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("epoch 3 of 3: loss ")]
    config = load_config(made / "tiny.yaml")
    place = {"save_splits": study.parent / "splits", "deal_splits": False}
    train, _ = load_image_set(config.data.folders, "train", TINY.img_size, **place)
    search, _ = load_image_set(config.data.folders, "val/search", TINY.img_size, **place)
    reported, _ = load_image_set(config.data.folders, "val/report", TINY.img_size, **place)
    before, after = load(study / "trials" / "t0000" / "model.safetensors"), load(out)
    settings = train_settings(config.finetune)
    assert validation_loss(after, train, settings) < 0.95 * validation_loss(before, train, settings)
    assert after.spec == before.spec and device_of(after).type == "cpu"
    # the row speaks of what was exported, the study's table of the trial
    row = json.loads(read_info(out)["row"])
    on_search, on_report = (summarise(evaluate(after, images)) for images in (search, reported))
    assert {name: row[name] for name in on_search} == on_search
    assert {name: row[f"report/{name}"] for name in on_report} == on_report
    assert row["finetune"]["before"] == summarise(evaluate(before, search))
    assert "report/dice" not in read_study(study)
    card = out.with_suffix(".card.md").read_text(encoding="utf-8")
    tuning = card.split("## Fine-tuning")[1].split("## Quality")[0]
    assert f"part 'train' ({len(train)} images)" in tuning and "epochs 3" in tuning and "lr 0.002" in tuning
    assert f"| {row['finetune']['before']['dice']:.4g} | {row['dice']:.4g} |" in tuning
    kept = study / "trials" / "t0000" / "finetune"
    assert sorted(path.name for path in kept.iterdir()) == ["images.parquet", "model.safetensors"]
    written = kept.joinpath("model.safetensors").stat().st_mtime_ns
    again, said = export(study, tmp_path / "again.safetensors", finetune=True)
    assert not any(line.startswith(("epoch", "measuring")) for line in said)
    assert again.held_out["dice"] == row["report/dice"]
    assert kept.joinpath("model.safetensors").stat().st_mtime_ns == written
    other = config.finetune.model_copy(update={"epochs": 4})
    with pytest.raises(ConfigError, match=r"finetune: .*settings"):
        export(study, tmp_path / "other.safetensors", finetune=True, settings=other)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_killed_fine_tuning_ends_in_the_same_weights(study: Path, made: Path, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    command = [sys.executable, "-c", KILLED, study, out]
    assert subprocess.run(command, env=environment(), timeout=240).returncode == -signal.SIGKILL
    folder = study / "trials" / "t0001" / "finetune"
    assert [path.name for path in folder.iterdir()] == ["training.state"] and not out.exists()
    said = list[str]()
    run(ExportRequest(str(study), out, select="trial:t0001", finetune=True, held_out=False), said.append)
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 3"]
    shutil.rmtree(folder)
    run(ExportRequest(str(study), undisturbed, select="trial:t0001", finetune=True, held_out=False))
    resumed = load(out).state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in load(undisturbed).state_dict().items())


def test_fine_tuning_that_learns_nothing_or_makes_it_worse(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(study / "config.yaml").finetune
    with pytest.raises(MedcoreError, match=r"^finetune: non-finite .*finetune\.lr$"):
        export(study, tmp_path / "a.safetensors", finetune=True, settings=config.model_copy(update={"lr": 1e30}))
    assert not list(tmp_path.glob("a.*"))
    before = summarise(evaluate(load(study / "trials" / "t0000" / "model.safetensors"), _search_images(study)))
    hurt = config.model_copy(update={"epochs": 1, "lr": 0.3})
    row, _ = export(study, tmp_path / "b.safetensors", finetune=True, settings=hurt, held_out=False)
    worse = row.metrics["boundary_f1"] < before["boundary_f1"]
    assert worse == any("fine-tuning made the model worse" in message for message in caplog.messages) and worse


def test_fine_tuning_must_not_see_the_held_out_images(study: Path, tmp_path: Path) -> None:
    config = load_config(study / "config.yaml").finetune.model_copy(update={"train_split": "all"})
    with pytest.raises(MedcoreError, match=r"'all' .*'val/search'"):
        export(study, tmp_path / "a.safetensors", finetune=True, settings=config)
    with pytest.raises(ConfigError, match="--finetune"):
        studies.export(str(study), tmp_path / "a.safetensors", config=study / "config.yaml")


def test_interrupted_fine_tuning_says_how_to_go_on(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("epoch 1"):
            os.kill(os.getpid(), signal.SIGINT)

    # tests that a script starts in the background inherit that it is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(ExportRequest(str(study), tmp_path / "a.safetensors", select="trial:t0000", finetune=True), say)
    finally:
        signal.signal(signal.SIGINT, before)
    assert said[-1].startswith("fine-tuning interrupted; the same command continues")
    assert (study / "trials" / "t0000" / "finetune" / "training.state").is_file()


def _search_images(study: Path) -> Any:
    folders = load_config(study / "config.yaml").data.folders
    return load_image_set(folders, "val/search", TINY.img_size, save_splits=study.parent / "splits")[0]
