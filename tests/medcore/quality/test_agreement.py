"""The error in the boundary band, against SciPy's morphology and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcore.quality.agreement import band_errors


def test_band_errors_are_means_over_the_band() -> None:
    random = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(random.random((5, 24, 24)), (0, 2, 2)) > 0.5
    logits, teacher = random.normal(size=(2, 5, 24, 24))
    square = np.ones((3, 3), dtype=bool)
    expected = []
    for mask, one, other in zip(masks, logits, teacher, strict=True):
        grown = ndimage.binary_dilation(mask, square)
        band = grown & ~ndimage.binary_erosion(mask, square, border_value=1)
        expected.append(np.mean((one - other)[band] ** 2))
    assert band_errors(logits, teacher, masks.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_equal_logits_and_masks_without_boundary_give_0() -> None:
    logits = np.random.default_rng(1).normal(size=(2, 8, 8))
    masks = np.stack([np.zeros((8, 8)), np.eye(8)]).astype(np.float32)
    assert (band_errors(logits, logits, masks) == 0).all()
    assert band_errors(logits, logits + 2, masks).tolist() == pytest.approx([0, 4])
