"""Mirror images, masks and boxes of a training batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def flipped(images: Tensor, chosen: npt.NDArray[np.bool_], axis: int, lengths: npt.NDArray[np.intp]) -> Tensor:
    """Mirror the chosen ones of images or masks (B, C, S, S).

    Padding stays where it is.

    Args:
        images: images or masks.
        chosen: bool (B,).
        axis: 3 for left-right, 2 for up-down.
        lengths: (B,) pixels of each image along this axis, the padding not counted.
    """
    result = images.clone()
    for row in np.flatnonzero(chosen):
        inside = images[row].narrow(axis - 1, 0, int(lengths[row]))
        result[row].narrow(axis - 1, 0, int(lengths[row])).copy_(inside.flip(axis - 1))
    return result


def flipped_boxes(boxes: Tensor, chosen: npt.NDArray[np.bool_], axis: int, lengths: npt.NDArray[np.intp]) -> Tensor:
    """Mirror the chosen boxes (B, 4).

    Box corners are pixel indices, both inside: x0, x1 become n − 1 − x1, n − 1 − x0 in an image of n pixels.

    Args:
        boxes: (B, 4) XYXY.
        chosen: bool (B,).
        axis: as for `flipped`.
        lengths: as for `flipped`.
    """
    pick, result = torch.from_numpy(chosen), boxes.clone()
    low, high = (0, 2) if axis == 3 else (1, 3)
    last = torch.from_numpy(lengths)[pick].to(boxes.dtype) - 1
    result[pick, low], result[pick, high] = last - boxes[pick, high], last - boxes[pick, low]
    return result
