"""Mirror images, masks and boxes of a training batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def flipped(images: Tensor, chosen: npt.NDArray[np.bool_], axis: int) -> Tensor:
    """Mirror the chosen ones of images or masks (B, C, S, S).

    Args:
        images: images or masks.
        chosen: bool (B,).
        axis: 3 for left-right, 2 for up-down.
    """
    pick, result = torch.from_numpy(chosen), images.clone()
    result[pick] = images[pick].flip(axis)
    return result


def flipped_boxes(boxes: Tensor, chosen: npt.NDArray[np.bool_], axis: int, size: int) -> Tensor:
    """Mirror the chosen boxes (B, 4).

    Box corners are pixel indices, both inside: x0, x1 become S − 1 − x1, S − 1 − x0.

    Args:
        boxes: (B, 4) XYXY.
        chosen: bool (B,).
        axis: as for `flipped`.
        size: S, side of the images in pixels.
    """
    pick, result = torch.from_numpy(chosen), boxes.clone()
    low, high = (0, 2) if axis == 3 else (1, 3)
    result[pick, low], result[pick, high] = size - 1 - boxes[pick, high], size - 1 - boxes[pick, low]
    return result
