"""Analyses: tables against figures computed by hand, and one whole analysis through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from medcore.data.imageset import ImageSet
from medcore.errors import MedcoreError
from medcore.scoring.criteria import CRITERIA
from results.pages.analysis import write_criteria, write_displacement, write_leverage
from results.stats.intervals import macro_interval
from results.store.trials import read_study
from search.cli.main import app
from search.commands.analyse.cases import contour_distances
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import write_tiny_study

DENSE = {"boundary_f1": 0.5, "hd95": 9.0, "dice": 0.6}
NOTES = {"command": "medcore analyse", "git": "abc", "machine": "m", "seeds": [0, 1], "dense": DENSE}
NOTES |= {"cost": "flops_paper"}


def frames(columns: tuple[str, ...], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two variants at two fractions with two seeds each, on five images of two data sets."""
    generator = np.random.default_rng(seed)
    trials, images = [], []
    for case_seed in (0, 1):
        for fraction in (0.3, 0.6):
            for variant in ("own", "other"):
                trial_id = f"t{len(trials)}"
                trials.append(
                    {"trial_id": trial_id, "number": len(trials), "variant": variant, "fraction": fraction}
                    | {"case_seed": case_seed}
                )
                for phase in ("pruned", "recovered"):
                    for dataset, name in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2")):
                        values = dict(zip(columns, generator.random(len(columns)), strict=True))
                        images.append({"trial_id": trial_id, "phase": phase, "dataset": dataset, "name": name} | values)
    return pd.DataFrame(trials), pd.DataFrame(images)


def test_criteria_table_is_a_macro_mean_over_seeds(tmp_path: Path) -> None:
    trials, images = frames(("boundary_f1", "hd95", "dice"))
    files = write_criteria(trials, images, tmp_path, NOTES)
    assert [file.name for file in files] == ["table.csv", "table.md", "notes.json", "picture.png"]
    table = pd.read_csv(tmp_path / "table.csv").set_index(["fraction", "phase", "variant"])
    merged = images.merge(trials, on="trial_id")

    def macro(frame: pd.DataFrame) -> float:
        return float(np.mean([frame[frame["dataset"] == name]["hd95"].mean() for name in ("a", "b")]))

    chosen = merged[(merged["fraction"] == 0.3) & (merged["phase"] == "recovered")]
    own, other = (chosen[chosen["variant"] == name] for name in ("own", "other"))
    row = table.loc[(0.3, "recovered", "other")]
    assert row["hd95"] == pytest.approx(macro(other), rel=1e-4)
    assert row["gain_hd95"] == pytest.approx(macro(other) - macro(own), rel=1e-3)
    spread = np.std([macro(other[other["case_seed"] == seed]) for seed in (0, 1)], ddof=1)
    assert row["hd95_seeds"] == pytest.approx(spread, rel=1e-4)
    assert row["hd95_lo"] < row["hd95"] < row["hd95_hi"]
    assert (table.xs("own", level="variant")["gain_hd95"] == 0).all()


def test_interval_covers_as_often_as_it_says() -> None:
    """Nominal 90 % on normal data of two data sets; 400 repetitions."""
    generator = np.random.default_rng(0)
    datasets = pd.Series(["a"] * 40 + ["b"] * 60)
    hits = 0
    for repetition in range(400):
        values = pd.Series(np.concatenate([generator.normal(1, 1, 40), generator.normal(3, 2, 60)]))
        low, high = macro_interval(values, datasets, seed=repetition, level=0.9)
        hits += low <= 2 <= high
    assert 0.85 < hits / 400 < 0.94


