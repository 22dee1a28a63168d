"""Reading an image or mask file: what counts as foreground, and how a picture reaches the model's square.

The rules:

- Images of any mode become RGB: grey is repeated, alpha is dropped, palettes are looked up. Pixels of more
  than 8 bits (16-bit grey, 32-bit integer, float) are min-max scaled to 0..255 first, as MedSAM's protocol
  would do anyway. The first page of a file counts. EXIF orientation is applied.
- A mask keeps its values (`medcore.data.labels` says which of them are the object). Palettes are read by index. Grey
  in three channels is grey; other colours become numbers 0xRRGGBB. Alpha is dropped.
- The model's frame is a square. Images go through PIL's bicubic filter (MedSAM: cubic with anti-aliasing), masks
  take the nearest neighbour. A picture that already has the size stays the same, bit for bit.

An exported MLflow model has a copy of `read_image` (`search/export/pyfunc_model.py`), because that file runs without
this project. A change of the rules for images belongs in both.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medcore.data.labels import LabelMap
from medcore.losses import IGNORED

#: What PIL raises, depending on the format, for a file that is truncated, damaged or not an image.
IMAGE_ERRORS = (
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
    """Read a file as an RGB picture of 8 bits a channel.

    Raises:
        IMAGE_ERRORS: The file is missing, damaged or no image.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode in _DEEP:
            picture = Image.fromarray(_to_bytes(np.asarray(picture, dtype=np.float64)))
        return picture.convert("RGB")


def read_labels(path: Path) -> LabelMap:
    """Read the values of a mask file by the rules above.

    Raises:
        IMAGE_ERRORS: The file is missing, damaged or no image.
    """
    with Image.open(path) as file:
        lossy = file.format in _LOSSY
        picture = ImageOps.exif_transpose(file)
        if picture.mode in _DEEP:
            values = np.asarray(picture)
            if not np.isfinite(values).all():
                raise ValueError("values that are not finite")
            return LabelMap(values, full=_full_scale(picture.mode, values), lossy=lossy)
        if picture.mode == "P":
            return LabelMap(np.asarray(picture))
        if picture.mode in ("1", "L", "LA"):
            return LabelMap(np.asarray(picture.convert("L")), lossy=lossy)
        colours = np.asarray(picture.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return LabelMap(colours[..., 0], lossy=lossy)
    numbers = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return LabelMap(numbers, full=float(0xFFFFFF), lossy=lossy, colours=True)


def _full_scale(mode: str, values: NDArray[np.generic]) -> float:
    """Return the largest value of a file of more than 8 bits; 1 if its values are fractions."""
    if mode == "F" and values.max() <= 1:
        return 1.0
    return 255.0 if values.max() <= 255 else 65535.0


def to_square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return an RGB picture in the model's frame.

    Returns:
        Uint8 (3, size, size), not min-max scaled.
    """
    resized = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def mask_to_square(mask: NDArray[np.bool_], size: int, void: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return a mask (height, width) in the model's frame.

    Args:
        mask: (height, width), the object.
        size: Side of the frame.
        void: (height, width), pixels that count nowhere.

    Returns:
        Uint8 (size, size): 0, 1, or `losses.IGNORED` where a pixel counts nowhere.
    """
    values = mask.astype(np.uint8)
    if void is not None:
        values[void] = int(IGNORED)
    picture = Image.fromarray(values)
    return np.array(picture.resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)


def box_of(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the exact box of a mask.

    Args:
        mask: (height, width), not 0 in the foreground.

    Returns:
        Float32 (x0, y0, x1, y1), the smallest and largest foreground indices. Both ends are inclusive, as in MedSAM,
        so one pixel gives x0 = x1.

    Raises:
        ValueError: The mask is empty.
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
