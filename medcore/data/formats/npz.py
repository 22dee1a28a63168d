"""Data folders of the MedSAM challenge: `.npz` archives with images and label maps.

`imgs` and `gts` are arrays of one archive, or of two with one name in the folders `imgs/` and `gts/`. A picture has
`imgs` (H, W, 3) of uint8 and `gts` (H, W). A volume has `imgs` (D, H, W), `gts` of this shape, and `spacing` in
millimetres. The spacing is (x, y, z), the order of SimpleITK, with which the challenge prepares its files.
"""

from __future__ import annotations

import itertools
import logging
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from medcore.data.formats.npz_header import ZIP_ERRORS, ArrayHeader, array_headers
from medcore.data.formats.volume import Recent, Volume, finite_labels, reading, slices, unreadable
from medcore.data.names import natural_key
from medcore.data.reader import Listing, Reading, Sample, Skipped
from medcore.errors import DataError

logger = logging.getLogger(__name__)

IMAGES, LABELS, BOXES = "imgs", "gts", "boxes"
_ENDING = ".npz"
#: Names of the challenge: `2DBox_US_0001`, `3DBox_CT_0001`, `CT_Abd_case1`.
_CHALLENGE_NAME = re.compile(r"(?:[23]D[A-Za-z]*_)?([A-Za-z][A-Za-z0-9-]*)_.+")
_DIMENSIONS = re.compile(r"[23]D")
#: A folder without an archive among so many entries is no folder of archives.
_LOOK_AT = 200


class NpzFolders:
    """Reader of the challenge's archives."""

    endings = frozenset({_ENDING})

    def __init__(self) -> None:
        """Keep no volume yet."""
        self._volumes: Recent[Volume] = Recent(load_volume)

    def holds(self, folder: Path) -> bool:
        """Tell whether a folder has archives of the challenge.

        Names that begin with 2D or 3D are those of the challenge. For other names, one archive must hold its arrays.
        A folder with `images/` holds pictures, and archives in it do not count.
        """
        try:
            if _images(folder) == folder and (folder / "images").is_dir():
                return False
            entries = itertools.islice(_images(folder).iterdir(), _LOOK_AT)
            archives = [file for file in entries if _is_archive(file)]
            if any(_DIMENSIONS.match(file.name) for file in archives):
                return True
            if not archives:
                return False
            with zipfile.ZipFile(min(archives)) as archive:
                return f"{IMAGES}.npy" in archive.namelist()
        except (OSError, ValueError, *ZIP_ERRORS):
            return False

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the archives.

        Raises:
            OSError: A folder cannot be listed.
        """
        for place in {_images(folder), _labels(folder)}:
            yield from (file for file in place.iterdir() if _is_archive(file))

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """List pictures, and the slices of volumes, by the headers of the arrays.

        Raises:
            DataError: The folder cannot be listed.
        """
        place = _images(folder)
        skipped: list[Skipped] = []
        samples: list[Sample] = []
        try:
            found = sorted((file for file in place.iterdir() if file.name[0] != "."), key=lambda p: natural_key(p.name))
        except OSError as error:
            raise DataError(f"{place}: {error.strerror or error}") from None
        for file in found:
            if not _is_archive(file):
                # notes and splits.json may lie in the same folder
                skipped += [Skipped(dataset, file, "not an .npz archive")] if place != folder else []
                continue
            mask = _labels(folder) / file.name
            try:
                count = _count(array_headers(file), array_headers(mask) if mask != file else None)
            except (OSError, ValueError) as error:
                skipped.append(unreadable(dataset, file, "image", error))
                continue
            name = file.name[: -len(_ENDING)]
            samples += slices(Sample(dataset, name, file, mask, modality=modality_of(name)), count)
        return Listing(samples, skipped, place, self)

    def read(self, sample: Sample) -> Reading:
        """Read a picture or a slice.

        Raises:
            UnreadableFile: An archive cannot be read.
        """
        volume = self._volumes(sample.image, sample.mask)
        with reading(sample.image, "image"):
            return volume.reading(sample.index)


def modality_of(name: str) -> str:
    """Return how an image was taken by the challenge's names: `CT` of `3DBox_CT_0001`; empty if the name has none."""
    match = _CHALLENGE_NAME.fullmatch(name)
    return match[1] if match else ""


