"""How pictures and masks come into a model's square: resized to all of it, or with padding (method §1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcore.data.imagefile import mask_to_square, to_square
from medcore.losses import IGNORED

#: Lines of a new picture that are computed at once.
_LINES = 16


@dataclass(frozen=True)
class Frame:
    """The square that a model sees.

    Attributes:
        side: its side in pixels.
        padded: whether pictures keep their proportions: their longest side becomes the square's, by area, and the
            square is padded right and below. If not, they fill the square.
    """

    side: int
    padded: bool = False

    @classmethod
    def of(cls, size: int | Frame) -> Frame:
        """Return a frame; a number is the side of a square that pictures fill."""
        return size if isinstance(size, Frame) else cls(size)

    def inner(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a picture within the square (1.2)."""
        if not self.padded:
            return self.side, self.side
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def picture(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return an RGB picture in the square, uint8 (3, side, side), 0 where the square is padded."""
        if not self.padded:
            return to_square(picture, self.side)
        resized = by_area(np.asarray(picture, dtype=np.uint8), self.inner(picture.height, picture.width))
        square = np.zeros((3, self.side, self.side), np.uint8)
        square[:, : resized.shape[0], : resized.shape[1]] = resized.transpose(2, 0, 1)
        return square

    def mask(self, mask: NDArray[np.bool_], void: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Return a mask in the square.

        Args:
            mask: (height, width), the object.
            void: (height, width), pixels that count nowhere.

        Returns:
            Uint8 (side, side): 0, 1, or `losses.IGNORED` where a pixel counts nowhere or the square is padded.
        """
        if not self.padded:
            return mask_to_square(mask, self.side, void)
        values = mask.astype(np.uint8)
        if void is not None:
            values[void] = int(IGNORED)
        height, width = self.inner(*mask.shape)
        square = np.full((self.side, self.side), int(IGNORED), np.uint8)
        square[:height, :width] = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST))
        return square


def by_area(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture so that each new pixel is the mean of the area that it covers.

    Args:
        pixels: (h, w, 3).
        size: new height and width.

    Returns:
        Uint8 (*size, 3), rounded half to even.
    """
    height, width = size
    # (h, w, 3) -> (height, w, 3) -> (width, height, 3)
    mean = _mean_lines(_mean_lines(pixels, height).swapaxes(0, 1), width)
    return np.asarray(np.rint(mean).clip(0, 255).swapaxes(0, 1), np.uint8, order="C")


def _mean_lines(lines: NDArray[Any], new: int) -> NDArray[np.float32]:
    """Return the means of the lines that each new line covers, (old, n, 3) -> (new, n, 3).

    A few new lines at a time, because each covers few of the old ones.
    """
    old, *rest = lines.shape
    step = old / new
    means = np.empty((new, *rest), np.float32)
    for begin in range(0, new, _LINES):
        end = min(begin + _LINES, new)
        first, last = int(begin * step), min(old, math.ceil(end * step))
        starts, pixels = np.arange(begin, end)[:, None] * step, np.arange(first, last)[None, :]
        covered = np.minimum(starts + step, pixels + 1) - np.maximum(starts, pixels)
        # the share of each old line in each new one
        shares = np.asarray(covered.clip(0) / step, np.float32)
        means[begin:end] = np.tensordot(shares, lines[first:last].astype(np.float32), axes=1)
    return means
