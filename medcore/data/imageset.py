"""Images, masks and boxes in memory: plain NumPy arrays that processes share read-only, and tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcore.losses import boundary_band

#: Which images: positions in the set, in any order, repeats allowed; None means all of them.
Indices = Sequence[int] | NDArray[np.integer] | torch.Tensor | None
#: Masks worked on at a time, so that full-size float copies of a whole set are never made.
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N samples in the model's frame, a square of S pixels, beside the masks in their original size.

    Arrays may be read-only views (shared memory): nothing here writes to them, nor may others, since what is derived
    from them is kept.

    Attributes:
        images: uint8 (N, 3, S, S), resized but not min-max scaled.
        masks: uint8 (N, S, S), 0 or 1, each with some foreground.
        boxes: float32 (N, 4), XYXY in model-frame pixels, exact: the smallest and largest foreground indices.
        truths: N bool arrays (height, width), the masks at original size, for evaluation.
        datasets: name of the data set of each sample.
        names: name of each sample within its data set.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    truths: list[NDArray[np.bool_]]
    datasets: list[str]
    names: list[str]

    def __post_init__(self) -> None:
        count, side = len(self.names), self.images.shape[-1]
        if self.images.shape != (count, 3, side, side) or self.masks.shape != (count, side, side):
            raise ValueError(f"{count} names, images {self.images.shape} and masks {self.masks.shape} do not fit")
        if self.boxes.shape != (count, 4) or len(self.truths) != count or len(self.datasets) != count:
            raise ValueError(f"boxes, truths or datasets do not fit {count} names")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        """Side S of the model's square in pixels."""
        return int(self.images.shape[-1])

    def subset(self, indices: Indices) -> ImageSet:
        """The chosen samples as a set of their own, in the order given (copies)."""
        chosen = self._positions(indices)
        return ImageSet(
            self.images[chosen],
            self.masks[chosen],
            self.boxes[chosen],
            [self.truths[i] for i in chosen],
            [self.datasets[i] for i in chosen],
            [self.names[i] for i in chosen],
        )

    def of_dataset(self, dataset: str) -> NDArray[np.intp]:
        """Positions of the samples of one data set."""
        return np.flatnonzero(np.array(self.datasets, dtype=object) == dataset)

    def tensor(self, indices: Indices = None) -> torch.Tensor:
        """Model input: float32 (B, 3, S, S), each image min-max scaled to [0, 1] over all channels (§1).

        A constant image becomes zeros.
        """
        pixels = torch.from_numpy(self.images[self._positions(indices)]).float()
        low = pixels.amin(dim=(1, 2, 3), keepdim=True)
        high = pixels.amax(dim=(1, 2, 3), keepdim=True)
        return (pixels - low) / (high - low).clamp(min=1e-8)

    def mask_tensor(self, indices: Indices = None) -> torch.Tensor:
        """Masks in the model's frame: float32 (B, 1, S, S), 0 or 1."""
        return torch.from_numpy(self.masks[self._positions(indices)]).float().unsqueeze(1)

    def box_tensor(self, indices: Indices = None) -> torch.Tensor:
        """Exact boxes: float32 (B, 4), XYXY in model-frame pixels."""
        return torch.from_numpy(self.boxes[self._positions(indices)])

    def low_masks(self, low: int, indices: Indices = None) -> NDArray[np.float32]:
        """Masks at the decoder's resolution: float32 (B, low, low), 1 where half a cell is foreground.

        Cells are those of adaptive average pooling, so `low` need not divide the image size. Each mask is reduced once
        and then kept (low² bytes); only the masks asked for are read.
        """
        chosen = self._positions(indices)
        if low not in self._reduced:
            self._reduced[low] = np.zeros((len(self), low, low), np.uint8), np.zeros(len(self), np.bool_)
        cells, known = self._reduced[low]
        missing = np.unique(chosen[~known[chosen]])
        for start in range(0, len(missing), _CHUNK):
            rows = missing[start : start + _CHUNK]
            masks = torch.from_numpy(self.masks[rows].astype(np.float32))
            cells[rows] = (torch.nn.functional.adaptive_avg_pool2d(masks[:, None], low)[:, 0] >= 0.5).numpy()
            known[rows] = True
        return cells[chosen].astype(np.float32)

    def low_mask_tensor(self, low: int, indices: Indices = None) -> torch.Tensor:
        """`low_masks` as a tensor: float32 (B, 1, low, low)."""
        return torch.from_numpy(self.low_masks(low, indices)).unsqueeze(1)

    @cached_property
    def complexity(self) -> NDArray[np.float64]:
        """`boundary_complexity` of the masks, (N,)."""
        return boundary_complexity(self.masks)

    def fingerprint(self) -> str:
        """SHA-256 of all that a model can be trained or scored on here: pixels, masks, boxes, names, data sets."""
        digest = hashlib.sha256()
        for array in (self.images, self.masks, self.boxes):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        digest.update(json.dumps([self.datasets, self.names]).encode())
        return digest.hexdigest()

    @cached_property
    def _reduced(self) -> dict[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """By side: low masks (N, low, low), 0 or 1, and which of them are known (N,)."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # arrays come back read-only from shared memory, and low masks could not be added to
        return {name: value for name, value in vars(self).items() if name != "_reduced"}

    def _positions(self, indices: Indices) -> NDArray[np.intp]:
        if indices is None:
            return np.arange(len(self))
        return np.asarray(indices, dtype=np.intp).reshape(-1)


def boundary_complexity(masks: NDArray[np.uint8], chunk: int = _CHUNK) -> NDArray[np.float64]:
    """perimeter / (√area + 1) of each mask; the perimeter is the size of the 3×3 band (dilation − erosion).

    Args:
        masks: uint8 0/1 (N, S, S), model frame; `chunk` masks are worked on at a time to bound memory.

    Returns: (N,), 0 for an empty mask.
    """
    values = np.empty(len(masks), np.float64)
    for start in range(0, len(masks), chunk):
        mask = torch.from_numpy(masks[start : start + chunk].astype(np.float32))[:, None]
        perimeter = boundary_band(mask).sum(dim=(1, 2, 3)).double()
        area = mask.sum(dim=(1, 2, 3)).double()
        values[start : start + chunk] = (perimeter / (area.sqrt() + 1)).numpy()
    return values


def jitter_boxes(
    boxes: NDArray[np.float32], generator: np.random.Generator, share: float = 0.05, *, size: int
) -> NDArray[np.float32]:
    """Boxes as a user would draw them: each edge moves by up to ±`share` of the box's width or height.

    Args:
        boxes: (B, 4) XYXY in pixels, inclusive ends.
        generator: the source of chance; 4·B uniform numbers are drawn.
        share: largest move as a share of the box's side, below 0.5 so that edges cannot cross.
        size: side of the image in pixels; results are clipped to [0, size − 1].

    Returns:
        float32 (B, 4); the input is left alone.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"share must lie in [0, 0.5), got {share}")
    corners = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2] + 1
    moves = generator.uniform(-share, share, corners.shape) * np.concatenate([sides, sides], axis=1)
    moved = np.clip(corners + moves, 0, size - 1)
    # a one-pixel box has x0 = x1, and its edges would cross by a fraction of a pixel
    first, last = np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])
    return np.concatenate([first, last], axis=1).astype(np.float32)
