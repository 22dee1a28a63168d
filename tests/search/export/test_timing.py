"""Times of a study and of an export: what is measured, kept and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.latency import Effort
from medcore.quality.timing import Conditions, Latency, Timing
from results.plots.latency_plot import latency_figure
from results.stats.select import choose
from results.store.latency import FILE, Setup, add_latency, dense_columns, latest, read_latency, trial_columns
from results.store.study_info import read_study_info
from results.store.trials import read_study
from search.cli.main import app
from search.cli.tables import front_view
from search.commands import front as fronts
from search.commands.latency import study_latency
from search.export import timing as module
from search.export.timing import export_latency
from tests.support.helpers import TINY, model_of
from tests.support.machines.command_line import medcore
from tests.support.studies.timed_study import HERE, OBJECTIVES, measured, record, write_timed_study

SHORT = Effort(rounds=3, block_seconds=1e-4)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_timed_study(tmp_path / "s")


def test_records_survive_the_file_and_replace_only_their_own_kind(tmp_path: Path) -> None:
    other = replace(HERE, threads=2)
    whole = Timing(30.0, 0.2, 40, low_ms=29.5, high_ms=30.5, cpu_ms=29.0)
    first = [record("t0"), record("t0", batch=8), record("t0", setup=other, when="2026-01-02")]
    first[2] = replace(
        first[2], model=Latency(whole, whole, 9), conditions=Conditions(0.01, None, 2000.0), accepted=True
    )
    add_latency(tmp_path, first)
    assert read_latency(tmp_path) == first
    newer = record("t0", 20.0, when="2026-01-03")
    add_latency(tmp_path, [newer])
    assert read_latency(tmp_path) == [first[1], first[2], newer]
    assert latest(read_latency(tmp_path)) == [first[1], newer] and latest([]) == []
    (value,) = [each for each in json.loads((tmp_path / FILE).read_text()) if each["threads"] == 2]
    assert value["trial_id"] == "t0" and value["model"]["whole"]["cpu_ms"] == 29.0
    before = {"median_ms": 30.0, "iqr_ms": 0.2, "repeats": 4}
    value = {key: content for key, content in value.items() if key not in ("conditions", "accepted")}
    value |= {"model": {"encoder": before, "whole": before, "peak_bytes": 9}}
    (tmp_path / FILE).write_text(json.dumps([value]))
    (old,) = read_latency(tmp_path)
    assert old.model.whole == Timing(30.0, 0.2, 4) and not old.doubt


@pytest.mark.parametrize(
    "text", ["", "3", "[3]", '["a"]', "[{}]", '[{"trial_id": "t0"}]', "{}{}", "half"], ids=lambda text: text or "empty"
)
def test_a_file_that_is_no_record_of_times_is_named(text: str, study: Path) -> None:
    (study / FILE).write_text(text)
    with pytest.raises(MedcoreError, match=r"latency\.json: corrupt .*delete it") as caught:
        read_study(study)
    assert "\n" not in str(caught.value)


def test_a_time_of_zero_is_no_time(tmp_path: Path) -> None:
    add_latency(tmp_path, [record("t0", 0.0)])
    with pytest.raises(MedcoreError, match=r"corrupt .*no time"):
        read_latency(tmp_path)


def test_columns_by_hand() -> None:
    rows = trial_columns([record("t0"), record("t0", 80.0, batch=8)])["t0"]
    assert rows.pop("latency_device") == "a CPU, 1 thread, float32, torch 2.0"
    assert rows == {
        **{"peak_mb": 2.0, "latency_ms": 30.0, "latency_ms_iqr": 0.2, "latency_ms_fraction": 0.75},
        **{"encoder_ms": 15.0, "encoder_ms_iqr": 0.1, "encoder_ms_fraction": 0.6},
        **{"peak_mb_batch8": 2.0, "latency_ms_batch8": 80.0, "latency_ms_iqr_batch8": 0.2},
        **{"latency_ms_fraction_batch8": 2.0, "encoder_ms_batch8": 40.0, "encoder_ms_iqr_batch8": 0.1},
        "encoder_ms_fraction_batch8": 1.6,
    }
    slower = replace(record("t1"), dense=measured(60.0, 25.0))
    assert dense_columns([record("t0"), slower])["latency_ms"] == 50.0


def test_the_trial_table_has_the_figures_of_the_set_up_that_was_measured_last(study: Path) -> None:
    plain = read_study(study)
    assert "latency_ms" not in plain and "latency_ms" not in read_study_info(study).dense
    gpu = Setup("a GPU", 4, True, "2.0")
    add_latency(study, [record("t0"), record("t1", 9.0), record("t0", 5.0, setup=gpu, when="2026-01-02")])
    trials = read_study(study)
    assert trials["latency_ms"].tolist()[0] == 5.0 and trials["latency_ms"].isna().tolist() == [False, True, True]
    assert trials["latency_device"][0] == "a GPU, 4 threads, bfloat16, torch 2.0"
    assert read_study_info(study).dense["latency_ms"] == 40.0
    pd.testing.assert_frame_equal(trials[[*plain]], plain)


def test_rules_on_time(study: Path) -> None:
    def take(rule: str) -> str:
        return str(choose(read_study(study), OBJECTIVES, rule)["trial_id"])

    for rule in ("latency_ms<=40", "best:latency_ms", "knee,peak_mb<=9"):
        with pytest.raises(MedcoreError, match=r"not known for 2 of 2 members .* run `medcore latency STUDY` first"):
            take(rule)
    add_latency(study, [record("t1", 20.0)])
    with pytest.raises(MedcoreError, match="latency_ms is not known for 1 of 2 members"):
        take("best:latency_ms")
    add_latency(study, [record("t0", 30.0)])
    assert take("best:latency_ms") == take("latency_ms<=25") == "t1"
    assert take("latency_ms<=40") == "t0", "cost is settled, so quality decides"
    assert take("encoder_ms_fraction<=0.4") == "t1"
    with pytest.raises(MedcoreError, match=r"nearest is trial:t1 with latency_ms 20"):
        take("latency_ms<=4")
    with pytest.raises(MedcoreError, match=r"run `medcore latency STUDY --batch 1,8` first"):
        take("latency_ms_batch8<=4")
    add_latency(study, [record("t0", 60.0, batch=8), record("t1", 50.0, batch=8)])
    assert take("best:latency_ms_batch8") == "t1"


def test_what_was_measured_stays_when_a_call_is_interrupted(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare", stopping(after=1))
    with pytest.raises(KeyboardInterrupt):
        study_latency(study, [1, 2], threads=1)
    (kept,) = read_latency(study)
    # the front begins with the cheapest
    assert (kept.trial_id, kept.batch) == ("t1", 1)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "compare", quick)
    records = study_latency(study, [1, 2], threads=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)] and kept in records
    assert sorted((each.trial_id, each.batch) for each in records) == [("t0", 1), ("t0", 2), ("t1", 1), ("t1", 2)]
    share = cost(model_of(8).spec).flops / cost(ModelSpec.dense(TINY)).flops
    assert kept.flops_fraction == pytest.approx(share) and kept.setup.threads == 1
    study_latency(study, [1, 2], threads=1, again=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[4:] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)] and kept not in read_latency(study)
    assert len(study_latency(study, [1], threads=1, select="all")) == 5 and len(read_latency(study)) == 5
    (study / "trials/t0/model.safetensors").unlink()
    said: list[str] = []
    study_latency(study, [1], threads=1, again=True, say=said.append)
    assert said == ["not measured, as their checkpoints are gone: t0"]
    assert "t0" in {each.trial_id for each in read_latency(study)}


def test_what_cannot_be_measured_is_one_clear_line(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--select knee.*front, all"):
        study_latency(study, select="knee")
    with pytest.raises(MedcoreError, match="no study"):
        study_latency(study / "trials" / "t0")

    def too_big(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "compare", too_big)
    with pytest.raises(MedcoreError, match=r"--batch 64.*memory"):
        study_latency(study, [64])
    for path in study.glob("trials/*/model.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="checkpoint"):
        study_latency(study)


def test_the_command_line_measures_a_checkpoint(study: Path) -> None:
    file = study / "trials/t1/model.safetensors"
    result = medcore("latency", file, "--batch", "1", "--threads", "1", "--json")
    assert result.returncode == 0 and "USDT" not in result.stderr, result.stderr
    (own,) = json.loads(result.stdout)["records"]
    assert (own["trial_id"], own["batch"], own["threads"]) == ("model.safetensors", 1, 1)
    assert own["flops_fraction"] == pytest.approx(read_study(study)["flops_fraction"][1])
    assert own["model"]["whole"]["repeats"] > 1 and own["model"]["peak_bytes"] < own["dense"]["peak_bytes"]


def test_the_command_line_measures_a_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compare", quick)
    answer = json.loads(run("latency", study, "--batch", "2,1", "--json").stdout)
    assert [(each["trial_id"], each["batch"]) for each in answer["records"]] == [
        *(("t1", 1), ("t1", 2)),
        *(("t0", 1), ("t0", 2)),
    ]
    assert [{**each.to_dict(), "doubt": each.doubt} for each in read_latency(study)] == answer["records"]
    table = run("latency", study, "--batch", "1").output
    assert "t1" in table and "dense" in table and f"wrote {study / FILE}" in table
    for wrong in ("0", "1,x", ""):
        with pytest.raises(ConfigError, match="--batch"):
            run("latency", study, "--batch", wrong)
    monkeypatch.setattr(module, "compare", stopping(after=1))
    stopped = run("latency", study, "--again")
    assert stopped.exit_code == 130 and "the same command continues" in stopped.stderr


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_front_shows_time_beside_flops(study: Path) -> None:
    console = Console(width=80)

    def shown() -> str:
        with console.capture() as captured:
            console.print(front_view(fronts.front(str(study))))
        return captured.get()

    assert "time and memory" not in shown()
    add_latency(study, [record("t0"), record("t1", 20.0)])
    text = shown()
    assert "a CPU, 1 thread, float32, torch 2.0" in text and "75.0%" in text and "50.0%" in text and "…" not in text
    files = fronts.write(str(study), study / "out")
    table = pd.read_csv(files[0])
    assert table["latency_ms"].tolist() == [20.0, 30.0, 40.0] and table["latency_ms_fraction"].tolist() == [
        0.5,
        0.75,
        1,
    ]
    assert "Time and memory: one image and box a call, on a CPU, 1 thread" in files[1].read_text()


def test_the_picture_holds_what_was_measured(study: Path) -> None:
    assert latency_figure(read_study(study)) is None
    add_latency(study, [record("t0"), record("t2", 20.0)])
    figure = latency_figure(read_study(study))
    assert figure is not None
    encoder, whole, _ = figure.data
    shares = read_study(study)["flops_fraction"].to_numpy()[[0, 2]]
    np.testing.assert_allclose(whole.x, 100 * shares)
    np.testing.assert_allclose(whole.y, [75, 50])
    np.testing.assert_allclose(encoder.y, [60, 40])


def test_an_export_measures_shortly_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(10)
    records, note = export_latency(model, model.arch)
    assert [each.batch for each in records] == [1, 8] and note == "" and all(each.trial_id == "" for each in records)
    monkeypatch.setattr(module, "compare", lambda models, *_: dict.fromkeys(models, measured(13e3, 12e3)))
    records, note = export_latency(model, model.arch)
    assert [each.batch for each in records] == [1] and "Batches of 8 were left out" in note


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA"), "out of GPU memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "can't allocate memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_ends_the_measurement_does_not_end_the_export(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_from(batch: int) -> Any:
        def found(models: Any, size: int, *_: Any) -> dict[str, Latency]:
            if size >= batch:
                raise error
            return quick(models)

        return found

    monkeypatch.setattr(module, "compare", fails_from(1))
    records, note = export_latency(model_of(8), TINY)
    assert records == [] and note.startswith("Time was not measured: ") and words in note
    monkeypatch.setattr(module, "compare", fails_from(8))
    records, note = export_latency(model_of(8), TINY)
    assert [each.batch for each in records] == [1]
    assert note.startswith("Time of batches of 8 was not measured: ") and words in note


def test_other_errors_of_the_measurement_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(module, "compare", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        export_latency(model_of(8), TINY)


def test_records_that_are_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_latency(tmp_path, [record(f"t{number}")]), range(24)))
    assert {each.trial_id for each in read_latency(tmp_path)} == {f"t{number}" for number in range(24)}


def quick(models: Any, *_: Any) -> dict[str, Latency]:
    """Return fixed figures, for tests that check only how records are handled."""
    return dict.fromkeys(models, measured(30.0, 20.0))


def stopping(after: int) -> Any:
    """Return a function that acts as `quick` for `after` calls and then raises KeyboardInterrupt."""

    def answers() -> Iterator[None]:
        yield from [None] * after
        raise KeyboardInterrupt

    left = answers()

    def found(*arguments: Any) -> dict[str, Latency]:
        next(left)
        return quick(*arguments)

    return found
