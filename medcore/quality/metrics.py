"""Region and boundary metrics of binary masks, in pixels (method §7).

Masks are (h, w) arrays of one frame, True inside the object. Pixels outside the frame count as background in
every boundary metric: an object cut by the frame has a boundary along the cut, and a mask that fills the
frame still has a surface. Nothing outside the frame ever belongs to a band or a surface.

All work is done on the bounding box of both masks plus the band's radius, clipped to the frame. As the
outside is background and the margin holds every band pixel, this equals the same work on the full frame.
A metric never is NaN: what it counts as when one or both masks are empty stands in its docstring.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Metrics of `all_metrics` that are distances; for the others, higher is better.
LOWER_IS_BETTER = frozenset({"hd95", "assd"})
#: r of the boundary F1; the band and the match both use a square of side 2r + 1.
BAND_RADIUS = 2
#: Default tolerance of the NSD.
TOLERANCE_PX = 2.0

_HALF_DIAGONAL = np.sqrt(2) / 2
# Contour length in each 2×2 neighbourhood, by code 8·(top left) + 4·(top right) + 2·(bottom left) + (bottom
# right): one pixel or three cut a corner off, two side by side make a straight edge, two across cut two.
_CONTOUR_LENGTH = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0]) * _HALF_DIAGONAL
_CONTOUR_LENGTH[[0b0011, 0b0101, 0b1010, 0b1100]] = 1.0


def all_metrics(pred: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, float]:
    """Every metric of one pair at once; the bounding box and the surface distances are computed once.

    Returns: keys dice, iou, boundary_f1, hd95, assd and nsd (tolerance 2 px).

    Raises: ValueError if the masks are not two-dimensional or differ in shape (so does every function here).
    """
    a, b, side = _crop(pred, truth)
    distances = _surface_distances(a, b, side)
    return {
        "dice": _dice(a, b),
        "iou": _iou(a, b),
        "boundary_f1": _boundary_f1(a, b, BAND_RADIUS),
        "hd95": _hd95(*distances),
        "assd": _assd(*distances),
        "nsd": _nsd(a, b, TOLERANCE_PX),
    }


def dice(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """2·|A ∧ B| / (|A| + |B|); both empty: 1."""
    return _dice(*_crop(pred, truth)[:2])


def iou(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """|A ∧ B| / |A ∨ B|; both empty: 1."""
    return _iou(*_crop(pred, truth)[:2])


def boundary_f1(pred: npt.ArrayLike, truth: npt.ArrayLike, radius: int = BAND_RADIUS) -> float:
    """F1 of the bands dilate(m) ∧ ¬erode(m), each matched against the other dilated by `radius`.

    All three operations use a (2·radius + 1)² square. Both empty: 1; one empty: 0.
    """
    a, b, _ = _crop(pred, truth, margin=radius)
    return _boundary_f1(a, b, radius)


def hd95(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Max of the two directed 95th percentiles (linear) of the distances between surfaces m ∧ ¬erode3×3(m).

    Both empty: 0; one empty: the largest side of the frame, so that a missed object is finite and bad.

    Elsewhere: MONAI erodes with the 3×3 cross (a thinner surface, equal for axis-aligned rectangles) and
    gives NaN for an empty mask; DeepMind's surface-distance weights by contour length; medpy pools both
    directions.
    """
    return _hd95(*_surface_distances(*_crop(pred, truth)))


