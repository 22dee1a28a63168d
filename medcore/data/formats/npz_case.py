"""Whole cases of the MedSAM challenge: all slices of an archive at once, its objects, and a box for each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from scipy.ndimage import find_objects

from medcore.data.formats.intensities import Intensities
from medcore.data.formats.npz import BOXES, LABELS, load_volume
from medcore.data.formats.npz_header import array_headers
from medcore.data.formats.volume import Volume, reading
from medcore.data.reader import Listing, Sample, Skipped

#: Objects of a case that its label map can number.
MOST_OBJECTS = (1 << 16) - 1

Labels = NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Case:
    """A picture or a volume with its objects.

    Attributes:
        path: File of the image.
        volume: Image and labels; a picture is a volume of one slice.
        truth: (slices, rows, columns), 0 for background and i for object i, which counts from 1 in the order of the
            labels.
        boxes: Float64 (objects, 6), x0, y0, z0, x1, y1, z1. Slices are whole numbers, and both ends belong to the box.
        exact: Whether the file has no boxes, so that these are the exact ones of the labels.
        flat: Whether it is a picture.
    """

    path: Path
    volume: Volume
    truth: Labels
    boxes: NDArray[np.float64]
    exact: bool
    flat: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return slices, rows and columns."""
        slices, rows, columns = self.truth.shape
        return slices, rows, columns

    def image(self, index: int) -> Image | Intensities:
        """Return the image of a slice.

        Raises:
            UnreadableFile: A value is not finite.
        """
        with reading(self.path, "image"):
            return self.volume.image(index)


def whole_cases(listing: Listing, chosen: Sequence[Sample]) -> tuple[list[Sample], list[Skipped]]:
    """Return one sample for each archive of which all slices were chosen, with the archive's name.

    Args:
        listing: Content of a folder of archives.
        chosen: Some of its samples.

    Returns:
        The samples in the listing's order, and the archives of which only some slices were chosen.
    """
    wanted = {sample.name for sample in chosen}
    cases: list[Sample] = []
    skipped: list[Skipped] = []
    for (name, image, mask), group in groupby(listing.samples, key=lambda each: (_name(each), each.image, each.mask)):
        slices = list(group)
        count = sum(sample.name in wanted for sample in slices)
        if count == len(slices):
            cases.append(Sample(slices[0].dataset, name, image, mask, modality=slices[0].modality))
        elif count:
            reason = f"only {count} of its {len(slices)} slices are in the split"
            skipped.append(Skipped(slices[0].dataset, image, reason))
    return cases, skipped


def read_case(sample: Sample) -> Case:
    """Read the archive of one of `whole_cases`.

    Raises:
        UnreadableFile: An archive cannot be read, has no object or no spacing, or its boxes do not fit.
    """
    volume = load_volume(sample.image, sample.mask)
    with reading(sample.mask, "mask"):
        flat = len(array_headers(sample.mask)[LABELS].shape) == 2
        truth, count = _numbered(volume)
    with reading(sample.image, "image"):
        if not flat and (volume.spacing is None or volume.thickness is None):
            raise ValueError("a volume without 'spacing' (x, y, z), which the NSD needs")
        given = _boxes(sample.image, flat)
        boxes = _exact_boxes(truth) if given is None else given
        _check_boxes(boxes, count, truth.shape)
    return Case(sample.image, volume, truth, boxes, given is None, flat)


def _name(sample: Sample) -> str:
    return sample.volume or sample.name


def _numbered(volume: Volume) -> tuple[Labels, int]:
    """Return the objects' numbers and how many there are.

    Raises:
        ValueError: There are none or too many.
    """
    values = volume.values_of_labels[volume.values_of_labels != 0]
    if not values.size:
        raise ValueError("no label, so there is no object")
    if len(values) > MOST_OBJECTS:
        raise ValueError(f"{len(values)} labels, at most {MOST_OBJECTS} are possible")
    truth = np.zeros(volume.labels.shape, np.uint16)
    for part, labels in zip(truth, volume.labels, strict=True):
        inside = labels != 0
        part[inside] = np.searchsorted(values, labels[inside]) + 1
    return truth, len(values)


def _boxes(path: Path, flat: bool) -> NDArray[np.float64] | None:
    """Return the boxes of a file, (n, 6), or None if it has none.

    Raises:
        ValueError: The array has another shape.
    """
    header = array_headers(path).get(BOXES)
    if header is None:
        return None
    width = 4 if flat else 6
    if len(header.shape) != 2 or header.shape[1] != width:
        raise ValueError(f"{BOXES} of shape {header.shape}; this file needs (objects, {width})")
    with np.load(path, allow_pickle=False) as archive:
        given = archive[BOXES].astype(np.float64)
    if not flat:
        return np.asarray(given)
    boxes = np.zeros((len(given), 6))
    boxes[:, [0, 1, 3, 4]] = given
    return boxes


def _exact_boxes(truth: Labels) -> NDArray[np.float64]:
    return np.array([list(_corners(place)) for place in find_objects(truth)], np.float64)


def _corners(place: tuple[slice, ...]) -> Iterator[int]:
    """Yield x0, y0, z0, x1, y1, z1 of the first and last voxels."""
    axes = place[::-1]
    yield from (axis.start for axis in axes)
    yield from (axis.stop - 1 for axis in axes)


def _check_boxes(boxes: NDArray[np.float64], count: int, shape: tuple[int, ...]) -> None:
    """Check that each object has a box in the image.

    Raises:
        ValueError: One has none.
    """
    if len(boxes) != count:
        raise ValueError(f"{len(boxes)} boxes for {count} labels; a case has one box a label, in their order")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{BOXES} that are not finite")
    slices, rows, columns = shape
    low, high = boxes[:, :3], boxes[:, 3:]
    fits = (low >= 0).all(axis=1) & (low <= high).all(axis=1) & (high <= [columns, rows, slices - 1]).all(axis=1)
    if not fits.all():
        number = int(np.flatnonzero(~fits)[0])
        corners = ", ".join(f"{value:g}" for value in boxes[number])
        raise ValueError(f"box {number + 1} ({corners}) does not lie in the image of {columns}x{rows}x{slices}")
    if (boxes[:, [2, 5]] % 1 != 0).any():
        raise ValueError(f"{BOXES} that begin or end between slices")
