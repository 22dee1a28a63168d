"""SwiftMedSAM as shipped budgets of LiteMedSAM, all but a layer of its IoU head."""

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
    ("recipe", "depths", "params", "mega_macs", "channels", "decoder_params"),
    [
        ("swift_medsam_v1", (2, 2, 4, 2), 5_102_700, 34_166.659, 1024, 1_887_716),
        ("swift_medsam_v2", (1, 2, 2, 2), 4_442_436, 28_560.486, 256, 1_493_732),
    ],
)
def test_recipes_end_at_the_published_depths(
    recipe: str,
    depths: tuple[int, ...],
    params: int,
    mega_macs: float,
    channels: int,
    decoder_params: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LITE_MEDSAM_CHECKPOINT", "LITE_MEDSAM_DATA"):
        monkeypatch.setenv(name, "/somewhere")
    config = Config.model_validate(yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text()))
    dense = ModelSpec.dense(LITE).with_parts(config.model.parts)
    sensitivity = np.random.default_rng(0).lognormal(size=len(dense.arch.blocks))
    *_, spec = allocate((*config.schedule.stages, config.budget), dense, sensitivity)
    left, start = [], 0
    for depth in LITE.depths:
        left.append(sum(spec.family("blocks")[start : start + depth]))
        start += depth
    assert tuple(left) == depths
    whole = cost(ModelSpec.dense(dataclasses.replace(LITE, depths=depths)))
    assert (cost(spec).encoder_params, cost(spec).flops) == (whole.encoder_params, whole.flops)
    assert sorted(spec.family("decoder_channels")) == [0, channels] and sum(spec.family("decoder_layers")) == 1
    assert sum(spec.family("decoder_token_heads")) == 16 and sum(spec.family("decoder_image_heads")) == 8
    assert cost(spec).decoder_params == decoder_params + 256 * 257
    assert cost(spec).encoder_params == params and cost(spec).flops / 2e6 == pytest.approx(mega_macs, abs=1e-3)
    # the most sensitive blocks of a stage stay
    third = spec.family("blocks")[4:10]
    assert {np.argsort(sensitivity[6:12])[-1]} <= set(np.flatnonzero(third))
