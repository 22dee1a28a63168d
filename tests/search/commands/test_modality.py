"""`medcore evaluate --by modality`: means of cases, of modalities and of all, their times, and data that do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from medcore.data.formats.npz_case import read_case, whole_cases
from medcore.data.readers import list_folder
from medcore.models.checkpoint import load, save
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.quality.cases.scores import scores_of
from medcore.quality.cases.segment import Segmenter
from medcore.quality.timing import Conditions
from search.commands.evaluate import by_modality, modality_figures
from tests.support.helpers import TINY
from tests.support.machines.command_line import medcore
from tests.support.volume_files import challenge_folder, scan

SCORES = ("dsc", "nsd", "nsd_challenge")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, and the folder `scans` with cases of three modalities."""
    place = tmp_path_factory.mktemp("modality")
    torch.manual_seed(1)
    save(place / "tiny.safetensors", build(ModelSpec.dense(TINY)))
    challenge_folder(place / "scans")
    return place


def row(modality: str, name: str, dsc: float, **others: Any) -> dict[str, Any]:
    scores = {"dsc": dsc, "nsd": dsc / 2, "nsd_challenge": 0.0, "seconds": 10 * dsc, "doubt": ""}
    return {"dataset": "s", "name": name, "modality": modality, "objects": 2, **scores, **others}


def test_json_has_every_case_and_the_means_of_each_level(place: Path) -> None:
    done = medcore("evaluate", place / "tiny.safetensors", "--data", place / "scans", "--split", "all",
                   "--by", "modality", "--json", "-")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    listing = list_folder(place / "scans")
    segmenter = Segmenter(load(place / "tiny.safetensors"))
    expected: dict[str, list[Any]] = {}
    for sample, shown in zip(whole_cases(listing, listing.samples)[0], result["cases"], strict=True):
        case = read_case(sample)
        scores = scores_of(case, segmenter.segment(case))
        assert [shown[name] for name in SCORES] == pytest.approx([scores.dsc, scores.nsd, scores.nsd_challenge])
        assert (shown["name"], shown["modality"], shown["objects"]) == (sample.name, sample.modality, 3)
        assert shown["size"] == ([40, 52] if case.flat else [9, 40, 52]) and shown["exact_boxes"] == case.exact
        assert shown["seconds"] > result["load_seconds"] > 0
        expected.setdefault(sample.modality, []).append(scores)
    means = {modality: fmean(each.dsc for each in scores) for modality, scores in expected.items()}
    assert {modality: found["dsc"] for modality, found in result["modalities"].items()} == pytest.approx(means)
    assert [*result["modalities"]] == ["CT", "MR", "US"]
    assert [found["cases"] for found in result["modalities"].values()] == [2, 1, 3]
    assert result["overall"]["dsc"] == pytest.approx(fmean(means.values()))
    assert (result["overall"]["cases"], result["overall"]["objects"], result["skipped"]) == (6, 18, 0)
    assert result["modalities"]["MR"]["intervals"] == result["overall"]["intervals"] == dict.fromkeys(SCORES)
    low, high = result["modalities"]["US"]["intervals"]["dsc"]
    assert low <= means["US"] <= high and result["flops_fraction"] == 1 and result["threads"] >= 1


def test_intervals_are_bootstraps_over_cases_within_each_modality() -> None:
    chance = np.random.default_rng(0)
    ct, us = chance.normal(0.8, 0.05, 150), chance.normal(0.6, 0.1, 100)
    rows = [row("CT", str(number), value) for number, value in enumerate(ct)]
    rows += [row("US", str(number), value) for number, value in enumerate(us)]
    found = modality_figures(rows)
    errors = {"CT": ct.std() / np.sqrt(150), "US": us.std() / np.sqrt(100)}
    for modality, error in errors.items():
        low, high = found["modalities"][modality]["intervals"]["dsc"]
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    low, high = found["overall"]["intervals"]["dsc"]
    error = np.hypot(errors["CT"], errors["US"]) / 2
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert found["overall"]["dsc"] == pytest.approx((ct.mean() + us.mean()) / 2)
    assert found["overall"]["seconds"] == pytest.approx(10 * found["overall"]["dsc"])


