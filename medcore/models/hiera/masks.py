"""SAM 2's choice of one mask among four. This file imports torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

#: Distance of the two thresholds from 0 between which a stable mask has few pixels, and the least share of pixels above
#: both: SAM 2's settings, the same for all of its sizes.
DELTA, STABLE = 0.05, 0.98


def stability(logits: Tensor) -> Tensor:
    """Return the share of the pixels above −δ that are above δ too, (P, K, h, w) -> (P, K).

    It is the IoU of the masks at both thresholds, and 1 for a mask without a pixel.
    """
    inner, outer = ((logits > threshold).sum(dim=(-2, -1)) for threshold in (DELTA, -DELTA))
    return torch.where(outer > 0, inner / outer, 1.0)


def choose(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Return mask 0 where it is stable, or else the one of the others with the highest predicted IoU.

    Args:
        logits: (P, K, h, w), mask 0 first.
        ious: (P, K).

    Returns:
        Logits (P, 1, h, w) and predicted IoUs (P, 1).
    """
    best = 1 + ious[:, 1:].argmax(dim=1, keepdim=True)
    index = torch.where(stability(logits[:, :1]) >= STABLE, 0, best)
    picked = logits.gather(1, index[..., None, None].expand(-1, -1, *logits.shape[2:]))
    return picked, ious.gather(1, index)
