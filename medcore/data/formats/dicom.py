"""Data folders of DICOM images, with masks as pictures or as DICOM images of equal names.

`images/PATIENT/SLICE.dcm` belongs to `masks/PATIENT/SLICE.png` or `masks/PATIENT/SLICE.dcm`. A file may hold several
frames; so does its mask then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medcore.data.formats.dicom_header import DicomHeader, is_dicom, read_header
from medcore.data.formats.pairs import Named, PairedFolders, known_ending, layout_of, named_files, unpaired
from medcore.data.formats.volume import Recent, reading, slices, unreadable
from medcore.data.image_folders import ImageFolders
from medcore.data.reader import Listing, Reading, Sample, Skipped
from medcore.errors import DataError

if TYPE_CHECKING:
    from medcore.data.formats.dicom_pixels import Pixels

_ENDINGS = (".dcm", ".dicom", ".ima")
_PICTURES = tuple(sorted(ImageFolders.endings))


class DicomFolders(PairedFolders):
    """Reader of DICOM files. Reading needs pydicom; listing does not."""

    endings = frozenset(_ENDINGS)

    def __init__(self) -> None:
        """Keep no file yet."""
        self._files: Recent[Pixels] = Recent(_load, most=8)

    @staticmethod
    def is_image(file: Path) -> bool:
        """Tell whether a file has the format, by its ending or its first bytes."""
        return _is_dicom(file)

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """Pair images and masks by name; the headers say whose they are and how many frames they have.

        Raises:
            DataError: The folder does not have this format or cannot be listed.
        """
        if (layout := layout_of(folder, self.is_image)) is None:
            raise DataError(f"{folder}: no DICOM files in images/ with masks in masks/")
        skipped: list[Skipped] = []
        images = named_files(layout[0], dataset, _ending, "a DICOM file", skipped)
        masks = named_files(layout[1], dataset, _mask_ending, "a picture or DICOM file", skipped)
        pairs = {name: image for name, image in images.items() if name in masks}
        headers = {name: _header(image, masks[name], dataset, skipped) for name, image in pairs.items()}
        usable = {name: header for name, header in headers.items() if header is not None}
        groups = _groups({name: (pairs[name], header) for name, header in usable.items()})
        lone = {name: image for name, image in images.items() if name not in masks}
        skipped += unpaired(dataset, lone, masks, set(pairs))
        samples: list[Sample] = []
        for name, header in usable.items():
            image, group = pairs[name], groups[name]
            series = image.parent or group
            sample = Sample(dataset, name, image.path, masks[name].path, 0, group, series, header.modality)
            samples += slices(sample, header.frames)
        return Listing(samples, skipped, layout[0], self)

    def read(self, sample: Sample) -> Reading:
        """Read a frame and its mask.

        Raises:
            UnreadableFile: A file cannot be read.
            DataError: pydicom is not installed.
        """
        pixels = self._files(sample.image)
        with reading(sample.image, "image"):
            image = pixels.picture(sample.index)
        with reading(sample.mask, "mask"):
            # imported here because listing a folder must need neither Pillow nor NumPy
            from medcore.data.imagefile import read_labels
            from medcore.data.labels import LabelMap

            if known_ending(sample.mask, _PICTURES) is not None:
                return Reading(image, read_labels(sample.mask), pixels.spacing)
            values = self._files(sample.mask).labels(sample.index)
            # full scale 1: a label map has two values, else the user says what is the object
            return Reading(image, LabelMap(values, full=1.0), pixels.spacing)


def _load(path: Path) -> Pixels:
    """Read a file.

    Raises:
        UnreadableFile: It cannot be used.
        DataError: pydicom is not installed.
    """
    with reading(path, "image"):
        from medcore.data.formats.dicom_pixels import read_pixels

        return read_pixels(path)


def _is_dicom(file: Path) -> bool:
    return _ending(file) is not None


def _ending(file: Path) -> str | None:
    """Return the ending of a DICOM file, which may have none; None if the file is another."""
    if (ending := known_ending(file, _ENDINGS)) is not None:
        return ending
    return "" if known_ending(file, _PICTURES) is None and is_dicom(file) else None


def _mask_ending(file: Path) -> str | None:
    ending = known_ending(file, _PICTURES)
    return _ending(file) if ending is None else ending


def _header(image: Named, mask: Named, dataset: str, skipped: list[Skipped]) -> DicomHeader | None:
    """Return the header of an image; without one the pair is skipped."""
    try:
        header = read_header(image.path)
    except (OSError, ValueError) as error:
        skipped.append(unreadable(dataset, image.path, "image", error))
        return None
    try:
        found = None if known_ending(mask.path, _PICTURES) is not None else read_header(mask.path)
    except (OSError, ValueError) as error:
        skipped.append(unreadable(dataset, mask.path, "mask", error))
        return None
    if header.is_segmentation or (found is not None and found.is_segmentation):
        path = image.path if header.is_segmentation else mask.path
        skipped.append(Skipped(dataset, path, "a segmentation object; convert it to one mask a slice"))
        return None
    if header.frames != (1 if found is None else found.frames):
        skipped.append(Skipped(dataset, mask.path, f"mask of another number of frames than its image: {header.frames}"))
        return None
    return header


def _groups(files: Mapping[str, tuple[Named, DicomHeader]]) -> dict[str, str]:
    """Return the group of each file: files of one patient have one.

    The identities in the files decide. They do not if a file has none, or if all folders share one, as after
    anonymisation; the first folder is the patient then. A group is named by its first file or by its folder, because an
    identity must not be written down.
    """
    folders = {file.patient for file, _ in files.values()}
    identities = {header.patient for _, header in files.values()}
    trusted = len(identities) > 1 or len(folders) == 1
    first: dict[str, str] = {}
    groups = {}
    for name, (file, header) in files.items():
        if header.patient and trusted:
            groups[name] = first.setdefault(header.patient, name)
        else:
            groups[name] = file.patient or name
    return groups
