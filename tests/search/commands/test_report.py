"""`medcore report`: one file, complete, bounded, and honest about what is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medcore.data.load import load_image_set
from medcore.errors import ConfigError, MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.sam import build
from medcore.quality.evaluate import evaluate, summarise
from results.stats.intervals import macro_interval
from results.stats.loss import ALL, quality_loss
from results.stats.pareto import front_table
from results.stats.worst import worst_images
from results.store.held_out import Measurement, write_measurement
from results.store.study_info import read_study_info, study_info
from results.store.trials import compact, read_study, write_images
from search.base.config import load_config
from search.commands.report.report import members_of, report
from search.export.sheets import Sheets
from search.study.inputs import cost_metrics
from search.tracking import remote as tracked
from tests.support.helpers import TINY, spec_of
from tests.support.machines.command_line import medcore
from tests.support.studies.made_trials import CHANNELS, DENSE_FLOPS, HEADS, OBJECTIVES, measured, study
from tests.support.studies.rows import write_row, write_study
from tests.support.studies.study_files import write_tiny_study

DENSE = {"flops": DENSE_FLOPS, "boundary_f1": 0.9, "hd95": 5.0, "dice": 0.95}
INFO: dict[str, Any] = {
    "name": "s",
    "objectives": OBJECTIVES,
    "reference": {"flops": 1.01 * DENSE_FLOPS, "boundary_f1": 0.0, "hd95": 600.0},
    "dense": DENSE,
    "widths": {"heads": HEADS, "channels": CHANNELS},
}


def synthetic(folder: Path, count: int, images: int) -> pd.DataFrame:
    """A finished study as two tables, without configuration and checkpoints."""
    trials = study(count).assign(reason=None)
    trials.loc[trials["status"] == "failed", "reason"] = "out of memory"
    write_study(folder, INFO)
    trials.to_parquet(folder / "trials.parquet")
    measured(trials, images).to_parquet(folder / "images.parquet")
    return trials


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two random models on real files, as a search leaves it."""
    folder = tmp_path_factory.mktemp("real")
    config = load_config(write_tiny_study(folder))
    images, _ = load_image_set(config.data.folders, "val/search", TINY.img_size, save_splits=config.output / "splits")
    dense = load(config.model.adapted)
    objectives = [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
    metrics = summarise(evaluate(dense, images)) | cost_metrics(dense.spec)
    info = {"name": "tiny", "objectives": objectives, "dense": metrics}
    reference = {"flops": 1.01 * metrics["flops"], "boundary_f1": 0.0}
    widths = {"heads": TINY.num_heads, "channels": TINY.mlp_dim}
    write_study(config.folder, info | {"reference": reference, "widths": widths})
    (config.folder / "config.yaml").write_text(config.to_yaml() + "of_another_version: 1\n")
    for number in range(2):
        trial_id = f"t{number:04}"
        torch.manual_seed(10 + number)
        spec = spec_of(TINY, (TINY.num_heads,) * TINY.depth, (8 + number,) * TINY.depth)
        model, place = build(spec), f"trials/{trial_id}/model.safetensors"
        save(config.folder / place, model)
        rows = evaluate(model, images)
        write_images(config.folder, trial_id, rows)
        row = {"trial_id": trial_id, "number": number, "status": "done", "origin": "sampled", "checkpoint": place}
        row |= {**spec.budget, "versions": {"python": "3"}, "git": "abc"}
        # the second is worth its cost, whatever chance gives
        write_row(config.folder, row | summarise(rows) | cost_metrics(spec) | {"boundary_f1": 0.1 * (1 + number)})
    compact(config.folder)
    return config.folder


def test_a_thousand_trials_stay_below_ten_megabytes(tmp_path: Path) -> None:
    trials = synthetic(tmp_path / "s", 1000, 40)
    notes = report(str(tmp_path / "s"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert len(page.encode()) < 10e6 and page.rstrip().endswith("</html>")
    assert not re.search(r'<(script|link|img)[^>]*(src|href)=(?!"data:)', page)
    front = front_table(trials, OBJECTIVES)
    assert all(f"<td>{trial_id}</td>" in page for trial_id in front["trial_id"])
    assert "1000 trials (1 failed)" in page and "out of memory" in page
    assert len(notes) == 1 and "configuration" in notes[0] and "There are no contact sheets" in page


def test_models_run_again_on_the_search_images(real: Path, tmp_path: Path) -> None:
    said: list[str] = []
    notes = report(str(real), tmp_path / "report.html", images=3, say=said.append, sheets=tmp_path / "sheets")
    page = (tmp_path / "report.html").read_text()
    assert notes == [] and page.count('alt="Contact sheet') == 2
    front = front_table(read_study(real), INFO["objectives"][:2])["trial_id"]
    assert {file.name for file in (tmp_path / "sheets").iterdir()} == {f"{trial_id}.png" for trial_id in front}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "sheets").iterdir())
    assert "paired image by image" in page and "no contact sheets" not in page
    count = len(pd.read_parquet(real / "images.parquet")["name"].unique())
    assert said[0] == f"the dense model on {count} search images"
    assert said[-1] == f"wrote {tmp_path / 'sheets'}: {len(front)} contact sheets"
    # the held-out part is looked at by an export alone, which counts the looks
    assert "medcore export" in page and "medcore evaluate" not in page
    assert "of_another_version" in page


def test_held_out_figures_are_the_headline(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a picture of a patient would begin with the image at its own size
    monkeypatch.setattr(Sheets, "_original", lambda *_: pytest.fail("an image was read to be shown"))
    notes = report(str(real), tmp_path / "searched.html", images=0)
    searched = (tmp_path / "searched.html").read_text()
    assert notes == [] and "no held-out figures of it are" in searched and "held-out images (" not in searched
    assert "Contact sheet" not in searched and "without pictures of patients" in searched
    assert "paired image by image" in searched  # of metrics alone, which no picture needs
    chosen = members_of(read_study(real), read_study_info(real), [])[0].row
    own = {"finished": chosen.timing.finished, "fine_tuned": False, "images": 3, "measured": "2026", "git": "abc"}
    try:
        for trial_id, dice in ((None, 0.9), (chosen.trial_id, 0.7)):
            images = pd.DataFrame({"dataset": "d", "name": ["a", "b", "c"], "dice": [dice, dice - 0.1, dice - 0.2]})
            about = {"trial_id": trial_id, "checkpoint": str(trial_id), "split": "val/report", "data": "x"}
            write_measurement(real, Measurement(metrics={"dice": dice - 0.1}, **own, **about), images)
        report(str(real), tmp_path / "report.html", images=0)
    finally:
        shutil.rmtree(real / "held_out")
    page = (tmp_path / "report.html").read_text()
    answer = page[page.index('<div class="answer">') : page.index('<h2 id="data">')]
    assert f"Trial {chosen.trial_id} on 3 held-out images (val/report), next to the dense model" in answer
    assert "Dice: 0.6000 instead of 0.8000, −0.2000 (95 %: −0.2000 to −0.2000): worse" in answer
    assert "On the search images" not in answer and "1 candidate of this study was measured on it." in answer


def test_sheets_cannot_be_without_pictures(real: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--images 0"):
        report(str(real), tmp_path / "report.html", images=0, sheets=tmp_path / "sheets")
    assert not [*tmp_path.iterdir()]


def test_sheets_of_other_members_that_fail_cost_the_page_nothing(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = Sheets.draw, list[int]()

    def second_fails(self: Sheets, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MedcoreError("an image is gone")
        return draw(self, *arguments, **options)

    monkeypatch.setattr(Sheets, "draw", second_fails)
    notes = report(str(real), tmp_path / "report.html", images=1, sheets=tmp_path / "sheets")
    page = (tmp_path / "report.html").read_text()
    assert notes == ["No contact sheets of the other front members: an image is gone."]
    assert page.count('alt="Contact sheet') == 2 and "paired image by image" in page


def test_what_would_fail_late_fails_before_models_run(real: Path, tmp_path: Path) -> None:
    said = list[str]()
    (tmp_path / "taken").write_text("")
    with pytest.raises(MedcoreError, match="taken"):
        report(str(real), tmp_path / "report.html", sheets=tmp_path / "taken", say=said.append)
    assert said == []


def test_what_is_gone_is_said(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = real / "trials" / "t0001" / "model.safetensors"
    checkpoint.rename(tmp_path / "away")
    try:
        notes = report(str(real), tmp_path / "report.html", images=2)
        assert len(notes) == 1 and "t0001" in notes[0] and "is gone" in notes[0]
        checkpoint.write_bytes(b"half a file")
        notes = report(str(real), tmp_path / "report.html", images=2)
        page = (tmp_path / "report.html").read_text()
        assert len(notes) == 1 and "No contact sheet of trial t0001" in notes[0]
        assert page.count('alt="Contact sheet') == 1 and "paired image by image" in page
    finally:
        (tmp_path / "away").rename(checkpoint)
    polyps = real.parents[1] / "polyps"
    polyps.rename(tmp_path / "polyps")
    try:
        notes = report(str(real), tmp_path / "report.html")
        assert len(notes) == 1 and str(polyps) in notes[0]
    finally:
        (tmp_path / "polyps").rename(polyps)


def test_a_study_in_mlflow_has_tables_but_no_sheets(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(_: str, folder: Path) -> Path:
        for name in ("study.json", "config.yaml", "trials.parquet", "images.parquet"):
            shutil.copy(real / name, folder)
        return folder

    monkeypatch.setattr(tracked, "download_study", download)
    notes = report("mlflow:medcore/tiny", tmp_path / "report.html", log=True)
    assert len(notes) == 1 and "no checkpoint" in notes[0]
    page = (tmp_path / "report.html").read_text()
    assert "0.2000" in page and "medcore export" not in page


def test_bad_input_is_told_before_anything_is_written(tmp_path: Path) -> None:
    synthetic(tmp_path / "s", 10, 6)
    with pytest.raises(MedcoreError, match="unknown metric 'bf1'"):
        report(str(tmp_path / "s"), tmp_path / "report.html", select=["best:bf1"])
    with pytest.raises(MedcoreError, match="is a folder"):
        report(str(tmp_path / "s"), tmp_path)
    result = medcore("report", "nowhere", "--out", "report.html", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("medcore: nowhere: ")
    assert result.stderr.count("\n") == 1 and not (tmp_path / "report.html").exists()


def test_members_are_taken_once(tmp_path: Path) -> None:
    synthetic(tmp_path / "s", 40, 6)
    trials = read_study(tmp_path / "s")
    members = members_of(trials, study_info(INFO), ["knee", "best:flops", "knee"])
    assert [rule for member in members for rule in member.rules] == ["knee", "best:flops"]
    rules = [rule for member in members_of(trials, study_info(INFO), []) for rule in member.rules]
    assert sorted(rules) == ["best:boundary_f1", "best:flops", "knee"]
    with pytest.raises(MedcoreError, match="front is empty"):
        members_of(trials.assign(status="failed"), study_info(INFO), [])


def test_models_take_turns_in_naming_the_worst() -> None:
    images = pd.DataFrame(
        [
            ("x", "d", "a", 90.0),
            ("x", "d", "b", 80.0),
            ("x", "d", "c", 70.0),
            ("y", "d", "a", 9.0),
            ("y", "d", "c", 8.0),
        ],
        columns=["trial_id", "dataset", "name", "hd95"],
    )
    assert worst_images(images, ["x", "y"], 2) == [("d", "a"), ("d", "c")]
    assert worst_images(images, ["x", "y"], 9) == [("d", "a"), ("d", "c"), ("d", "b")]
    assert worst_images(images, ["z"], 3) == [] == worst_images(pd.DataFrame(), ["x"], 3)


def test_what_is_given_up_is_paired() -> None:
    rng = np.random.default_rng(0)
    names = {"dataset": ["a"] * 5 + ["b"] * 15, "name": [f"i{i}" for i in range(20)]}
    dense_images = pd.DataFrame(names | {"dice": rng.uniform(size=20)})
    chosen_images = dense_images.assign(dice=dense_images["dice"] - 0.1)[::-1]
    dense, chosen = ({"dice": d, "dice/a": d, "dice/b": d, "dice_worst": d} for d in (0.6, 0.5))
    table = quality_loss(dense, chosen, dense_images, chosen_images).set_index("dataset")
    assert list(table.index) == [ALL, "a", "b"]
    assert table[["difference", "lo", "hi"]].to_numpy() == pytest.approx(-0.1)
    noisy = chosen_images.assign(dice=rng.uniform(size=20))
    difference = noisy.sort_index()["dice"] - dense_images["dice"]
    found = quality_loss(dense, chosen, dense_images, noisy.sort_index()).iloc[0]
    assert (found["lo"], found["hi"]) == pytest.approx(macro_interval(difference, dense_images["dataset"]))
    assert quality_loss(dense, chosen)[["lo", "hi"]].isna().all(axis=None)
