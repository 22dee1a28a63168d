"""`front` and `export` on studies written by hand: refusals before any work, and nothing left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from medcore.errors import CheckpointError, ConfigError, MedcoreError
from results.store.trials import compact
from search.base.terminal.console import PlainConsole
from search.cli.tables import evaluation_table, front_table
from search.commands import front as fronts
from search.commands.export import ExportRequest, export
from search.tracking import remote as tracked
from tests.support.studies.rows import write_row, write_study

INFO: dict[str, Any] = {
    "name": "s",
    "objectives": [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}],
    "reference": {"flops": 101.0, "boundary_f1": 0.0},
    "dense": {"flops": 100.0, "boundary_f1": 0.9},
    "widths": {"heads": 3, "channels": 8},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    write_study(folder, INFO)
    row = {"trial_id": "t0000", "number": 0, "status": "done", "origin": "sampled", "flops": 50.0, "boundary_f1": 0.8}
    write_row(folder, row | {"heads": [3, 0], "channels": [8, 8], "checkpoint": "trials/t0000/model.safetensors"})
    compact(folder)
    return folder


@pytest.mark.parametrize(
    ("address", "out", "reason"),
    [
        ("mlflow:medcore/s", "best.pth", r"must end in \.safetensors"),
        ("runs/s", "best.pth", r"must end in \.safetensors"),
    ],
)
def test_export_refuses_before_it_reads_anything(
    address: str, out: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("nothing to read for this")

    monkeypatch.setattr(tracked, "download_study", read)
    monkeypatch.setattr(tracked, "read_study", read)
    with pytest.raises(ConfigError, match=reason):
        export(ExportRequest(address, Path(out)))


def test_export_of_a_checkpoint_that_is_gone(study: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*t0000"):
        export(ExportRequest(str(study), tmp_path / "best.safetensors"))


def test_export_of_weights_that_the_search_removed_says_so(study: Path, tmp_path: Path) -> None:
    (study / "config.yaml").write_text("search: {keep: front}")
    with pytest.raises(CheckpointError, match=r"t0000 were removed.*search\.keep: front"):
        export(ExportRequest(str(study), tmp_path / "best.safetensors", select="trial:t0000"))


def test_a_downloaded_study_leaves_nothing_behind(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(address: str, folder: Path) -> Path:
        assert address == "mlflow:medcore/s"
        for name in ("study.json", "trials.parquet"):
            shutil.copy(study / name, folder / name)
        return folder

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(tracked, "download_study", download)
    assert fronts.front("mlflow:medcore/s") == fronts.front(str(study))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("key", ["widths", "reference", "dense", "objectives", "name"])
def test_front_names_what_the_description_lacks(study: Path, key: str) -> None:
    (study / "study.json").write_text(json.dumps({name: value for name, value in INFO.items() if name != key}))
    with pytest.raises(MedcoreError, match=rf"study\.json: field {key} "):
        fronts.front(str(study))


def test_tables_show_a_dash_for_what_was_not_measured_and_names_as_they_are(study: Path) -> None:
    console = PlainConsole(width=200)
    with console.capture() as captured:
        front = fronts.front(str(study))
        odd = dataclasses.replace(front, info=front.info.model_copy(update={"name": "[red]s"}))
        console.print(front_table(odd))
        console.print(evaluation_table({"[bold]best.safetensors": {"dice": 0.5}}))
    text = captured.get()
    assert "[red]s: 1 of 1 trials" in text and "[bold]best.safetensors" in text and "–" in text
