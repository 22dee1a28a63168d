"""Budgets, scores and masks of a fixed input are those of the revision before sites (449173e), kept in a file.

Budgets and masks are equal. Scores are sums of float32 gradients, whose last digits depend on the processor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcore.budgets.limits import Limits
from medcore.budgets.rule import rule
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import to_target, uniform_to_target
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.masks import select
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity, mix
from medcore.scoring.job import build_table
from medcore.scoring.score_table import ScoreTable
from tests.support.helpers import TINY, spec_of
from tests.support.training_samples import random_images

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
VIT_B = ARCHITECTURES["vit_b"]
BLOCKS = np.arange(12)
SENSITIVITY = np.exp(np.sin(BLOCKS))
PREFERENCES = np.exp2(np.concatenate([np.cos(BLOCKS), np.sin(2 * BLOCKS)]))
LEAST = Limits((11,), least_count={"heads": 1, "channels": 64})


def sparsity(heads: float, channels: float) -> dict[str, float]:
    return {"heads": heads, "channels": channels}


BUDGETS = {
    "rule 0.5/0.7": lambda: rule(VIT_B, sparsity(0.5, 0.7), SENSITIVITY, Limits((10, 11))),
    "rule 0.3/0.9": lambda: rule(VIT_B, sparsity(0.3, 0.9), SENSITIVITY),
    "rule to 0.3": lambda: rule_to_target(VIT_B, 0.3, SENSITIVITY),
    "rule to 0.1": lambda: rule_to_target(VIT_B, 0.15, SENSITIVITY, metric="flops"),
    "uniform to 0.37": lambda: uniform_to_target(VIT_B, 0.37),
    "uniform to 0.2 by 8": lambda: uniform_to_target(VIT_B, 0.2, limits=Limits(multiple=8)),
    "preferences to 0.25": lambda: to_target(VIT_B, PREFERENCES, 0.25),
    "preferences to 0.5, 11 protected": lambda: to_target(VIT_B, PREFERENCES, 0.5, "encoder_params", LEAST),
}


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    """Scores of a random pair on random images."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build(ModelSpec.dense(TINY)))
    return build_table(models[0], models[1], random_images(6), nodes=(0.0, 3.0))


@pytest.mark.parametrize("name", GOLDEN["budgets"])
def test_budgets_and_costs(name: str) -> None:
    spec = BUDGETS[name]()
    this = cost(spec)
    figures = {"flops": this.flops, "flops_paper": this.flops_paper, "params": this.encoder_params}
    assert spec.budget | figures == GOLDEN["budgets"][name]


@pytest.mark.parametrize("criterion", GOLDEN["scores"])
def test_scores_and_masks(table: ScoreTable, criterion: str) -> None:
    scores = mix(table, ScoringWeights(criterion=criterion, seed=4, tau=0.25), TINY)
    summary = [[float(np.sum(site)), float(np.max(site))] for site in scores]
    np.testing.assert_allclose(summary, GOLDEN["scores"][criterion], rtol=1e-4)
    kept = select(scores, spec_of(TINY, (2, 0, 3, 1), (30, 5, 0, 48)))
    assert [bits(site) for site in kept] == GOLDEN["kept"][criterion]


def test_sensitivity(table: ScoreTable) -> None:
    np.testing.assert_allclose(block_sensitivity(table, ScoringWeights()), GOLDEN["sensitivity"], rtol=1e-4)


def bits(mask: Sequence[bool]) -> str:
    return "".join("01"[int(value)] for value in mask)
