"""How pictures and masks come into a model's square: resized to all of it, or with padding (method §1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcore.data.imagefile import mask_to_square, to_square
from medcore.losses import IGNORED


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
    rows, columns = (_shares(old, new) for old, new in zip(pixels.shape, size, strict=False))
    mean = np.einsum("yh,hwc->ywc", rows, pixels.astype(np.float32), optimize=True)
    mean = np.einsum("xw,ywc->yxc", columns, mean, optimize=True)
    return np.asarray(np.rint(mean).clip(0, 255), np.uint8)


def _shares(old: int, new: int) -> NDArray[np.float32]:
    """Return the share that each of `old` pixels has in the area of each of `new` ones, (new, old)."""
    step = old / new
    starts, pixels = np.arange(new)[:, None] * step, np.arange(old)[None, :]
    covered = np.minimum(starts + step, pixels + 1) - np.maximum(starts, pixels)
    return np.asarray(covered.clip(0) / step, np.float32)
