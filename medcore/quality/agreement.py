"""How far a pruned model's logits are from the unpruned model's where the boundary is (method §14)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from medcore.losses import boundary_band

Logits = npt.NDArray[np.floating]


def band_errors(logits: Logits, teacher: Logits, masks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the mean squared difference of logits in the boundary band of each image (14.4).

    It has less noise than metrics of masks, which change only where a logit changes its sign.

    Args:
        logits: (N, low, low) of the pruned model.
        teacher: (N, low, low) of the unpruned model.
        masks: (N, low, low) true masks at low resolution, 0, 1 or `losses.IGNORED`.

    Returns:
        (N,) float64; 0 for an image whose mask has no boundary.
    """
    # (N, low, low) -> (N, 1, low, low) and back
    band = boundary_band(torch.from_numpy(np.asarray(masks, np.float32))[:, None])[:, 0].numpy().astype(np.float64)
    squares = band * np.square(np.asarray(logits, np.float64) - np.asarray(teacher, np.float64))
    size = band.sum(axis=(1, 2))
    errors: npt.NDArray[np.float64] = squares.sum(axis=(1, 2)) / np.maximum(size, 1.0)
    return errors