def test_displacement_table_ranks_images_and_models(tmp_path: Path) -> None:
    trials, images = frames(("predicted_px", "measured_px", "lost_boundary_f1", "lost_hd95"))
    images = images[images["phase"] == "pruned"].drop(columns="phase")
    images["lost_hd95"] = images["predicted_px"] ** 3
    images.loc[images.index[0], "predicted_px"] = np.nan
    write_displacement(trials, images, tmp_path, NOTES)
    table = pd.read_csv(tmp_path / "table.csv").set_index("fraction")
    assert table.loc["all", "images_lost_hd95"] == pytest.approx(1)
    known = images.dropna()
    expected = [spearmanr(part["predicted_px"], part["measured_px"]).statistic for _, part in known.groupby("trial_id")]
    assert table.loc["all", "images_measured_px"] == pytest.approx(np.mean(expected), rel=1e-4)
    means = known.groupby("trial_id")[["predicted_px", "measured_px"]].median()
    assert table.loc["all", "models_measured_px"] == pytest.approx(spearmanr(means).statistic, rel=1e-4)


def test_measured_displacements_are_those_within_the_image() -> None:
    """Masks that differ below the image alone do not differ; a row that moves by two pixels within it does."""
    first = np.full((1, 16, 16), -1.0, np.float32)
    first[0, :4] = 1
    other = first.copy()
    other[0, 9:] = 1
    pixels = np.zeros((1, 16, 16), np.uint8)
    corners = np.zeros((1, 4), np.float32)
    images = ImageSet(np.stack([pixels] * 3, axis=1), pixels, corners, [pixels[0] > 0], ["a"], ["1"], inner=[(9, 16)])
    assert contour_distances(first, other, images) == [0.0]
    assert contour_distances(first, other, replace(images, inner=[]))[0] > 5
    other[0, 4:6] = 1
    assert contour_distances(first, other, images) == [2.0]


def test_leverage_table_has_a_row_a_model_and_seed(tmp_path: Path) -> None:
    tau = {
        "blr95": 2.0,
        "blr95_lo": 1.5,
        "blr95_hi": 2.5,
        "rlr": 1.0,
        "bsr": None,
        "win_rate": 0.5,
        "head_steps": 4,
        "mlp_steps": 4,
        "grid_points": 4,
    }
    run = {"seed": 0, "allocator": "rule", "images": 8, "tau": {"3": tau, "5": tau}}
    write_leverage({"adapted": [run], "general": [run]}, tmp_path, NOTES)
    assert (tmp_path / "table.md").read_text().splitlines()[
        2
    ] == "| adapted | 0 | 3 | 2.00 (1.50 to 2.50) | 1.00 | – | 50% of 4 |"
    assert json.loads((tmp_path / "notes.json").read_text())["command"] == "medcore analyse"


@pytest.mark.usefixtures("local_ray")
def test_criteria_through_the_command_line(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path, search={"concurrency": 1})
    arguments = ("analyse", "criteria", config, "--out", tmp_path / "out", "--seeds", "1", "--fractions", "0.5")
    done = medcore(*arguments)
    assert done.returncode == 0, done.stderr
    (study,) = (tmp_path / "runs").glob("tiny-criteria-*")
    rows = read_study(study)
    assert sorted(rows["origin"]) == sorted(CRITERIA)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    recovered = table[table["phase"] == "recovered"].set_index("variant")["boundary_f1"]
    for origin, value in rows.set_index("origin")["recovered/boundary_f1"].items():
        assert recovered[origin] == pytest.approx(value, rel=1e-4)
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("row.json")}
    assert medcore(*arguments).returncode == 0  # again: nothing is run twice
    assert stamps == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("row.json")}


def test_wrong_analyses_are_refused(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    for words, message in (
        (["nonsense", config], "unknown analysis 'nonsense'; known are criteria, ablation"),
        (["criteria", config, "--fractions", "half"], "give numbers such as 0.3,0.15"),
        (["criteria", config, "--fractions", "30"], "shares of the FLOPs lie above 0"),
        (["leverage", config, "--fractions", "0.3"], "leave --fractions and --ray-address out"),
    ):
        arguments = ["analyse", *map(str, words), "--out", str(tmp_path / "out")]
        with pytest.raises(MedcoreError, match=message):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
