"""Images, masks and boxes in memory, as NumPy arrays that processes share read-only and as tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcore.losses import IGNORED, boundary_band

#: Positions of images in a set, in any order, repeats allowed; None means all of them.
Indices = Sequence[int] | NDArray[np.integer] | torch.Tensor | None
#: Number of masks in work at a time, so that no full-size float copy of a whole set is ever made.
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N samples in the model's frame, with their masks at original size.

    The frame is a square of S pixels. Arrays may be read-only views of shared memory. No code may write to them,
    because results that are derived from them are kept.

    Attributes:
        images: Uint8 (N, 3, S, S), resized but not min-max scaled.
        masks: Uint8 (N, S, S): 0, 1, or `IGNORED` where a pixel counts nowhere; each with some foreground.
        boxes: Float32 (N, 4), XYXY in pixels of the square: the smallest and largest foreground indices.
        truths: N bool arrays (height, width), the masks at original size, for evaluation.
        datasets: Name of the data set of each sample.
        names: Name of each sample within its data set.
        voids: For each sample the pixels at original size that count nowhere, bool (height, width), or None; empty if
            no sample has any.
        spacings: For each sample the millimetres a pixel of the original image, rows and columns, or None; empty if
            none is known.
        sources: Name of the image that each sample is of, within its data set; empty if each has an image of its own.
        inner: Height and width of each image within the square, which is padded right and below; empty if all images
            fill it.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    truths: list[NDArray[np.bool_]]
    datasets: list[str]
    names: list[str]
    voids: list[NDArray[np.bool_] | None] = field(default_factory=list)
    spacings: list[tuple[float, float] | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    inner: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that the arrays fit together.

        Raises:
            ValueError: They do not.
        """
        count, side = len(self.names), self.images.shape[-1]
        if self.images.shape != (count, 3, side, side) or self.masks.shape != (count, side, side):
            raise ValueError(f"{count} names, images {self.images.shape} and masks {self.masks.shape} do not fit")
        if self.boxes.shape != (count, 4) or len(self.truths) != count or len(self.datasets) != count:
            raise ValueError(f"boxes, truths or datasets do not fit {count} names")
        if any(known and len(known) != count for known in (self.voids, self.spacings, self.sources, self.inner)):
            raise ValueError(f"voids, spacings, sources or inner sizes do not fit {count} names")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        """Return the side S of the model's square in pixels."""
        return int(self.images.shape[-1])

    def subset(self, indices: Indices) -> ImageSet:
        """Return copies of the chosen samples as a set of their own, in the order given."""
        chosen = self._positions(indices)
        return ImageSet(
            images=self.images[chosen],
            masks=self.masks[chosen],
            boxes=self.boxes[chosen],
            truths=[self.truths[i] for i in chosen],
            datasets=[self.datasets[i] for i in chosen],
            names=[self.names[i] for i in chosen],
            voids=[self.voids[i] for i in chosen] if self.voids else [],
            spacings=[self.spacings[i] for i in chosen] if self.spacings else [],
            sources=[self.sources[i] for i in chosen] if self.sources else [],
            inner=[self.inner[i] for i in chosen] if self.inner else [],
        )

    def void(self, index: int) -> NDArray[np.bool_] | None:
        """Return the pixels of one sample at original size that count nowhere, or None."""
        return self.voids[index] if self.voids else None

    def spacing(self, index: int) -> tuple[float, float] | None:
        """Return the millimetres a pixel of one sample's original image, rows and columns, or None."""
        return self.spacings[index] if self.spacings else None

    @property
    def is_spaced(self) -> bool:
        """Return whether the spacing of every sample is known."""
        return bool(self.spacings) and None not in self.spacings

    @property
    def largest_sides(self) -> tuple[int, float]:
        """Return the largest side of any original image, in pixels and, of those with a spacing, in millimetres."""
        known = zip(self.truths, self.spacings, strict=True) if self.spacings else []
        in_mm = [max(np.multiply(truth.shape, spacing)) for truth, spacing in known if spacing is not None]
        return max(max(truth.shape) for truth in self.truths), float(max(in_mm, default=0.0))

    def source(self, index: int) -> str:
        """Return the name of the image that a sample is of, within its data set."""
        return self.sources[index] if self.sources else self.names[index]

    def inner_size(self, index: int) -> tuple[int, int]:
        """Return the height and width of one image within the square."""
        return self.inner[index] if self.inner else (self.size, self.size)

    def tensor(self, indices: Indices = None) -> torch.Tensor:
        """Return the model's input: float32 (B, 3, S, S).

        Each image is min-max scaled to [0, 1] over all colours (1.1). A constant image becomes zeros, and so does
        the padding.
        """
        chosen = self._positions(indices)
        pixels = torch.from_numpy(self.images[chosen]).float()
        if self.inner:
            scaled = torch.zeros_like(pixels)
            for row, index in enumerate(chosen):
                height, width = self.inner[index]
                scaled[row, :, :height, :width] = _min_max(pixels[row : row + 1, :, :height, :width])[0]
            return scaled
        return _min_max(pixels)

    def mask_tensor(self, indices: Indices = None) -> torch.Tensor:
        """Return masks in the model's frame: float32 (B, 1, S, S), 0, 1 or `IGNORED`."""
        return torch.from_numpy(self.masks[self._positions(indices)]).float().unsqueeze(1)

    def box_tensor(self, indices: Indices = None) -> torch.Tensor:
        """Return exact boxes: float32 (B, 4), XYXY in pixels of the square."""
        return torch.from_numpy(self.boxes[self._positions(indices)])

    def low_masks(self, low: int, indices: Indices = None) -> NDArray[np.float32]:
        """Return masks at the decoder's resolution (method §1).

        A cell is ignored if most of its pixels are. Otherwise it is 1 if at least half of its other pixels are
        foreground. Each mask is reduced once and then kept (low² bytes). Only the chosen masks are read.

        Args:
            low: Side of the result; it need not divide S, because cells are those of adaptive average pooling.
            indices: Which masks.

        Returns:
            Float32 (B, low, low), 0, 1 or `IGNORED`.
        """
        chosen = self._positions(indices)
        if low not in self._reduced:
            self._reduced[low] = np.zeros((len(self), low, low), np.uint8), np.zeros(len(self), np.bool_)
        cells, known = self._reduced[low]
        missing = np.unique(chosen[~known[chosen]])
        for start in range(0, len(missing), _CHUNK):
            rows = missing[start : start + _CHUNK]
            cells[rows] = _reduce(torch.from_numpy(self.masks[rows]), low).numpy()
            known[rows] = True
        return cells[chosen].astype(np.float32)

    def low_mask_tensor(self, low: int, indices: Indices = None) -> torch.Tensor:
        """Return `low_masks` as a tensor: float32 (B, 1, low, low)."""
        return torch.from_numpy(self.low_masks(low, indices)).unsqueeze(1)

    @cached_property
    def complexity(self) -> NDArray[np.float64]:
        """Return the `boundary_complexity` of the masks, (N,)."""
        return boundary_complexity(self.masks)

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that training and scores depend on.

        The hash covers pixels, masks, boxes, names and data sets.
        """
        digest = hashlib.sha256()
        for array in (self.images, self.masks, self.boxes):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        digest.update(json.dumps([self.datasets, self.names, *([self.inner] if self.inner else [])]).encode())
        return digest.hexdigest()

    @cached_property
    def _reduced(self) -> dict[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """Return the low masks that are known so far, by their side.

        Returns:
            For each side the masks (N, low, low), and which of them are known, (N,).
        """
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # arrays come back read-only from shared memory, where no low masks could be added
        return {name: value for name, value in vars(self).items() if name != "_reduced"}

    def _positions(self, indices: Indices) -> NDArray[np.intp]:
        if indices is None:
            return np.arange(len(self))
        return np.asarray(indices, dtype=np.intp).reshape(-1)


def _min_max(pixels: torch.Tensor) -> torch.Tensor:
    low = pixels.amin(dim=(1, 2, 3), keepdim=True)
    high = pixels.amax(dim=(1, 2, 3), keepdim=True)
    return (pixels - low) / (high - low).clamp(min=1e-8)


def _reduce(masks: torch.Tensor, low: int) -> torch.Tensor:
    """Return uint8 masks (B, S, S) as uint8 (B, low, low), by the rule of `ImageSet.low_masks`."""
    kinds = torch.stack([masks == 1, masks == IGNORED], dim=1).float()
    object_share, ignored_share = torch.nn.functional.adaptive_avg_pool2d(kinds, low).unbind(dim=1)
    cells = object_share >= 0.5 * (1 - ignored_share)
    return cells.to(torch.uint8).masked_fill_(ignored_share > 0.5, int(IGNORED))


def boundary_complexity(masks: NDArray[np.uint8], chunk: int = _CHUNK) -> NDArray[np.float64]:
    """Return perimeter / (√area + 1) of each mask (6.1).

    The perimeter is the size of the 3×3 band (dilation − erosion).

    Args:
        masks: Uint8 (N, S, S), 0, 1 or `IGNORED`.
        chunk: Number of masks in work at a time, which bounds memory.

    Returns:
        (N,), 0 for an empty mask.
    """
    values = np.empty(len(masks), np.float64)
    for start in range(0, len(masks), chunk):
        mask = torch.from_numpy(masks[start : start + chunk].astype(np.float32))[:, None]
        perimeter = boundary_band(mask).sum(dim=(1, 2, 3)).double()
        area = (mask == 1).sum(dim=(1, 2, 3)).double()
        values[start : start + chunk] = (perimeter / (area.sqrt() + 1)).numpy()
    return values


def jitter_boxes(
    boxes: NDArray[np.float32], generator: np.random.Generator, share: float = 0.05, *, size: int
) -> NDArray[np.float32]:
    """Move the edges of boxes at random, as if a user had drawn them (method §6).

    Each edge moves by up to ±`share` of the box's width or height.

    Args:
        boxes: (B, 4) XYXY in pixels, inclusive ends.
        generator: Source of randomness; 4·B uniform numbers are drawn.
        share: Largest move as a share of the box's side, below 0.5 so that edges cannot cross.
        size: Side of the image in pixels; results are clipped to [0, size − 1].

    Returns:
        Float32 (B, 4), a new array.

    Raises:
        ValueError: The share is outside of [0, 0.5).
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
