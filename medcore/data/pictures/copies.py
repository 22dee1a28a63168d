"""Masks that are copies of a black and white picture: after lossy compression, smooth resizing or both.

A copy has more than two values, and so has a label map. Four things tell them apart, on masks of two data sets at all
JPEG qualities and after resizing by 0.1 to 16 with four filters:

- A label map has areas of one value. In a copy, hardly a value between black and full scale fills 3×3 pixels.
- In a lossy copy, areas of black have one or two values; low labels have one each.
- In a copy, the edges of objects take up little room compared with the objects.
- A lossless file of few values is a copy only if several lie in the middle, next to full scale, as smooth edges do, or
  several near both ends, as light compression gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.integer] | NDArray[np.floating] | NDArray[np.bool_]

#: Values within this share of the scale from an end are black or full scale.
_CLEAR = 1 / 8
#: Values within this share from an end may fill areas, because compression shifts black and full scale a little.
_SHIFT, _SHIFT_LOSSLESS = 1 / 10, 1 / 32
#: Largest share of the values between that may fill 3×3 pixels.
_FLAT = 0.01
#: Largest number of values that areas of black have in a lossy copy, and the least share of black with such a value.
_BLACKS, _LEAST_BLACK = 3, 0.002
#: Largest number of pixels in the middle for each pixel of full scale.
_EDGES = 4
#: A lossless file with at most so many values may be a label map of thin structures.
_FEW_VALUES = 16
#: Least share of its values in the middle that have full scale two pixels away or nearer.
_AT_EDGES = 0.9


def is_copy(values: Values, full: float, *, lossy: bool) -> bool:
    """Tell whether a mask is a copy of a black and white picture.

    Args:
        values: (height, width), real numbers.
        full: Largest value of the file's type, such as 255.
        lossy: Whether the file's compression changes values.
    """
    if not lossy and bool(((values == 0) | (values == values.max())).all()):
        return False  # most masks, in a fraction of the time
    from scipy.ndimage import maximum_filter, minimum_filter  # here, because it takes long to import

    scaled = np.asarray(values, np.float64) / full
    if scaled.min() < 0 or scaled.max() > 1:
        return False
    if not lossy and len(distinct := np.unique(scaled)) <= _FEW_VALUES and not _of_few_values(scaled, distinct):
        return False
    flat = np.asarray(maximum_filter(scaled, 3) == minimum_filter(scaled, 3))
    if lossy and _count_blacks(scaled[flat]) > _BLACKS:
        return False
    bright = scaled >= 1 - _CLEAR
    if not bright.any():
        return lossy and bool(scaled.max() <= _CLEAR)
    middle = (scaled > _CLEAR) & ~bright
    shift = _SHIFT if lossy else _SHIFT_LOSSLESS
    between = (scaled > shift) & (scaled < 1 - shift)
    return bool(middle.sum() <= _EDGES * bright.sum() and (between & flat).sum() <= _FLAT * between.sum())


def _count_blacks(areas: NDArray[np.float64]) -> int:
    """Count the values near black among pixels that lie in areas of one value."""
    _, counts = np.unique(areas[areas <= _SHIFT], return_counts=True)
    return int((counts > _LEAST_BLACK * counts.sum()).sum())


def _of_few_values(scaled: NDArray[np.float64], distinct: NDArray[np.float64]) -> bool:
    """Tell whether a few values, as shares of the scale, are those of smooth edges or of light compression."""
    middle = (distinct > _CLEAR) & (distinct < 1 - _CLEAR)
    if not middle.any():
        black, white = distinct <= _SHIFT_LOSSLESS, distinct >= 1 - _SHIFT_LOSSLESS
        return bool(min(black.sum(), white.sum()) >= 3)
    from scipy.ndimage import maximum_filter

    edges = (scaled > _CLEAR) & (scaled < 1 - _CLEAR)
    near = maximum_filter((scaled >= 1 - _CLEAR).astype(np.uint8), 5) > 0
    return bool(middle.sum() >= 2 and (edges & near).sum() >= _AT_EDGES * edges.sum())
