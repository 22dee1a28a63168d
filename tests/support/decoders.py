"""A small model whose mask decoder has all that can be pruned, and random cuts of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import DECODER, ENCODER, ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY

SHAPE = DecoderSpec(depth=2, mlp_dim=24, num_heads=4, iou_head_depth=3, iou_head_hidden_dim=12)
BOTH = replace(TINY, name="both", decoder=SHAPE, parts=(ENCODER, DECODER))
ALONE = replace(BOTH, name="alone", parts=(DECODER,))


def model_with_decoder(seed: int = 0, arch: SamVit = BOTH) -> MedSam:
    """A dense model with random weights, whose biases and norms are random as well."""
    torch.manual_seed(seed)
    model = build(ModelSpec.dense(arch))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
            elif "mask_decoder" in name:
                value.mul_(1.5)
    return model


def masks_of(spec: ModelSpec, seed: int) -> PerSite:
    """Random groups; whole layers and outputs mostly stay, other sites may lose all of theirs."""
    chance = np.random.default_rng(seed)
    masks = []
    for site, width in zip(spec.arch.sites, spec.widths, strict=True):
        share = 0.75 if site.width == 1 else chance.choice([0.0, 0.3, 0.7, 1.0])
        masks.append(chance.random(width) < share)
    return tuple(masks)


def masks_without(spec: ModelSpec, *families: str) -> PerSite:
    """Masks that remove all of some families."""
    sites = zip(spec.arch.sites, spec.widths, strict=True)
    return tuple(np.full(width, site.family.name not in families) for site, width in sites)


def inputs(model: MedSam, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and boxes."""
    draw = torch.Generator().manual_seed(seed)
    side = model.arch.img_size
    corners = torch.rand(count, 2, generator=draw) * side / 2
    boxes = torch.cat([corners, corners + side / 4 + torch.rand(count, 2, generator=draw) * side / 4], dim=1)
    return torch.rand(count, 3, side, side, generator=draw), boxes