def test_tables_show_scores_by_modality_and_the_slowest_cases(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Conditions(waited=0.5)
    monkeypatch.setattr("medcore.quality.cases.evaluate.conditions_since", lambda start: busy)
    done = medcore("evaluate", place / "tiny.safetensors", "--data", place / "scans", "--split", "all",
                   "--by", "modality", "--json", place / "out.json")  # fmt: skip
    result = json.loads((place / "out.json").read_text())
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    for modality, found in result["modalities"].items():
        assert f"{100 * found['dsc']:.2f}" in lines[modality] and f"{100 * found['nsd']:.2f}" in lines[modality]
    assert f"{100 * result['overall']['dsc']:.2f}" in lines["mean"]
    assert "9×40×52" in lines["3DBox_MR_0002"]
    assert "1 of 6 cases have no boxes" in done.stdout and "load the checkpoint" in done.stdout
    assert "do not trust the times of 6 of 6 cases: the machine was busy" in done.stderr


def test_splits_keep_cases_whole(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without splits in the folder they are dealt out, by whole volumes; saved ones name slices."""
    found = {
        split: by_modality(place / "tiny.safetensors", [place / "scans"], split, splits=None)["cases"]
        for split in ("train", "val")
    }
    assert "dealt out just now" in caplog.text
    names = [case["name"] for cases in found.values() for case in cases]
    assert len(set(names)) == len(names) == 6
    listing = list_folder(place / "scans")
    slices = [sample.name for sample in listing.samples if "CT_0000" in sample.name]
    (place / "saved").mkdir()
    (place / "saved" / "scans.splits.json").write_text(
        json.dumps({"train": ["2DBox_US_0000", *slices[:4]], "val": ["2DBox_US_0001", *slices[4:]]})
    )
    kept = by_modality(place / "tiny.safetensors", [place / "scans"], "val", splits=place / "saved")
    assert [case["name"] for case in kept["cases"]] == ["2DBox_US_0001"]
    assert "only 5 of its 9 slices are in the split" in caplog.text


def test_windows_apply_to_measured_values(place: Path) -> None:
    values, labels = scan(0)
    (place / "window").mkdir()
    arrays = {"gts": labels, "spacing": np.ones(3)}
    np.savez(place / "window" / "3DBox_CT_1.npz", imgs=values, **arrays)
    shown = np.rint(255 * np.clip((values + 160) / 400, 0, 1)).astype(np.uint8)
    (place / "shown").mkdir()
    np.savez(place / "shown" / "3DBox_CT_1.npz", imgs=shown, **arrays)
    common = ("evaluate", place / "tiny.safetensors", "--split", "all", "--by", "modality", "--json", "-", "--data")
    one = json.loads(medcore(*common, place / "window", "--window", "abdomen").stdout)
    other = json.loads(medcore(*common, place / "shown").stdout)
    assert [one["cases"][0][name] for name in SCORES] == [other["cases"][0][name] for name in SCORES]


def wrong_data(place: Path, kind: str) -> Path:
    folder = place / kind
    folder.mkdir()
    labels = np.zeros((30, 20), np.uint8)
    if kind == "pictures":
        for name in ("images", "masks"):
            (folder / name).mkdir()
    elif kind == "no labels":
        np.savez(folder / "2DBox_US_1.npz", imgs=np.zeros((30, 20, 3), np.uint8), boxes=np.zeros((1, 4)))
    elif kind == "no objects":
        np.savez(folder / "2DBox_US_1.npz", imgs=np.zeros((30, 20, 3), np.uint8), gts=labels)
    else:
        labels[3:9, 3:9] = 1
        np.savez(folder / "3DBox_CT_1.npz", imgs=labels[None], gts=labels[None], boxes=np.zeros((1, 6)))
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pictures", "no .npz archives of the MedSAM challenge"),
        ("no labels", "no usable case in split 'all' of .*no array 'gts'"),
        ("no objects", "no usable case in split 'all' of .*no object"),
        ("no spacing", "no usable case in split 'all' of .*spacing"),
    ],
)
def test_wrong_data_are_one_line(place: Path, kind: str, words: str) -> None:
    data = wrong_data(place, kind)
    done = medcore("evaluate", place / "tiny.safetensors", "--data", data, "--split", "all", "--by", "modality")
    assert done.returncode == 2 and not done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("medcore: ")]  # next to a progress bar
    assert re.search(words, line) and "Traceback" not in done.stderr


def test_rules_for_masks_have_no_place_here(place: Path) -> None:
    common = ("evaluate", place / "tiny.safetensors", "--data", place / "scans", "--split", "all", "--by", "modality")
    for options in (("--labels", "any"), ("--frame", "both"), ("--objects", "components")):
        done = medcore(*common, *options)
        assert done.returncode == 2 and "takes each label as an object" in done.stderr