def assd(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Average symmetric surface distance: mean over the surface pixels of both masks together.

    Surfaces and empty masks as in `hd95`. MONAI pools in the same way on its thinner surface; DeepMind's
    surface-distance gives one contour-length-weighted mean per direction.
    """
    return _assd(*_surface_distances(*_crop(pred, truth)))


def nsd(pred: npt.ArrayLike, truth: npt.ArrayLike, tolerance_px: float = TOLERANCE_PX) -> float:
    """Normalised surface Dice as DeepMind's surface-distance defines it.

    Surface elements are the 2×2 neighbourhoods that hold both object and background, one per pixel corner,
    weighted by the contour length inside (marching squares: ½√2 for one or three pixels, 1 for two side by
    side, √2 for two across). The NSD is the share of both contours' length that lies at most `tolerance_px`
    from an element of the other. Both empty: 1 (DeepMind: NaN); one empty: 0.

    MONAI agrees with `use_subvoxels=True`, `spacing=1`; by default it counts edge pixels instead.
    """
    return _nsd(*_crop(pred, truth)[:2], tolerance_px)


def _crop(pred: npt.ArrayLike, truth: npt.ArrayLike, margin: int = BAND_RADIUS) -> tuple[Mask, Mask, int]:
    """Both masks on their common bounding box plus `margin` (within the frame); the frame's largest side.

    Both empty: two arrays of no pixels.
    """
    a, b = np.asarray(pred, dtype=bool), np.asarray(truth, dtype=bool)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"two masks (h, w) of one frame expected, got shapes {a.shape} and {b.shape}")
    union = a | b
    rows, columns = _extent(union.any(axis=1), margin), _extent(union.any(axis=0), margin)
    return a[rows, columns], b[rows, columns], max(a.shape)


def _extent(occupied: Mask, margin: int) -> slice:
    indices = np.flatnonzero(occupied)
    if not indices.size:
        return slice(0, 0)
    return slice(max(0, int(indices[0]) - margin), int(indices[-1]) + margin + 1)


def _square(mask: Mask, radius: int, combine: np.ufunc) -> Mask:
    """Combine each (2·radius + 1)² square, background outside: logical_or dilates, logical_and erodes."""
    padded = np.pad(mask, radius)
    height, width = mask.shape
    # The square is separable: (h + 2r, w + 2r) -> (h, w + 2r) -> (h, w)
    lines = padded[:height].copy()
    for shift in range(1, 2 * radius + 1):
        combine(lines, padded[shift : shift + height], out=lines)
    result: Mask = lines[:, :width].copy()
    for shift in range(1, 2 * radius + 1):
        combine(result, lines[:, shift : shift + width], out=result)
    return result


def _dice(a: Mask, b: Mask) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0


def _iou(a: Mask, b: Mask) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def _boundary_f1(a: Mask, b: Mask, radius: int) -> float:
    if not (a.any() and b.any()):
        return float(a.any() == b.any())
    band_a, band_b = (_square(mask, radius, np.logical_or) & ~_square(mask, radius, np.logical_and) for mask in (a, b))
    matched_a = np.count_nonzero(band_a & _square(band_b, radius, np.logical_or))
    matched_b = np.count_nonzero(band_b & _square(band_a, radius, np.logical_or))
    if not matched_a and not matched_b:
        return 0.0
    precision, recall = matched_a / np.count_nonzero(band_a), matched_b / np.count_nonzero(band_b)
    return float(2 * precision * recall / (precision + recall))


def _surface_distances(a: Mask, b: Mask, side: int) -> tuple[Floats, Floats]:
    """Distance of each surface pixel of a to the surface of b, and the reverse; constants for empty masks."""
    if not (a.any() and b.any()):
        constant = np.array([0.0 if a.any() == b.any() else float(side)])
        return constant, constant
    surface_a, surface_b = (mask & ~_square(mask, 1, np.logical_and) for mask in (a, b))
    return _nearest(surface_a, surface_b), _nearest(surface_b, surface_a)


def _hd95(a_to_b: Floats, b_to_a: Floats) -> float:
    return float(max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95)))


def _assd(a_to_b: Floats, b_to_a: Floats) -> float:
    return float((a_to_b.sum() + b_to_a.sum()) / (a_to_b.size + b_to_a.size))


def _nsd(a: Mask, b: Mask, tolerance_px: float) -> float:
    if not (a.any() and b.any()):
        return float(a.any() == b.any())
    lengths_a, lengths_b = _contour_lengths(a), _contour_lengths(b)
    # Products, not selections: equal terms are then added in equal order, and a perfect match is exactly 1.
    within_a = (lengths_a * _reach(lengths_b > 0, tolerance_px)).sum()
    within_b = (lengths_b * _reach(lengths_a > 0, tolerance_px)).sum()
    return float((within_a + within_b) / (lengths_a.sum() + lengths_b.sum()))


def _reach(elements: Mask, tolerance_px: float) -> Mask:
    """Where an element lies at most `tolerance_px` away: the union of shifts within a disc.

    For the usual tolerance of 2 these are 13 shifts, several times faster than distances.
    """
    radius = int(tolerance_px)
    padded = np.pad(elements, radius)
    height, width = elements.shape
    reached = np.zeros_like(elements)
    for down, right in product(range(2 * radius + 1), repeat=2):
        if math.hypot(down - radius, right - radius) <= tolerance_px:
            reached |= padded[down : down + height, right : right + width]
    return reached


def _contour_lengths(mask: Mask) -> Floats:
    """(h, w) -> (h + 1, w + 1): contour length in the 2×2 neighbourhood around each pixel corner."""
    padded = np.pad(mask.view(np.uint8), 1)
    code = 8 * padded[:-1, :-1] + 4 * padded[:-1, 1:] + 2 * padded[1:, :-1] + padded[1:, 1:]
    lengths: Floats = _CONTOUR_LENGTH[code]
    return lengths


def _nearest(sources: Mask, targets: Mask) -> Floats:
    """Euclidean distance of each True pixel of `sources`, in row-major order, to the nearest of `targets`.

    Surfaces of objects are sparse: a tree over their n pixels costs O(n log n), less than a distance map of
    the box. Masks of noise are dense in surface, where the map wins (measured break-even: a quarter).
    """
    if np.count_nonzero(sources) + np.count_nonzero(targets) > sources.size // 4:
        distance_map: Any = distance_transform_edt(~targets)
        return np.asarray(distance_map[sources], dtype=np.float64)
    # An unbalanced tree is built faster and is as good here, where no two points coincide.
    tree = cKDTree(_points(targets), balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(_points(sources))[0], dtype=np.float64)


def _points(mask: Mask) -> Floats:
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return np.stack([rows, columns], axis=1).astype(np.float64)