def _is_archive(file: Path) -> bool:
    return file.suffix.lower() == _ENDING and file.name[0] != "." and file.is_file()


def _images(folder: Path) -> Path:
    return folder / IMAGES if (folder / IMAGES).is_dir() else folder


def _labels(folder: Path) -> Path:
    return folder / LABELS if _images(folder) != folder and (folder / LABELS).is_dir() else _images(folder)


def _count(image: dict[str, ArrayHeader], label: dict[str, ArrayHeader] | None) -> int:
    """Return the number of slices of an archive; 1 for a picture.

    Args:
        image: Headers of the archive with the image.
        label: Headers of the archive with the labels, if it is another.

    Raises:
        ValueError: An array is missing, or they do not fit together.
    """
    found = (image if label is None else label).get(LABELS)
    pixels = image.get(IMAGES)
    if pixels is None or found is None:
        raise ValueError(f"no array '{IMAGES if pixels is None else LABELS}'")
    sides = found.shape
    if len(sides) not in (2, 3) or 0 in sides:
        raise ValueError(f"{LABELS} of shape {sides}; a picture has (H, W), a volume (D, H, W)")
    colours = pixels.shape == (*sides, 3)
    if not colours and pixels.shape != sides:
        raise ValueError(f"{IMAGES} of shape {pixels.shape} for {LABELS} of shape {sides}")
    if colours and (pixels.kind, pixels.bytes) != ("u", 1):
        raise ValueError(f"{IMAGES} with colours that are not of 8 bits")
    if pixels.kind == "b":
        raise ValueError(f"{IMAGES} of booleans")
    if found.kind == "f":
        raise ValueError(f"{LABELS} that are no integers")
    return sides[0] if len(sides) == 3 else 1


def load_volume(image: Path, mask: Path) -> Volume:
    """Load an archive; a picture becomes a volume of one slice.

    Raises:
        UnreadableFile: It cannot be read.
    """
    import numpy as np

    with reading(image, "image"):
        # the file may have changed since it was listed
        headers = array_headers(image)
        _count(headers, array_headers(mask) if mask != image else None)
        with np.load(image, allow_pickle=False) as archive:
            pixels = archive[IMAGES]
            sides = _spacing(image.parent, archive["spacing"]) if "spacing" in headers else ()
    with reading(mask, "mask"), np.load(mask, allow_pickle=False) as archive:
        labels = finite_labels(archive[LABELS])
    if labels.ndim == 2:
        pixels, labels = pixels[None], labels[None]
    return Volume(
        pixels,
        labels,
        spacing=(sides[1], sides[0]) if sides else None,
        thickness=sides[2] if len(sides) == 3 else None,
    )


def _spacing(folder: Path, values: Any) -> tuple[float, ...]:
    """Return the sides of a spacing (x, y, z) or (x, y); nothing if it is none."""
    sides = tuple(float(value) for value in values.ravel()[:4])
    if len(sides) not in (2, 3) or not all(isfinite(side) and side > 0 for side in sides):
        return ()
    if len(sides) == 3 and sides[1] == sides[2] != sides[0]:
        _warn_of_order(folder)
    return sides


@cache
def _warn_of_order(folder: Path) -> None:
    """Warn once of a spacing that looks like (z, y, x), because pixels of a slice are seldom longer than wide."""
    logger.warning(
        "%s: spacings are read as (x, y, z), but some look like (z, y, x); figures in mm are then wrong, so check them",
        folder,
    )
