"""Fronts of two studies next to each other, against a search by hand and intervals of differences image by image."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medcore.errors import ConfigError
from results.stats.compare import SHARES, Candidates, compare_fronts, in_shares_of
from results.stats.intervals import macro_interval
from results.stats.objectives import Direction, Objective
from results.store.trials import write_images
from search.cli.main import app
from search.commands.compare import compare
from tests.support.studies.rows import write_row, write_study

OBJECTIVES = (Objective("flops", Direction.MIN), Objective("dice", Direction.MAX))


def study_of(name: str, seed: int, images: list[str]) -> Candidates:
    chance = np.random.default_rng(seed)
    shares = chance.uniform(0.03, 1, 12)
    dice = 0.7 + 0.1 * np.log1p(shares) + chance.normal(0, 0.02, 12)
    trials = pd.DataFrame(
        {
            **{"trial_id": [f"t{number}" for number in range(12)], "status": "done", "number": range(12)},
            **{"flops": 1e9 * shares, "flops_fraction": shares, "dice": dice},
        }
    )
    rows = [
        {"trial_id": f"t{number}", "dataset": image[0], "name": image, "dice": chance.normal(value, 0.1)}
        for number, value in enumerate(dice)
        for image in images
    ]
    return Candidates(name, trials, pd.DataFrame(rows), OBJECTIVES)


def test_shares_refer_to_the_dense_encoder_of_the_first_study() -> None:
    """Half of the FLOPs of a dense model of 250 M are an eighth of those of one of 1 G."""
    first, small = study_of("first", 0, ["a0"]), study_of("small", 1, ["a0"])
    small = dataclasses.replace(small, trials=small.trials.assign(flops=2.5e8 * small.trials["flops_fraction"]))
    scaled = in_shares_of(first, small)
    np.testing.assert_allclose(scaled.trials["flops_fraction"], small.trials["flops"] / 1e9)
    assert in_shares_of(first, study_of("alike", 2, ["a0"])).trials["flops_fraction"].max() <= 1
    unknown = dataclasses.replace(small, trials=small.trials.drop(columns="flops"))
    assert in_shares_of(first, unknown) is unknown


@pytest.mark.parametrize("seed", range(5))
def test_the_best_within_each_share_and_its_interval(seed: int) -> None:
    images = [f"{dataset}{number}" for dataset in "ab" for number in range(9)]
    one, other = study_of("one", seed, images), study_of("other", seed + 100, images[::-1])
    table = compare_fronts([one, other], OBJECTIVES[1])
    for share in SHARES:
        best = {}
        for study in (one, other):
            # dominated trials are never better than a cheaper member, so all trials give the same answer
            within = study.trials[study.trials["flops_fraction"] <= share + 0.001]
            rows = table[(table["share"] == share) & (table["study"] == study.name)]
            assert len(rows) == (not within.empty)
            if not within.empty:
                best[study.name] = within.loc[within["dice"].idxmax()]
                assert rows["value"].item() == best[study.name]["dice"]
        if len(best) < 2:
            continue
        row = table[(table["share"] == share) & (table["study"] == "other")].iloc[0]
        values = {
            name: study.images[study.images["trial_id"] == best[name]["trial_id"]].set_index("name")["dice"]
            for name, study in (("one", one), ("other", other))
        }
        differences = (values["other"] - values["one"]).loc[images[::-1]]
        expected = macro_interval(differences, pd.Series([name[0] for name in images[::-1]], index=differences.index))
        assert (row["lo"], row["hi"]) == pytest.approx(expected, abs=1e-12)
        means = [np.mean([differences[name] for name in images if name[0] == dataset]) for dataset in "ab"]
        assert row["difference"] == pytest.approx(np.mean(means)) and row["images"] == len(images)


def test_studies_without_common_images_have_no_interval() -> None:
    one, other = study_of("one", 1, ["a1", "a2"]), study_of("other", 2, ["b1", "b2"])
    table = compare_fronts([one, other], OBJECTIVES[1])
    assert table[["lo", "difference"]].isna().all(axis=None) and not table["images"].any()


def test_images_that_only_one_study_has_do_not_count_in_a_difference() -> None:
    one = study_of("one", 1, ["a1", "a2", "b1"])
    hard = one.images.assign(name="c" + one.images["name"], dataset="hard", dice=0.0)
    trials = one.trials.assign(dice=one.trials["dice"] / 2)
    other = Candidates("other", trials, pd.concat([one.images, hard]), OBJECTIVES)
    table = compare_fronts([one, other], OBJECTIVES[1])
    rows = table[table["study"] == "other"].dropna()
    assert len(rows) and (rows["images"] == 3).all() and rows["difference"].abs().max() == 0


def written(folder: Path, name: str, dice: float) -> Path:
    info = {"name": name, "objectives": OBJECTIVES, "dense": {"flops": 1e9, "dice": 0.9}}
    write_study(folder, {**info, "widths": {"heads": 3, "channels": 48}, "reference": {"flops": 2e9, "dice": 0.0}})
    costs = {"flops": 2e8, "flops_fraction": 0.2, "dice": dice}
    write_row(folder, {"trial_id": "t0", "number": 0, "status": "done", "origin": "sampled", **costs})
    write_images(folder, "t0", [{"dataset": "d", "name": str(each), "dice": dice + 0.01 * each} for each in range(5)])
    return folder


def test_the_command_shows_and_writes_the_comparison(tmp_path: Path) -> None:
    studies = [written(tmp_path / name, "same|name", dice) for name, dice in (("one", 0.8), ("other", 0.85))]
    call = ["compare", *map(str, studies), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, call, catch_exceptions=False)
    assert shown.exit_code == 0 and "+0.0500" in shown.output and "5 images" in shown.output
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("csv", b"share,"), ("md", b"| FLOPs left")):
        assert (tmp_path / "out" / f"comparison.{ending}").read_bytes().startswith(start)
    assert "same\\|name" in (tmp_path / "out" / "comparison.md").read_text()
    printed = CliRunner().invoke(app, [*call[:3], "--json"], catch_exceptions=False)
    rows = json.loads(printed.stdout)["rows"]
    assert {row["study"] for row in rows} == {"same|name", str(studies[1])} and rows[0]["difference"] is None
    assert math.isclose(rows[1]["difference"], 0.05)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one", "one", 0.8)
    with pytest.raises(ConfigError, match="at least two"):
        compare([str(one)])
    empty = tmp_path / "empty"
    point = {"flops": 2e9, "dice": 0.0}
    info = {"name": "e", "objectives": OBJECTIVES, "widths": {"heads": 3, "channels": 48}}
    write_study(empty, {**info, "dense": point, "reference": point})
    with pytest.raises(ConfigError, match=r"empty: its front is empty"):
        compare([str(one), str(empty)])
