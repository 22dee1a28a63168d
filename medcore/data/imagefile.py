"""Reading an image or mask file: what counts as foreground, and how a picture reaches the model's square.

Rules, in one place:

- Images of any mode become RGB: grey is repeated, alpha is dropped, palettes are looked up. Pixels of more
  than 8 bits (16-bit grey, 32-bit integer, float) are min-max scaled to 0..255 first, as MedSAM's protocol
  would do anyway. The first page of a file counts. EXIF orientation is applied.
- Masks: the largest colour channel decides (alpha is dropped). Foreground is > 127; in files of more than
  8 bits whose values exceed 255 it is > 32767, half of the 16-bit range; a boolean mask, and a lossless mask
  with no value above 1, is foreground where it is not 0.
- The model's frame is a square: PIL's bicubic filter for images (MedSAM: cubic with anti-aliasing), nearest
  neighbour for masks. A picture that already has the size stays untouched, bit for bit.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

#: Endings of the files that are looked at, lower case.
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
#: What PIL raises, depending on the format, for a file that is truncated, damaged or not an image.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
_DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


def read_image(path: Path) -> Image.Image:
    """The file as an 8-bit RGB picture. Raises one of `UNREADABLE`."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode in _DEEP:
            picture = Image.fromarray(_to_bytes(np.asarray(picture, dtype=np.float64)))
        return picture.convert("RGB")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """The file as a bool array (height, width) by the rules above. Raises one of `UNREADABLE`."""
    with Image.open(path) as file:
        lossless = file.format not in _LOSSY
        picture = ImageOps.exif_transpose(file)
        if picture.mode in _DEEP:
            values = np.asarray(picture, dtype=np.float64)
            if not np.isfinite(values).all():
                raise ValueError("values that are not finite")
        elif picture.mode in ("1", "L", "LA"):
            values = np.asarray(picture.convert("L"))
        else:
            red, green, blue = (np.asarray(channel) for channel in picture.convert("RGB").split())
            values = np.maximum(np.maximum(red, green), blue)
    most = values.max()
    if most <= 1 and lossless:
        return np.asarray(values > 0)
    return np.asarray(values > (32767 if most > 255 else 127))


def to_square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB picture in the model's frame: uint8 (3, size, size), not min-max scaled."""
    resized = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def mask_to_square(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """A mask (height, width) in the model's frame: uint8 (size, size), 0 or 1."""
    picture = Image.fromarray(mask.astype(np.uint8))
    return np.array(picture.resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)


def box_of(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Exact box of a mask (height, width): float32 (x0, y0, x1, y1), smallest and largest foreground indices.

    Both ends are inclusive, as in MedSAM: one pixel gives x0 = x1. Raises `ValueError` for an empty mask.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    low, high = values.min(), values.max()
    scaled: NDArray[np.float64] = np.rint((values - low) * (255.0 / max(high - low, 1e-12)))
    return scaled.astype(np.uint8)
