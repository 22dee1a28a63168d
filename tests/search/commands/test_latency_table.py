"""`medcore latency --table`: which architecture is measured, what is written and printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.models.checkpoint import save
from medcore.quality.latency import Effort
from medcore.quality.site_times import measure_sites
from medcore.quality.time_table import TimeTable, read_time_table
from search.cli.main import app
from search.commands import latency as command
from search.commands.latency import time_table
from tests.support.helpers import TINY, model_of
from tests.support.studies.study_files import write_tiny_study


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any, **options: Any) -> TimeTable:
        return measure_sites(*arguments, **options, effort=Effort(rounds=1, block_seconds=1e-5))

    monkeypatch.setattr(command, "measure_sites", measure)


def run(*arguments: str | Path) -> Result:
    # long times, as on a busy machine, must not break a line of the table
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["latency", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_configurations_studies_checkpoints_and_architectures_name_what_is_measured(tmp_path: Path) -> None:
    config, out = write_tiny_study(tmp_path), tmp_path / "times.json"
    study = tmp_path / "runs" / "tiny"
    study.mkdir(parents=True)
    (study / "config.yaml").write_text(config.read_text())
    save(tmp_path / "pruned.safetensors", model_of(8))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_dict()))
    for target in (config, study, tmp_path / "pruned.safetensors", tmp_path / "tiny.json"):
        table = time_table(target, out)
        assert table.arch == TINY and read_time_table(out, TINY) == table
        out.unlink()


def test_the_command_line_writes_and_shows_a_table(tmp_path: Path) -> None:
    arch, out = tmp_path / "tiny.json", tmp_path / "times.json"
    arch.write_text(json.dumps(TINY.to_dict()))
    shown = run(arch, "--table", out).output
    # noise of a busy machine can leave 0 ms to all heads, and equal sites have one row
    assert re.search("Attention heads of blocks (0, 2|0, 1, 2, 3) ", shown)
    assert "MLP channels of blocks 0, 1, 2, 3" in shown
    assert "1 thread, 1 image a call, float32" in shown and f"wrote {out}" in shown.replace("\n", "")
    printed = json.loads(run(arch, "--table", out, "--json", "--batch", "2", "--threads", "2", "--autocast").stdout)
    assert printed.pop("file") == str(out)
    assert printed == json.loads(out.read_text())
    assert (printed["batch"], printed["threads"], printed["autocast"]) == (2, 2, True)


def test_what_cannot_be_measured_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = tmp_path / "tiny.json"
    arch.write_text(json.dumps(TINY.to_dict()))
    with pytest.raises(CheckpointError, match="unknown architecture 'absent'"):
        time_table(Path("absent"), tmp_path / "times.json")
    with pytest.raises(MedcoreError, match=r"config\.yaml"):
        time_table(tmp_path, tmp_path / "times.json")
    with pytest.raises(ConfigError, match="its folder does not exist"):
        time_table(arch, tmp_path / "absent" / "times.json")

    def full(*_: Any, **__: Any) -> TimeTable:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(command, "measure_sites", full)
    with pytest.raises(MedcoreError, match="out of GPU memory for tiny with 8 images a call; give a smaller --batch"):
        time_table(arch, tmp_path / "times.json", batch=8)
