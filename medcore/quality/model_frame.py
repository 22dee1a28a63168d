"""Evaluation in the model's square with widened boxes, as the released code of MedCore does (method §7).

Boundary metrics depend on the frame. Compare with the paper's figures in this one only.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.losses import IGNORED


@dataclass(frozen=True)
class WideBoxes:
    """Boxes whose edges move outward by whole pixels of the model's square.

    Attributes:
        widen: largest move of an edge in pixels; each edge draws from 0 to this.
        seed: seed of the draws, together with the file name of the image.

    Raises:
        MedcoreError: a number is negative.
    """

    widen: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        if self.widen < 0 or self.seed < 0:
            raise ConfigError(f"boxes: widening and seed must be at least 0, got {self.widen} and {self.seed}")

    def of(self, boxes: npt.NDArray[np.float32], files: Sequence[str], size: int) -> npt.NDArray[np.float32]:
        """Return widened boxes. The moves are those that the released code draws for the same seed and file names.

        Args:
            boxes: (N, 4) XYXY in pixels of the square, exact.
            files: (N,) file names of the images, with their endings.
            size: side of the square in pixels; no edge moves beyond it.

        Returns:
            Float32 (N, 4), a new array.
        """
        wide = np.array(boxes, dtype=np.float32)
        for row, file in zip(wide, files, strict=True):
            digest = hashlib.sha256(f"{self.seed}:{file}".encode("utf-8", "surrogateescape")).digest()
            generator = random.Random(int.from_bytes(digest[:8], "big"))
            # left, right, top, bottom
            for edge, sign in ((0, -1), (2, 1), (1, -1), (3, 1)):
                row[edge] += sign * generator.randint(0, self.widen)
        return np.clip(wide, 0, size)


def in_model_frame(images: ImageSet, files: Sequence[str], boxes: WideBoxes) -> ImageSet:
    """Return the images with their masks in the model's square as truth, and with widened boxes.

    Where the square is padded, the truth is what lies within the image.

    Args:
        images: images with exact boxes; a sample without foreground has the whole square as box.
        files: (N,) file names of the images, with their endings.
        boxes: how boxes are widened.
    """
    masks = [
        mask[:height, :width]
        for mask, (height, width) in zip(images.masks, map(images.inner_size, range(len(images))), strict=True)
    ]
    return replace(
        images,
        truths=[mask == 1 for mask in masks],
        voids=[mask == IGNORED for mask in masks] if images.voids else [],
        boxes=boxes.of(images.boxes, files, images.size),
        spacings=[],  # pixels of the square have other sizes than those of the file
    )
