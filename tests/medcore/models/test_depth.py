"""Whole blocks of the ViT as groups: nothing of a block is left, not even its biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medcore.budgets.targets import uniform_to_target
from medcore.errors import CheckpointError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.cut import mask_model, prune, with_parts
from medcore.models.sam import build, build_empty
from medcore.models.sites import PerSite
from medcore.models.spec import BLOCKS, DECODER, ENCODER, ModelSpec
from medcore.scoring.fisher import calibration_sums
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit
from tests.support.helpers import TINY
from tests.support.tiny_vit import LITTLE
from tests.support.training_samples import random_images

ARCH = replace(TINY, parts=(BLOCKS, ENCODER))
IMAGES = random_images(4)


def masks_of(spec: ModelSpec, seed: int) -> PerSite:
    chance = np.random.default_rng(seed)
    return tuple(chance.random(width) < (0.6 if width == 1 else 0.7) for width in spec.widths)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_cut_and_masked_models_answer_alike_at_the_counted_cost(seed: int) -> None:
    torch.manual_seed(seed)
    model = build(ModelSpec.dense(ARCH))
    masks, images = masks_of(model.spec, seed), torch.rand(2, 3, 64, 64)
    smaller = prune(model, masks)
    torch.testing.assert_close(smaller.encode(images), mask_model(model, masks).encode(images), rtol=1e-4, atol=1e-5)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        build_empty(smaller.spec, "plain").image_encoder(torch.empty(1, 3, 64, 64))
    found = cost(smaller.spec)
    assert found.encoder_params == sum(value.numel() for value in smaller.image_encoder.parameters())
    assert found.flops == counter.get_total_flops()
    for kept, block in zip(masks[:4], smaller.image_encoder.blocks, strict=True):
        assert isinstance(block, nn.Identity) != kept.all()


def test_a_block_costs_the_same_in_parts() -> None:
    dense = ARCHITECTURES["vit_b"]
    assert cost(ModelSpec.dense(replace(dense, parts=(BLOCKS, ENCODER)))) == cost(ModelSpec.dense(dense))
    state = build_empty(ModelSpec.dense(ARCH)).state_dict()
    for number in range(TINY.depth):
        held = {part.name for part in ARCH.sites[number].tensors}
        assert held == {name for name in state if name.startswith(f"image_encoder.blocks.{number}.")}


@torch.no_grad()
def test_files_refits_and_scores(tmp_path: object) -> None:
    torch.manual_seed(1)
    model = build(ModelSpec.dense(ARCH))
    sums = calibration_sums(model, IMAGES, [0], nodes=(1.0,))
    assert all((sums.gates[number] > 0).all() and (sums.active[number] > 0).all() for number in range(4))
    masks = [np.ones(width, dtype=bool) for width in model.spec.widths]
    masks[1][:] = False
    smaller = prune(model, tuple(masks))
    settings = RefitSettings(images=4)
    log = refit(smaller, record_streams(model, IMAGES, settings), settings)
    assert [fit.name for fit in log.branches] == [
        *("heads/02", "channels/02", "heads/03", "channels/03"),
        "image_encoder.neck.0",
    ]
    assert all(fit.after <= fit.before for fit in log.branches)
    path = tmp_path / "model.safetensors"  # type: ignore[operator]
    save(path, smaller)
    again, images = load(path), IMAGES.tensor()
    assert again.spec == smaller.spec and torch.equal(again.encode(images), smaller.encode(images))


def test_blocks_stay_unless_they_are_named() -> None:
    assert uniform_to_target(ARCH, 0.5).budget["blocks"] == [1, 1, 1, 1]
    dense = build(ModelSpec.dense(TINY))
    assert with_parts(dense, (BLOCKS, ENCODER)).spec == ModelSpec.dense(ARCH)
    with pytest.raises(CheckpointError, match="parts: blocks need encoder"):
        replace(TINY, parts=(BLOCKS, DECODER))
    with pytest.raises(CheckpointError, match="parts: blocks are none of kind tiny_vit"):
        replace(LITTLE, parts=(BLOCKS, ENCODER))
