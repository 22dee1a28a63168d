"""Times of a busy machine, or of too few calls, are in doubt, and rules refuse them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from medcore.errors import MedcoreError
from medcore.quality.time_table import read_time_table
from medcore.quality.timing import Conditions, Latency, Timing
from results.pages.report_tables import time_cells
from results.stats.select import choose
from results.store.latency import add_latency
from results.store.trials import read_study
from search.cli.main import app
from search.cli.tables import front_view, latency_table
from search.commands import latency as command
from search.commands.front import front
from search.export.timing import setup_for
from tests.support.studies.timed_study import OBJECTIVES, record, write_timed_study
from tests.support.time_tables import TABLE

BUSY = Conditions(waited=0.4, others=0.9)


def test_rules_refuse_times_of_a_busy_machine_until_they_are_accepted(tmp_path: Path) -> None:
    study = write_timed_study(tmp_path / "s")
    add_latency(study, [record("t0"), replace(record("t1", 20.0), conditions=BUSY), record("t0", 90.0, 8)])
    add_latency(study, [record("t1", 80.0, 8)])
    assert "machine was busy" in read_study(study).set_index("trial_id").loc["t1", "latency_doubt"]
    for rule in ("latency_ms<=100", "best:encoder_ms", "knee,latency_ms_fraction<=1"):
        with pytest.raises(MedcoreError, match=r"doubtful for 1 of 2 .*t1.*busy.*--again.*--accept"):
            choose(read_study(study), OBJECTIVES, rule)
    assert choose(read_study(study), OBJECTIVES, "best:latency_ms_batch8")["trial_id"] == "t1"
    assert choose(read_study(study), OBJECTIVES, "peak_mb<=3")["trial_id"] == "t0"
    result = CliRunner().invoke(app, ["latency", str(study), "--batch", "1", "--accept"], catch_exceptions=False)
    assert result.exit_code == 0 and "do not trust" not in result.stderr
    assert choose(read_study(study), OBJECTIVES, "best:latency_ms")["trial_id"] in ("t0", "t1")


def test_tables_mark_times_of_a_busy_machine(tmp_path: Path) -> None:
    console = Console(width=80)

    def shown(view: RenderableType) -> list[str]:
        with console.capture() as captured:
            console.print(view)
        return captured.get().splitlines()

    study = write_timed_study(tmp_path / "s")
    records = [record("t0"), replace(record("t1", 20.0), conditions=BUSY), record("t0", 90.0, 8)]
    add_latency(study, records)
    for view in (latency_table(records), front_view(front(str(study)))):
        lines = shown(view)
        times = lines[next(number for number, line in enumerate(lines) if "time and memory" in line) :]
        lines_of = {name: [line for line in times if line.strip().startswith(name)] for name in ("t0", "t1", "dense")}
        assert lines_of["t0"] and not any("?" in line for line in lines_of["t0"])
        assert [line.count(" ?") for line in lines_of["t1"]] == [4] and "20 ?" in lines_of["t1"][0]
        assert lines_of["dense"][0].count(" ?") == 4
        assert any("? do not trust: the machine was busy" in line for line in times)
        assert "…" not in "".join(times) and not any(line.count("?") for line in shown(latency_table(records[:1])))


def test_a_report_marks_times_of_a_busy_machine(tmp_path: Path) -> None:
    study = write_timed_study(tmp_path / "s")
    add_latency(study, [record("t0"), replace(record("t1", 20.0), conditions=BUSY)])
    rows = {row["trial"]: row for row in time_cells(front(str(study)))}
    marked = {trial: [head for head, cell in row.items() if cell.endswith(" ?")] for trial, row in rows.items()}
    times = ["call (ms)", "time of a call left", "encoder (ms)", "time of the encoder left"]
    assert marked == {"t0": [], "t1": [head for head in times if head in rows["t1"]], "": marked["t1"]}
    assert len(marked["t1"]) >= 3 and rows["t1"]["call (ms)"] == "20 ?" and "peak memory (MB)" in rows["t1"]


def test_json_says_why_times_are_in_doubt(tmp_path: Path) -> None:
    study = write_timed_study(tmp_path / "s")
    here = setup_for(1, False)
    add_latency(study, [record("t0", setup=here), replace(record("t1", setup=here), conditions=BUSY)])
    words = ["latency", str(study), "--batch", "1", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    doubts = {each["trial_id"]: each["doubt"] for each in json.loads(result.stdout)["records"]}
    assert doubts["t0"] == "" and "machine was busy" in doubts["t1"]


def test_a_table_of_times_says_that_the_machine_was_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure_sites", lambda *_, **__: TABLE)
    for found, count in ((BUSY, 1), (Conditions(0.01, 0.05), 0)):
        said = list[str]()
        monkeypatch.setattr(command, "conditions_since", lambda _, found=found: found)
        command.time_table(Path("vit_b"), tmp_path / "times.json", say=said.append)
        assert [line.partition(": ")[2][:40] for line in said] == ["do not trust these times: the machine wa"] * count
        assert read_time_table(tmp_path / "times.json") == TABLE


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Timing(30.0, None, 1, cpu_ms=30.0), "1 timed calls are too few"),
        (Timing(30.0, 9.0, 20, 25.0, 40.0, 30.0), "50% of it wide"),
        (Timing(30.0, 9.0, 20, 29.5, 30.5, 30.0), ""),
    ],
)
def test_times_that_are_uncertain_are_in_doubt(timing: Timing, words: str) -> None:
    sure = Timing(30.0, 9.0, 20, 29.5, 30.5, 30.0)
    for model in (Latency(timing, timing, 1), Latency(timing, sure, 1), Latency(sure, timing, 1)):
        doubt = replace(record("t0"), model=model).doubt
        assert words.partition(" ")[2] in doubt and bool(doubt) == bool(words)
