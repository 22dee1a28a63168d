"""Small TinyViT models, budgets and masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.models.tinyvit.arch import TinyVit

DECODER = DecoderSpec(depth=1, mlp_dim=32, num_heads=2, iou_head_depth=2, iou_head_hidden_dim=16)
#: Windows that need padding in one stage, fit in the next, and are the whole grid in the last.
LITTLE = TinyVit(
    name="little",
    img_size=32,
    stem_stride=1,
    embed_dims=(8, 12, 16, 24),
    depths=(2, 1, 3, 1),
    num_heads=(1, 2, 4, 3),
    window_sizes=(3, 3, 4, 8),
    merge_strides=(2, 2, 1),
    mlp_ratio=2.5,
    mbconv_expand_ratio=2.0,
    out_chans=32,
    decoder=DECODER,
)
DENSE = ModelSpec.dense(LITTLE)
#: Place of each site by its name.
PLACES = {site.name: place for place, site in enumerate(LITTLE.sites)}


def little_model(seed: int = 0, spec: ModelSpec = DENSE) -> MedSam:
    """Random weights, with running statistics and position biases that are not those of a new model."""
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for module in model.image_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.num_batches_tracked.fill_(7)
    return model


def random_spec(seed: int) -> ModelSpec:
    """Random widths; about a third of the blocks and interiors is gone, and any other site may be empty."""
    chance = np.random.default_rng(seed)

    def width(most: int) -> int:
        return int(chance.random() < 0.7) if most == 1 else int(chance.choice([0, chance.integers(most + 1), most]))

    return ModelSpec(LITTLE, tuple(width(site.width) for site in LITTLE.sites))


def random_masks(spec: ModelSpec, seed: int) -> PerSite:
    """Draw masks in which each site keeps a random share, everything or nothing."""
    chance = np.random.default_rng(seed)
    return tuple(chance.random(width) < chance.choice([0.0, 0.6, 1.0], p=[0.2, 0.4, 0.4]) for width in spec.widths)


def masks_without(name: str, group: int = 0) -> PerSite:
    """Return masks that take one group of the dense model."""
    masks = tuple(np.ones(width, dtype=bool) for width in DENSE.widths)
    masks[PLACES[name]][group] = False
    return masks
