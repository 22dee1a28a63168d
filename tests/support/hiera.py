"""Small models of SAM 2's image path, budgets and masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from medcore.models.decoder.spec import DecoderSpec
from medcore.models.hiera.arch import Hiera
from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec

#: Windows that fit in two stages and need padding in the third, where a block attends to the whole image.
LITTLE = Hiera(
    name="little",
    img_size=96,
    embed_dim=8,
    num_heads=2,
    depths=(1, 2, 3, 1),
    window_sizes=(8, 4, 4, 2),
    global_attn_indexes=(4,),
    pos_embed_size=3,
    mlp_ratio=2.5,
    out_chans=16,
    decoder=DecoderSpec(depth=2, mlp_dim=24, num_heads=2, iou_head_depth=3, iou_head_hidden_dim=16),
)
DENSE = ModelSpec.dense(LITTLE)
#: With whole blocks, and with a mask decoder that can be pruned.
DEEP = dataclasses.replace(LITTLE, parts=("blocks", "encoder"))
BOTH = dataclasses.replace(LITTLE, stable_mask=False, parts=("blocks", "encoder", "decoder"))


def little_model(seed: int = 0, spec: ModelSpec = DENSE) -> MedSam:
    """Random weights, in which nothing is 0 or alike."""
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def random_masks(spec: ModelSpec, seed: int) -> PerSite:
    """Draw masks in which each site keeps a random share, everything or nothing."""
    chance = np.random.default_rng(seed)
    return tuple(chance.random(width) < chance.choice([0.0, 0.6, 1.0], p=[0.2, 0.4, 0.4]) for width in spec.widths)
