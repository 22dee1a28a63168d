"""Region and boundary metrics of binary masks, in pixels and millimetres (method §7).

Masks are (h, w) arrays of one frame, True inside the object. Pixels outside the frame count as background in
every boundary metric (see `medcore.quality.surfaces`). A metric never is NaN: its docstring says what it is when one
or both masks are empty. Metrics in millimetres exist only for images whose pixel spacing is known.

A user's metric is one more entry of the registry, in a module that `MEDCORE_PLUGINS` names:

    def coverage(pair: MaskPair) -> float:
        return float((pair.pred & pair.truth).sum() / max(pair.truth.sum(), 1))

    add(Metric("coverage", "Coverage", coverage))

It is then measured for every image, becomes a column of rows and tables, and can be an objective. A metric that reads
`pair.known_spacing` is registered with `needs_spacing=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.quality.figures import FIGURES, Metric, add
from medcore.quality.surfaces import (
    Floats,
    Mask,
    Spacing,
    band,
    combine_square,
    contour_lengths,
    crop,
    nearest,
    reach,
    reach_spaced,
    surface,
)

#: r of the boundary F1; the band and the match both use a square of side 2r + 1.
BAND_RADIUS = 2
#: Default tolerance of the NSD.
TOLERANCE_PX = 2.0
#: Tolerance of the NSD in millimetres, as the MedSAM challenge has it.
TOLERANCE_MM = 2.0


class MaskPair:
    """A predicted and a true mask of one frame, with what metrics share.

    All work is done on the bounding box of both masks plus a margin, clipped to the frame. As the outside is
    background and the margin holds every band pixel, this equals the same work on the full frame.

    Attributes:
        pred: bool (h, w).
        truth: bool (h, w).
        spacing: Millimetres a pixel, rows and columns; None if unknown.
    """

    def __init__(
        self, pred: npt.ArrayLike, truth: npt.ArrayLike, margin: int = BAND_RADIUS, spacing: Spacing | None = None
    ) -> None:
        """Take two masks of any type, nonzero inside the object.

        Args:
            pred: (h, w).
            truth: (h, w).
            margin: Pixels around the bounding box, at least the radius of any band.
            spacing: Millimetres a pixel, rows and columns.

        Raises:
            ValueError: The masks are not two-dimensional or differ in shape.
        """
        self.pred, self.truth = np.asarray(pred, dtype=bool), np.asarray(truth, dtype=bool)
        if self.pred.ndim != 2 or self.pred.shape != self.truth.shape:
            shapes = f"{self.pred.shape} and {self.truth.shape}"
            raise ValueError(f"two masks (h, w) of one frame expected, got shapes {shapes}")
        self.spacing = spacing
        self._margin = margin

    @cached_property
    def cropped(self) -> tuple[Mask, Mask]:
        """Return both masks on their common bounding box.

        If both are empty, the arrays have no pixels.
        """
        return crop(self.pred, self.truth, self._margin)

    @property
    def same_if_empty(self) -> float | None:
        """Return 1.0 if both masks are empty, 0.0 if one is, None if none is."""
        some = [bool(mask.any()) for mask in self.cropped]
        return None if all(some) else float(some[0] == some[1])

    @cached_property
    def distances(self) -> tuple[Floats, Floats]:
        """Return distances of each mask's surface pixels to the other's surface.

        Returns:
            From the first to the second mask and back, in pixels. If both masks are empty, a single 0; if one is, the
            largest side of the frame.
        """
        if (same := self.same_if_empty) is not None:
            constant = np.array([0.0 if same else float(max(self.pred.shape))])
            return constant, constant
        one, other = self._surfaces
        return nearest(one, other), nearest(other, one)

    @cached_property
    def distances_mm(self) -> tuple[Floats, Floats]:
        """Return `distances` in millimetres.

        Raises:
            ValueError: The spacing is unknown.
        """
        rows, columns = self.known_spacing
        if (same := self.same_if_empty) is not None:
            height, width = self.pred.shape
            constant = np.array([0.0 if same else max(height * rows, width * columns)])
            return constant, constant
        if rows == columns:
            to_other, to_one = self.distances
            return to_other * rows, to_one * rows
        one, other = self._surfaces
        return nearest(one, other, (rows, columns)), nearest(other, one, (rows, columns))

    @property
    def known_spacing(self) -> Spacing:
        """Return the spacing.

        Raises:
            ValueError: It is unknown.
        """
        if self.spacing is None:
            raise ValueError("a metric in millimetres needs the pixel spacing")
        return self.spacing

    @cached_property
    def _surfaces(self) -> tuple[Mask, Mask]:
        one, other = self.cropped
        return surface(one), surface(other)


def all_metrics(pred: npt.ArrayLike, truth: npt.ArrayLike, spacing: Spacing | None = None) -> dict[str, float]:
    """Measure every registered metric of one pair.

    Bounding box and surface distances are computed once.

    Args:
        pred: Mask (h, w).
        truth: Mask (h, w).
        spacing: Millimetres a pixel, rows and columns. Without it metrics in millimetres are left out.

    Returns:
        Values by name, in the order of registration: dice, iou, boundary_f1, hd95, assd, nsd (tolerance 2 px),
        hd95_mm, assd_mm, nsd_mm (tolerance 2 mm), users'.

    Raises:
        ValueError: The masks are not two-dimensional or differ in shape. So does every function here.
    """
    pair = MaskPair(pred, truth, spacing=spacing)
    measured = [figure for name in FIGURES if isinstance(figure := FIGURES[name], Metric)]
    return {metric.name: float(metric.function(pair)) for metric in measured if spacing or not metric.needs_spacing}


def dice(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return 2·|A ∧ B| / (|A| + |B|); both empty: 1."""
    return _dice(MaskPair(pred, truth))


