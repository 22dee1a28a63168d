"""Scores of a segmented case: the mean over its objects of DSC and NSD (method §7)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medcore.data.formats.npz_case import Case
from medcore.quality.cases.solids import Spacing3, surface_dice
from medcore.quality.metrics import TOLERANCE_MM, TOLERANCE_PX, nsd

#: The challenge's script gives no NSD to a case with a lower DSC.
LEAST_DSC = 0.2
_CUBES: Spacing3 = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scores:
    """Means over the objects of a case.

    Attributes:
        dsc: Dice coefficient of voxels.
        nsd: Share of the surfaces within a tolerance of 2: in a volume of the surfaces, in millimetres; in a picture
            of the contours, in pixels.
        nsd_challenge: The NSD by the challenge's script. A picture is a volume of one slice with cubes as voxels, a
            volume has the spacing in the order of the file, and a case of `dsc` at most 0.2 has 0.
    """

    dsc: float
    nsd: float
    nsd_challenge: float


def scores_of(case: Case, found: NDArray[np.uint16]) -> Scores:
    """Compare a segmentation with the truth.

    Args:
        case: The case.
        found: (slices, rows, columns), the number of the object of each voxel, 0 for background.
    """
    count = len(case.boxes)
    spacing = _spacing(case)
    places = zip(_places(case.truth, count), _places(found, count), strict=True)
    each = [_of_object(case, found, number, _union(*place), spacing) for number, place in enumerate(places, start=1)]
    dsc, surface, script = (fmean(values) for values in zip(*each, strict=True))
    return Scores(dsc, surface, script if dsc > LEAST_DSC else 0.0)


def _of_object(
    case: Case, found: NDArray[np.uint16], number: int, place: tuple[slice, ...], spacing: Spacing3 | None
) -> tuple[float, float, float]:
    """Return DSC, NSD and the NSD of the challenge's script of one object.

    Args:
        case: The case.
        found: The whole segmentation.
        number: Of the object.
        place: Where truth and segmentation have it.
        spacing: None for a picture.
    """
    truth, mask = case.truth[place] == number, found[place] == number
    dsc = float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)))
    if spacing is None:
        return dsc, nsd(mask[0], truth[0], TOLERANCE_PX), surface_dice(mask, truth, _CUBES, TOLERANCE_PX)
    surface = surface_dice(mask, truth, spacing, TOLERANCE_MM)
    as_stored = spacing[::-1]
    return dsc, surface, surface if as_stored == spacing else surface_dice(mask, truth, as_stored, TOLERANCE_MM)


def _spacing(case: Case) -> Spacing3 | None:
    volume = case.volume
    if case.flat or volume.spacing is None or volume.thickness is None:
        return None
    return (volume.thickness, *volume.spacing)


def _places(labels: NDArray[np.uint16], count: int) -> list[tuple[slice, ...] | None]:
    """Return where each object lies; None for those that are not there."""
    return list(find_objects(labels, max_label=count))


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Return the box around two boxes, of which one may be missing."""
    if one is None or other is None:
        return one or other or (slice(0, 0),) * 3
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
