"""Pixels that count nowhere: whatever is there, nothing changes, and means are over the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from medcore.data.imagefile import mask_to_square
from medcore.data.imageset import ImageSet, boundary_complexity
from medcore.data.load import load_image_set
from medcore.data.mask_rules import MaskRules
from medcore.losses import (
    IGNORED,
    boundary_band,
    high_frequency_distance,
    recovery_loss,
    score_loss_parts,
    segmentation_loss,
    soft_dice_loss,
)
from tests.support.image_files import image_folder


def sample(seed: int, side: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, a mask without ignored pixels, and which pixels to ignore; (2, 1, side, side) each."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, side, side, generator=generator, dtype=torch.float64) * 3
    mask = (torch.rand(2, 1, side, side, generator=generator) < 0.4).double()
    return logits, mask, torch.rand(2, 1, side, side, generator=generator) < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_band_against_a_loop_over_neighbours(seed: int) -> None:
    _, mask, ignored = sample(seed)
    values = mask.masked_fill(ignored, IGNORED)
    band = boundary_band(values)
    for image in range(2):
        grid = values[image, 0].tolist()
        for row in range(12):
            for column in range(12):
                seen = {
                    grid[y][x]
                    for y in range(max(0, row - 1), min(12, row + 2))
                    for x in range(max(0, column - 1), min(12, column + 2))
                } - {IGNORED}
                expected = grid[row][column] != IGNORED and seen == {0.0, 1.0}
                assert band[image, 0, row, column] == expected


@pytest.mark.parametrize("seed", range(4))
def test_losses_see_only_pixels_that_count(seed: int) -> None:
    logits, mask, ignored = sample(seed)
    values, kept = mask.masked_fill(ignored, IGNORED), ~ignored
    probability = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    dice = torch.stack(
        [
            1 - (2 * (p[k] * m[k]).sum() + 1e-5) / ((p[k] ** 2).sum() + (m[k] ** 2).sum() + 1e-5)
            for p, m, k in zip(probability, mask, kept, strict=True)
        ]
    )
    torch.testing.assert_close(soft_dice_loss(logits, values), dice)
    torch.testing.assert_close(segmentation_loss(logits, values), dice.mean() + cross[kept].mean())
    band = boundary_band(values)
    region, boundary = score_loss_parts(logits[:1], values[:1], band[:1])
    torch.testing.assert_close(region, cross[:1][kept[:1]].sum() + dice[0])
    torch.testing.assert_close(boundary, (band[:1] * cross[:1])[kept[:1]].sum())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_depends_on_logits_at_ignored_pixels(seed: int) -> None:
    logits, mask, ignored = sample(seed)
    values = mask.masked_fill(ignored, IGNORED)
    other = torch.where(ignored, torch.full_like(logits, 7.5 - seed), logits)
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def total(z: torch.Tensor) -> torch.Tensor:
        recovery, _ = recovery_loss(z, values, values, features, features * 2, logits.flip(0))
        parts = score_loss_parts(z[:1], values[:1], boundary_band(values[:1]))
        return recovery + sum(parts) + segmentation_loss(z, values) + high_frequency_distance(z, values)

    assert total(other) == total(logits)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).all()


def test_recovery_terms_are_means_over_pixels_that_count() -> None:
    logits, mask, ignored = sample(9)
    values, kept, teacher = mask.masked_fill(ignored, IGNORED), ~ignored, logits.flip(0)
    features = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    _, terms = recovery_loss(logits, values, values, features, features, teacher)
    band = boundary_band(values)
    cross = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    torch.testing.assert_close(terms["boundary"], ((1 + 4 * band) * cross)[kept].mean())
    torch.testing.assert_close(terms["boundary_logits"], (band * (logits - teacher) ** 2)[kept].mean())


def test_an_image_of_ignored_pixels_alone_is_harmless() -> None:
    logits = torch.randn(1, 1, 6, 6, requires_grad=True)
    values = torch.full((1, 1, 6, 6), IGNORED)
    loss = segmentation_loss(logits, values)
    loss.backward()
    assert loss.isfinite() and (logits.grad == 0).all()


def _set(masks: np.ndarray) -> ImageSet:
    count, side, _ = masks.shape
    return ImageSet(
        np.zeros((count, 3, side, side), np.uint8),
        masks,
        np.zeros((count, 4), np.float32),
        list(masks == 1),
        ["d"] * count,
        [str(index) for index in range(count)],
    )


@pytest.mark.parametrize("low", [4, 5, 12])
def test_low_masks_against_a_loop_over_cells(low: int) -> None:
    masks = np.random.default_rng(low).choice([0, 1, 255], (3, 12, 12)).astype(np.uint8)
    cells = _set(masks).low_masks(low)
    for image, mask in enumerate(masks):
        for row in range(low):
            for column in range(low):
                rows = slice(row * 12 // low, -(-(row + 1) * 12 // low))
                cell = mask[rows, column * 12 // low : -(-(column + 1) * 12 // low)]
                counted = cell[cell != 255]
                is_object = float((counted == 1).sum() >= 0.5 * len(counted))
                expected = IGNORED if (cell == 255).mean() > 0.5 else is_object
                assert cells[image, row, column] == expected


def test_complexity_counts_no_side_to_an_ignored_pixel() -> None:
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 2:6, 2:6] = 1
    ringed = mask.copy()
    ringed[0, 1:7, 1:7][mask[0, 1:7, 1:7] == 0] = 255
    assert boundary_complexity(mask)[0] > 0 and boundary_complexity(ringed)[0] == 0


def test_ignored_pixels_reach_the_frame_the_boxes_and_the_truth(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["a"], height=24, width=24)
    values = np.zeros((24, 24), np.uint8)
    values[6:12, 6:12], values[4:6, 4:14], values[20, 20] = 1, 255, 255
    Image.fromarray(values).save(root / "masks" / "a.png")
    images, _ = load_image_set([root], "all", 24, rules=MaskRules(ignore=(255,)))
    assert (images.masks[0] == values).all() and images.boxes[0].tolist() == [6, 6, 11, 11]
    assert (images.truths[0] == (values == 1)).all() and (images.void(0) == (values == 255)).all()
    assert images.subset([0]).void(0) is not None
    small = mask_to_square(values == 1, 12, values == 255)
    nearest = np.asarray(Image.fromarray(values).resize((12, 12), Image.Resampling.NEAREST))
    assert (small == nearest).all()
