"""Surfaces of binary volumes and the NSD of two of them (method §7).

A surface element is a 2×2×2 neighbourhood of voxels that holds object and background, one for each corner of the
voxels. Its weight is the area of the object's surface within it (7.4). Voxels outside of the array are background.

The areas are those of DeepMind's `surface-distance`, which the MedSAM challenge scores with, and of MONAI with
`use_subvoxels=True`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.quality.surfaces import Floats, Mask

#: Millimetres between slices, rows and columns.
Spacing3 = tuple[float, float, float]
_Corner = tuple[int, int, int]

#: The corners of a neighbourhood; corner i is bit i of its code.
_CORNERS: tuple[_Corner, ...] = tuple((z, y, x) for z, y, x in product((0, 1), repeat=3))
_FULL = (1 << len(_CORNERS)) - 1


def surface_dice(a: Mask, b: Mask, spacing: Spacing3, tolerance: float) -> float:
    """Return the share of both surfaces that lies at most `tolerance` from an element of the other (7.3).

    Args:
        a: (slices, rows, columns).
        b: Of the same shape.
        spacing: Length of a voxel's sides, slices, rows and columns.
        tolerance: In the unit of the spacing.

    Returns:
        From 0 to 1. Both empty: 1; one empty: 0.

    Raises:
        ValueError: The masks are not three-dimensional or differ in shape.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"two volumes (slices, rows, columns) of one shape expected, got {a.shape} and {b.shape}")
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    areas_a, areas_b = element_areas(a, spacing), element_areas(b, spacing)
    near_b = _within(areas_a > 0, areas_b > 0, spacing, tolerance)
    near_a = _within(areas_b > 0, areas_a > 0, spacing, tolerance)
    of_a, of_b = areas_a[areas_a > 0], areas_b[areas_b > 0]
    # products instead of selections, so that equal terms are added in equal order and a perfect match is exactly 1
    return float(((of_a * near_b).sum() + (of_b * near_a).sum()) / (of_a.sum() + of_b.sum()))


def element_areas(mask: Mask, spacing: Spacing3) -> Floats:
    """Return the area of the surface around each voxel corner of a mask (d, h, w): (d + 1, h + 1, w + 1)."""
    padded = np.pad(mask.view(np.uint8), 1)
    depth, height, width = (side + 1 for side in mask.shape)
    code = np.zeros((depth, height, width), np.uint8)
    for bit, (z, y, x) in enumerate(_CORNERS):
        code |= padded[z : z + depth, y : y + height, x : x + width] << bit
    return _areas(spacing)[code]


@lru_cache(maxsize=64)
def _areas(spacing: Spacing3) -> Floats:
    """Return the area of every code of a neighbourhood, (256,)."""
    return np.array([_area(code, spacing) for code in range(_FULL + 1)])


def _area(code: int, spacing: Spacing3) -> float:
    """Return the area of the surface in a neighbourhood.

    A surface is the same from both sides, so the smaller of object and background counts. Each connected component of
    its corners has a surface of its own.
    """
    inside = [corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1]
    if len(inside) > len(_CORNERS) // 2:
        return _area(_FULL - code, spacing)
    return sum(_area_of_component(component, spacing) for component in _components(inside))


def _components(corners: list[_Corner]) -> list[list[_Corner]]:
    """Return the components of corners that are connected by the sides of voxels."""
    found: list[list[_Corner]] = []
    for corner in corners:
        touching = [each for each in found if any(_is_next(corner, other) for other in each)]
        found = [each for each in found if each not in touching]
        found.append([corner, *(other for each in touching for other in each)])
    return found


def _is_next(one: _Corner, other: _Corner) -> bool:
    return sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _area_of_component(component: list[_Corner], spacing: Spacing3) -> float:
    """Return the area of the surface around one to four connected corners (7.4).

    The surface cuts the edges of the neighbourhood in their middles. Of the two shapes that are not flat, the
    triangles are those of marching cubes as `surface-distance` has them.
    """
    product_of_all = math.prod(spacing)
    faces = [product_of_all / side for side in spacing]  # of a voxel, across each axis
    diagonal = math.hypot(*faces)
    # along which axes each corner has a neighbour in the component
    ways = [[_axis(one, other) for other in component if _is_next(one, other)] for one in component]
    busiest = max(map(len, ways))
    if len(component) == 1:
        return diagonal / 8
    if len(component) == 2:
        (axis,) = ways[0]
        return math.hypot(*(faces[other] for other in range(3) if other != axis)) / 2
    if len(component) == 3:
        middle = next(way for way in ways if len(way) == 2)
        (across,) = {0, 1, 2} - set(middle)
        return faces[across] / 2 + 3 * diagonal / 8
    if busiest == 3:  # a corner with its three neighbours: a flat hexagon
        return 3 * diagonal / 4
    if all(len(way) == 2 for way in ways):  # a side of the neighbourhood
        (across,) = {0, 1, 2} - set(ways[0])
        return faces[across]
    # a chain along all three axes; both of its inner corners share the axis in the middle
    (shared,) = set.intersection(*(set(way) for way in ways if len(way) == 2))
    return diagonal / 2 + sum(math.hypot(faces[shared], faces[axis]) for axis in range(3) if axis != shared) / 4


def _axis(one: _Corner, other: _Corner) -> int:
    return next(axis for axis in range(3) if one[axis] != other[axis])


def _within(sources: Mask, targets: Mask, spacing: Spacing3, tolerance: float) -> npt.NDArray[np.bool_]:
    """Tell for each source element, in row-major order, whether a target lies at most `tolerance` away.

    Surfaces of objects are sparse, and a tree over them takes less time and memory than a map of distances. Surfaces of
    noise are dense, where the map wins.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    # spacings out of float32 arrays are off by parts of ten million; the tree finds what is nearer than a bound
    bound = tolerance * (1 + 1e-6) + 1e-9 * min(spacing)
    if np.count_nonzero(sources) + np.count_nonzero(targets) > sources.size // 4:
        distance_map: Any = distance_transform_edt(~targets, sampling=spacing)
        return np.asarray(distance_map[sources] < bound)
    tree = cKDTree(np.argwhere(targets) * np.array(spacing), balanced_tree=False, compact_nodes=False)
    distances, _ = tree.query(np.argwhere(sources) * np.array(spacing), distance_upper_bound=bound)
    return np.isfinite(distances)
