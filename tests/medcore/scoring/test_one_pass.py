"""Tables for one boundary weight, and without any: equal to the whole table where they hold, errors elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import CheckpointError, ConfigError
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import NEEDS, ScoringWeights, adaptive_alphas, block_sensitivity, criteria_for, mix
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import build_table, weights_table
from medcore.scoring.profile import Profile
from medcore.scoring.score_table import ScoreTable
from medcore.scoring.sums import CalibrationSums
from tests.support.helpers import TINY
from tests.support.scoring_samples import PRUNED, brute_force, discs, seeded
from tests.support.toy.samples import DENSE, TOY

W = 3.0
SPECS = {"dense": ModelSpec.dense(TINY), "pruned": PRUNED, "toy": DENSE}
FIXED = ("medcore", "michel", "activation", "magnitude", "random")


@cache
def models(name: str) -> tuple[MedSam, MedSam]:
    torch.manual_seed(0)
    return seeded(SPECS[name], 1), seeded(SPECS[name], 2)


@cache
def tables(name: str) -> tuple[ScoreTable, ScoreTable]:
    """The table for one weight and that for every weight, of the same models."""
    images = discs(4, datasets=("one", "two"))
    return build_table(*models(name), images, (W,), one_pass=True), build_table(*models(name), images, (0.0, W))


def test_one_pass_gives_the_fisher_at_its_weight() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(3)
    sums = calibration_sums(model, images, range(3), (W,), one_pass=True)
    assert sums.terms == 1 and sums.block_fisher().shape == (TINY.depth, 1)
    expected = brute_force(model, images, [0, 1, 2], W)
    for block in range(TINY.depth):
        for name, total in sums.parameters[block].items():
            torch.testing.assert_close(total[0] / 3, expected[f"blocks.{block}.{name}"], rtol=1e-6, atol=1e-12)
        whole = sum(float(value.sum()) for name, value in expected.items() if name.startswith(f"blocks.{block}."))
        assert float(sums.block_fisher()[block, 0]) == pytest.approx(whole, rel=1e-6)
    two = calibration_sums(model, images, range(3), (0.0, W))
    for one, other in zip(sums.gates, two.gates, strict=True):
        torch.testing.assert_close(one[0], other[1], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(sums.active, two.active)


def test_one_pass_serves_one_weight_only() -> None:
    with pytest.raises(ConfigError, match="serves one boundary weight, got 2"):
        calibration_sums(seeded(ModelSpec.dense(TINY), 1), discs(1), [0], (0.0, W), one_pass=True)


def test_skipped_image_and_the_disk(tmp_path: Path) -> None:
    model, images = seeded(PRUNED, 1), discs(3)
    images.boxes[1] = np.nan
    sums = calibration_sums(model, images, range(3), (W,), one_pass=True)
    assert (sums.used, sums.skipped) == (2, ["disc1"])
    sums.save(tmp_path / "part.safetensors")
    loaded = CalibrationSums.load(tmp_path / "part.safetensors", PRUNED)
    assert loaded.terms == 1
    loaded.add(sums)
    torch.testing.assert_close(loaded.block_fisher(), sums.block_fisher())


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("criterion", FIXED)
@pytest.mark.parametrize("blend", [0.4, 1.0])
def test_scores_are_those_of_the_whole_table(name: str, criterion: str, blend: float) -> None:
    one, whole = tables(name)
    arch = SPECS[name].arch
    weights = ScoringWeights(criterion=criterion, blend=blend, boundary_weight=W)
    assert "fisher" not in weights.needs
    for mine, theirs in zip(mix(one, weights, arch), mix(whole, weights, arch), strict=True):
        # positions of prompts are in single precision, and the parts of a gate's gradient may cancel
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max(initial=0))
    np.testing.assert_allclose(block_sensitivity(one, weights), block_sensitivity(whole, weights), rtol=1e-6)
    np.testing.assert_allclose(adaptive_alphas(one, weights), adaptive_alphas(whole, weights), rtol=1e-6)


def test_another_weight_is_an_error(tmp_path: Path) -> None:
    table, _ = tables("dense")
    for weights in (ScoringWeights(boundary_weight=1.0, alpha={"heads": 1.0}), ScoringWeights(criterion="fisher")):
        with pytest.raises(ConfigError, match=r"holds for boundary weight 3 only, not for [01]; score again"):
            mix(table, weights, TINY)
    with pytest.raises(ConfigError, match="holds for boundary weight 3 only, not for 10"):
        block_sensitivity(table, ScoringWeights(boundary_weight=10.0))
    table.save(tmp_path / "table.safetensors")
    loaded = ScoreTable.load(tmp_path / "table.safetensors")
    assert loaded.array("zero", "heads").shape == (2, 1, 4, 3)
    for name, array in table.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_table_of_the_weights_alone(tmp_path: Path) -> None:
    table, (_, whole) = weights_table(models("toy")[1], ("one", "two")), tables("toy")
    assert not table.has_fisher and whole.has_fisher
    for name in ("magnitude", "random"):
        weights = ScoringWeights(criterion=name)
        for mine, theirs in zip(mix(table, weights, TOY), mix(whole, weights, TOY), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for name in ("medcore", "fisher", "michel", "activation"):
        with pytest.raises(ConfigError, match=r"lacks the \w+ statistic of blocks; score again with Fisher statistics"):
            mix(table, ScoringWeights(criterion=name), TOY)
    with pytest.raises(ConfigError, match="lacks the zero statistic of blocks; score again"):
        adaptive_alphas(table, ScoringWeights())
    with pytest.raises(ConfigError, match="lacks Fisher information; score again"):
        block_sensitivity(table, ScoringWeights())
    table.save(tmp_path / "table.safetensors")
    with pytest.raises(CheckpointError, match="score again"):
        ScoreTable.load(tmp_path / "table.safetensors")


def test_criteria_that_a_table_serves() -> None:
    one, whole = tables("dense")
    assert set(criteria_for(one)) == set(FIXED)
    assert {*FIXED, "fisher"} <= set(criteria_for(whole)) and "second_order" not in criteria_for(whole)
    alone = weights_table(models("dense")[1], ("one",))
    assert set(criteria_for(alone)) == {"magnitude", "random"}
    profile = Profile((), ())
    assert set(criteria_for(replace(alone, profile=profile))) == {"magnitude", "random", "second_order"}


def test_what_weights_need() -> None:
    assert ScoringWeights().needs == {"weight"}
    assert ScoringWeights(criterion="fisher").needs == {"fisher"}
    assert ScoringWeights(criterion="fisher", blend=0).needs == {"weight"}
    assert ScoringWeights(criterion="magnitude").needs == {"weights"}
    assert ScoringWeights(criterion="magnitude", blend=0.5).needs == {"weights", "weight"}
    assert ScoringWeights(criterion="second_order").needs == {"profile"}
    # a user's own criterion may read anything
    assert "toy_order" not in NEEDS and "fisher" not in NEEDS
