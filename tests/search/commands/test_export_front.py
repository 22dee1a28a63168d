"""`medcore export --select front`: all members, one table, and one failure that stops no other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medcore.errors import ConfigError, MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.spec import ModelSpec
from results.store.trials import write_row
from search.cli.main import app
from search.commands.export import ExportRequest, export_front
from search.export import candidate
from search.study.inputs import cost_metrics
from tests.support.helpers import TINY, spec_of
from tests.support.studies import rows
from tests.support.studies.export_study import names, random_model, replace_format, write_study_of_one

SMALL = spec_of(TINY, (1, 0, 0, 1), (3, 5, 0, 1))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose front is t0001 and t0000; t0002 is off it."""
    folder = write_study_of_one(tmp_path)
    for number, spec, dice in ((1, SMALL, 0.5), (2, ModelSpec.dense(TINY), 0.4)):
        trial = f"t000{number}"
        row = {"trial_id": trial, "number": number, "status": "done", "origin": "sampled", "dice": dice}
        row |= {**spec.budget, "checkpoint": f"trials/{trial}/model.safetensors"}
        rows.write_row(folder, row | cost_metrics(spec))
        save(folder / "trials" / trial / "model.safetensors", random_model(spec, number))
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "exported.csv").read_text().splitlines()))


def test_every_member_has_its_file_and_its_line(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "held_out", lambda *_: pytest.fail("a whole front is no look at held-out images"))
    out = tmp_path / "front"
    done = export_front(ExportRequest(str(study), out, select="front", latency=False))
    assert [each.row.trial_id for each in done] == ["t0001", "t0000"]
    cards, files = [f"t000{i}.card.md" for i in (0, 1)], [f"t000{i}.safetensors" for i in (0, 1)]
    assert names(out) == sorted([*cards, *files, "exported.csv"])
    assert load(out / "t0001.safetensors").spec == SMALL
    first, second = table(out)
    assert (first["trial_id"], first["written"], first["dtype"]) == ("t0001", "t0001.safetensors", "float32")
    assert int(first["bytes"]) == (out / "t0001.safetensors").stat().st_size < int(second["bytes"])
    assert float(first["dice"]) == 0.5 and float(first["flops"]) < float(second["flops"]) and not first["problem"]
    assert "only with --held-out" in (out / "t0000.card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["t0000", "t0001"])
def test_a_failure_loses_no_other_member_and_ends_with_exit_code_1(broken: str, study: Path, tmp_path: Path) -> None:
    (study / "trials" / broken / "model.safetensors").write_bytes(b"damaged")
    out, whole = tmp_path / "front", {"t0000": "t0001", "t0001": "t0000"}[broken]
    arguments = ["export", str(study), "--select", "front", "--out", str(out), "--no-latency", "--no-held-out"]
    result = CliRunner().invoke(app, [*arguments, "--format", "standalone"], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and "failed:" in result.stdout and "exported.csv" in result.stdout
    assert "load_pruned.py" in names(out / whole) and not (out / broken).exists()
    problems = {row["trial_id"]: row["problem"] for row in table(out)}
    assert "not a checkpoint" in problems[broken] and problems[whole] == ""


def test_an_interrupted_export_has_a_table_of_what_is_there(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(path: Path, model: Any, images: Callable[[], Any]) -> str:
        if path.stem == "t0000":
            raise KeyboardInterrupt
        return "looked at."

    replace_format(monkeypatch, "checkpoint", check=check)
    with pytest.raises(KeyboardInterrupt):
        export_front(ExportRequest(str(study), tmp_path / "front", select="front", latency=False))
    assert [row["trial_id"] for row in table(tmp_path / "front")] == ["t0001"]
    assert names(tmp_path / "front") == ["exported.csv", "t0001.card.md", "t0001.safetensors"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"out": "best.safetensors"}, r"best\.safetensors.*folder"),
        ({"register": "polyps", "format": "mlflow"}, "--register.*one trial"),
        ({"format": "torchscript"}, "torchscript: unknown"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"study": "mlflow:a/b"}, "mlflow:a/b: --select front needs the study's folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    options: dict[str, str], reason: str, study: Path, tmp_path: Path
) -> None:
    out = tmp_path / options.pop("out", "front")
    with pytest.raises(ConfigError, match=reason):
        export_front(ExportRequest(options.pop("study", str(study)), out, select="front", **options))  # type: ignore[arg-type]
    assert not out.exists()


def test_an_empty_front_is_an_error(study: Path, tmp_path: Path) -> None:
    for number in range(3):
        failed = {"trial_id": f"t000{number}", "number": number, "status": "failed", "origin": "sampled"}
        write_row(study, rows.TrialRow.from_flat(failed))
    with pytest.raises(MedcoreError, match="no trial"):
        export_front(ExportRequest(str(study), tmp_path / "front", select="front"))
