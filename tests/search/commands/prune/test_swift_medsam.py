"""SwiftMedSAM's encoders as shipped budgets of LiteMedSAM."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from search.base.config import Config
from search.commands.prune import allocate

CONFIGS = Path(__file__).parents[4] / "search" / "configs"
LITE = ARCHITECTURES["lite_medsam"]


@pytest.mark.parametrize(
    ("recipe", "depths", "params", "mega_macs"),
    [
        ("swift_medsam_v1", (2, 2, 4, 2), 5_102_700, 34_166.659),
        ("swift_medsam_v2", (1, 2, 2, 2), 4_442_436, 28_560.486),
    ],
)
def test_recipes_end_at_the_published_depths(
    recipe: str, depths: tuple[int, ...], params: int, mega_macs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LITE_MEDSAM_CHECKPOINT", "LITE_MEDSAM_DATA"):
        monkeypatch.setenv(name, "/somewhere")
    config = Config.model_validate(yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text()))
    dense = ModelSpec.dense(LITE)
    sensitivity = np.random.default_rng(0).lognormal(size=len(LITE.blocks))
    *_, spec = allocate((*config.schedule.stages, config.budget), dense, sensitivity)
    left, start = [], 0
    for depth in LITE.depths:
        left.append(sum(spec.family("blocks")[start : start + depth]))
        start += depth
    assert tuple(left) == depths
    assert cost(spec) == cost(ModelSpec.dense(dataclasses.replace(LITE, depths=depths)))
    assert cost(spec).encoder_params == params and cost(spec).flops / 2e6 == pytest.approx(mega_macs, abs=1e-3)
    # the most sensitive blocks of a stage stay
    third = spec.family("blocks")[4:10]
    assert {np.argsort(sensitivity[6:12])[-1]} <= set(np.flatnonzero(third))