def iou(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return |A ∧ B| / |A ∨ B|; both empty: 1."""
    return _iou(MaskPair(pred, truth))


def boundary_f1(pred: npt.ArrayLike, truth: npt.ArrayLike, radius: int = BAND_RADIUS) -> float:
    """Return the F1 of the bands (7.1), each matched against the dilated other.

    All operations use a (2·radius + 1)² square. Both empty: 1; one empty: 0.
    """
    return _boundary_f1(MaskPair(pred, truth, margin=radius), radius)


def hd95(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the larger directed 95th percentile of surface distances (7.2).

    Percentiles are linear. Both empty: 0; one empty: the largest side of the frame, so that a missed object is
    finite and bad.

    Elsewhere: MONAI erodes with the 3×3 cross (a thinner surface, equal for axis-aligned rectangles) and
    gives NaN for an empty mask; DeepMind's surface-distance weights by contour length; medpy pools both
    directions.
    """
    return _hd95(MaskPair(pred, truth))


def assd(pred: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the average symmetric surface distance.

    ASSD is the mean over the surface pixels of both masks together. Surfaces and empty masks as in `hd95`. MONAI
    pools in the same way on its thinner surface; DeepMind's surface-distance gives one contour-length-weighted
    mean per direction.
    """
    return _assd(MaskPair(pred, truth))


def nsd(pred: npt.ArrayLike, truth: npt.ArrayLike, tolerance_px: float = TOLERANCE_PX) -> float:
    """Return the normalised surface Dice as DeepMind's surface-distance defines it.

    Surface elements are the 2×2 neighbourhoods that hold both object and background, one per pixel corner,
    weighted by the contour length inside (marching squares: ½√2 for one or three pixels, 1 for two side by
    side, √2 for two across). The NSD is the share of both contours' length that lies at most `tolerance_px`
    from an element of the other. Both empty: 1 (DeepMind: NaN); one empty: 0.

    MONAI agrees with `use_subvoxels=True`, `spacing=1`; by default it counts edge pixels instead.
    """
    return _nsd(MaskPair(pred, truth), tolerance_px)


def hd95_mm(pred: npt.ArrayLike, truth: npt.ArrayLike, spacing: Spacing) -> float:
    """Return `hd95` in millimetres, for a spacing of rows and columns."""
    return _hd95_mm(MaskPair(pred, truth, spacing=spacing))


def assd_mm(pred: npt.ArrayLike, truth: npt.ArrayLike, spacing: Spacing) -> float:
    """Return `assd` in millimetres, for a spacing of rows and columns."""
    return _assd_mm(MaskPair(pred, truth, spacing=spacing))


def nsd_mm(pred: npt.ArrayLike, truth: npt.ArrayLike, spacing: Spacing, tolerance_mm: float = TOLERANCE_MM) -> float:
    """Return `nsd` with contour lengths and tolerance in millimetres, for a spacing of rows and columns."""
    return _nsd_mm(MaskPair(pred, truth, spacing=spacing), tolerance_mm)


def _dice(pair: MaskPair) -> float:
    a, b = pair.cropped
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else 1.0


def _iou(pair: MaskPair) -> float:
    a, b = pair.cropped
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def _boundary_f1(pair: MaskPair, radius: int = BAND_RADIUS) -> float:
    if (same := pair.same_if_empty) is not None:
        return same
    band_a, band_b = (band(mask, radius) for mask in pair.cropped)
    matched_a = np.count_nonzero(band_a & combine_square(band_b, radius, np.logical_or))
    matched_b = np.count_nonzero(band_b & combine_square(band_a, radius, np.logical_or))
    if not matched_a and not matched_b:
        return 0.0
    precision, recall = matched_a / np.count_nonzero(band_a), matched_b / np.count_nonzero(band_b)
    return float(2 * precision * recall / (precision + recall))


def _hd95(pair: MaskPair) -> float:
    return _percentile95(pair.distances)


def _hd95_mm(pair: MaskPair) -> float:
    return _percentile95(pair.distances_mm)


def _percentile95(directed: tuple[Floats, Floats]) -> float:
    return float(max(np.percentile(distances, 95) for distances in directed))


def _assd(pair: MaskPair) -> float:
    return _mean(pair.distances)


def _assd_mm(pair: MaskPair) -> float:
    return _mean(pair.distances_mm)


def _mean(directed: tuple[Floats, Floats]) -> float:
    a_to_b, b_to_a = directed
    return float((a_to_b.sum() + b_to_a.sum()) / (a_to_b.size + b_to_a.size))


def _nsd(pair: MaskPair, tolerance_px: float = TOLERANCE_PX) -> float:
    if (same := pair.same_if_empty) is not None:
        return same
    lengths_a, lengths_b = map(contour_lengths, pair.cropped)
    # products instead of selections, so that equal terms are added in equal order and a perfect match is exactly 1
    within_a = (lengths_a * reach(lengths_b > 0, tolerance_px)).sum()
    within_b = (lengths_b * reach(lengths_a > 0, tolerance_px)).sum()
    return float((within_a + within_b) / (lengths_a.sum() + lengths_b.sum()))


def _nsd_mm(pair: MaskPair, tolerance_mm: float = TOLERANCE_MM) -> float:
    spacing = pair.known_spacing
    if (same := pair.same_if_empty) is not None:
        return same
    lengths_a, lengths_b = (contour_lengths(mask, spacing) for mask in pair.cropped)
    within_a = (lengths_a * reach_spaced(lengths_b > 0, tolerance_mm, spacing)).sum()
    within_b = (lengths_b * reach_spaced(lengths_a > 0, tolerance_mm, spacing)).sum()
    return float((within_a + within_b) / (lengths_a.sum() + lengths_b.sum()))


_MEANINGS = {
    "dice": "Overlap of the predicted and the true mask: twice their common area divided by the sum of their areas.",
    "iou": "Common area of both masks divided by the area that either covers.",
    "boundary_f1": "Share of boundary pixels that lie within 2 pixels of the other mask's boundary, precision and "
    "recall in one number.",
    "hd95": "95th percentile of the distances between the two surfaces, the worse of both directions.",
    "assd": "Average symmetric surface distance: the mean distance between the two surfaces.",
    "nsd": "Normalised surface Dice: the share of both contours that lies within 2 pixels of the other.",
    "hd95_mm": "HD95 in millimetres, where the pixel spacing is known.",
    "assd_mm": "ASSD in millimetres, where the pixel spacing is known.",
    "nsd_mm": "NSD with a tolerance of 2 millimetres, where the pixel spacing is known.",
}


def _add(name: str, title: str, function: Callable[[MaskPair], float], **fields: Any) -> None:
    add(Metric(name, title, function, meaning=_MEANINGS[name], **fields))


_add("dice", "Dice", _dice, headline=True, always_shown=True, rank=3)
_add("iou", "IoU", _iou, rank=4)
_add("boundary_f1", "Boundary F1", _boundary_f1, short="BF1", headline=True, rank=1)
_add("hd95", "HD95", _hd95, lower_is_better=True, unit="px", headline=True, rank=2)
_add("assd", "ASSD", _assd, lower_is_better=True, unit="px", rank=6)
_add("nsd", "NSD", _nsd, rank=5)
_add("hd95_mm", "HD95 in mm", _hd95_mm, lower_is_better=True, unit="mm", needs_spacing=True, rank=7)
_add("assd_mm", "ASSD in mm", _assd_mm, lower_is_better=True, unit="mm", needs_spacing=True, rank=9)
_add("nsd_mm", "NSD at 2 mm", _nsd_mm, needs_spacing=True, rank=8)
