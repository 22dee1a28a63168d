"""Data folders of NIfTI volumes, whose slices are the samples.

`images/` and `masks/` or `labels/` hold files of equal names; nnU-Net's `imagesTr/CASE_0000.nii.gz` belongs to
`labelsTr/CASE.nii.gz`. Patients may have folders of their own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medcore.data.formats.nifti_header import NiftiHeader, read_header
from medcore.data.formats.pairs import Named, PairedFolders, known_ending, layout_of, named_files, unpaired
from medcore.data.formats.volume import Recent, Volume, finite_labels, reading, required, slices, unreadable
from medcore.data.reader import Listing, Reading, Sample, Skipped
from medcore.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENDINGS = (".nii", ".nii.gz")
#: nnU-Net numbers the modalities of a case.
_CHANNEL = re.compile(r"(.+)_(\d{4})")
#: Affine matrices of an image and its mask agree within so many millimetres, or so much of a number.
_CLOSE_MM, _CLOSE = 1e-2, 1e-3
#: Voxel sizes may differ by rounding from those in the affine matrix.
_CLOSE_SPACING = 1e-2


class NiftiFolders(PairedFolders):
    """Reader of `.nii` and `.nii.gz` files. Reading needs nibabel; listing does not."""

    endings = frozenset(_ENDINGS)

    def __init__(self) -> None:
        """Keep no volume yet."""
        self._volumes: Recent[Volume] = Recent(_load)

    @staticmethod
    def is_image(file: Path) -> bool:
        """Tell whether a file has the format."""
        return _is_nifti(file)

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """Pair images and masks by name and list their slices by the headers.

        Raises:
            DataError: The folder does not have this format or cannot be listed.
        """
        if (layout := layout_of(folder, self.is_image)) is None:
            raise DataError(f"{folder}: no NIfTI files in images/ and masks/, or in imagesTr/ and labelsTr/")
        skipped: list[Skipped] = []
        images, masks = (named_files(place, dataset, _ending, "a NIfTI file", skipped) for place in layout)
        pairs, rest = _pairs(images, masks, dataset, skipped)
        skipped += unpaired(dataset, rest, masks, {mask.name for _, _, mask in pairs})
        samples: list[Sample] = []
        for name, image, mask in pairs:
            whole = Sample(dataset, name, image.path, mask.path, group=image.patient)
            found = _header(image, dataset, "image", skipped), _header(mask, dataset, "mask", skipped)
            if found[0] is None or found[1] is None:
                continue
            if found[0].shape != found[1].shape:
                sizes = " for an image of ".join("x".join(map(str, header.shape)) for header in (found[1], found[0]))
                skipped.append(Skipped(dataset, mask.path, f"mask of another size than its image: {sizes}"))
                continue
            samples += slices(whole, found[0].shape[found[0].slice_axis])
        return Listing(samples, skipped, layout[0], self)

    def read(self, sample: Sample) -> Reading:
        """Read a slice; rows and columns as the plane of the header says.

        Raises:
            UnreadableFile: A file cannot be read.
            DataError: nibabel is not installed.
        """
        volume = self._volumes(sample.image, sample.mask)
        with reading(sample.image, "image"):
            return volume.reading(sample.index)


def _is_nifti(file: Path) -> bool:
    return _ending(file) is not None


def _ending(file: Path) -> str | None:
    return known_ending(file, _ENDINGS)


def _header(file: Named, dataset: str, kind: str, skipped: list[Skipped]) -> NiftiHeader | None:
    try:
        return read_header(file.path)
    except (OSError, ValueError) as error:
        skipped.append(unreadable(dataset, file.path, kind, error))
        return None


def _pairs(
    images: dict[str, Named], masks: dict[str, Named], dataset: str, skipped: list[Skipped]
) -> tuple[list[tuple[str, Named, Named]], dict[str, Named]]:
    """Return the pairs with their names, and the images without a mask.

    Of an nnU-Net case the first channel is read; the others are skipped.
    """
    pairs, rest = [], {}
    for name, image in images.items():
        channel = _CHANNEL.fullmatch(name)
        if name in masks:
            pairs.append((name, image, masks[name]))
        elif channel is None or channel[1] not in masks:
            rest[name] = image
        elif int(channel[2]) == 0:
            pairs.append((channel[1], image, masks[channel[1]]))
        else:
            skipped.append(Skipped(dataset, image.path, f"another channel of {channel[1]}; channel 0000 is read"))
    return pairs, rest


def _load(image: Path, mask: Path) -> Volume:
    """Load a pair, with the slices along the first axis.

    Raises:
        UnreadableFile: A file cannot be read, or the mask does not lie where the image does.
        DataError: nibabel is not installed.
    """
    import numpy as np

    with reading(image, "image"):
        # the file may have changed since it was listed
        header = read_header(image)
        found = _stored(image)
        if found.values.dtype.kind not in "iuf":
            raise ValueError(f"voxels of type {found.values.dtype}")
    with reading(mask, "mask"):
        read_header(mask)
        labels = _stored(mask)
        near = np.allclose(found.affine, labels.affine, rtol=_CLOSE, atol=_CLOSE_MM)
        if labels.values.shape != found.values.shape or not near:
            raise ValueError("its shape, orientation or position differs from the image's")
        values = labels.values
        if (labels.slope, labels.offset) != (1.0, 0.0):
            values = values * labels.slope + labels.offset
        values = finite_labels(values)
    axes = (header.slice_axis, *header.plane)
    return Volume(found.values.transpose(axes), values.transpose(axes), found.slope, found.offset, header.plane_spacing)


class _Stored(NamedTuple):
    values: NDArray[Any]
    slope: float
    offset: float
    affine: NDArray[Any]


def _stored(path: Path) -> _Stored:
    """Read a file with nibabel: stored values of three dimensions, their scaling, and the affine matrix.

    Raises:
        ValueError: The scaling or the matrix cannot be used.
        DataError: nibabel is not installed.
    """
    import numpy as np

    file = required("nibabel").load(path)
    affine, proxy = file.affine, file.dataobj
    values = np.asanyarray(proxy.get_unscaled())
    slope, offset = float(proxy.slope), float(proxy.inter)
    if not (np.isfinite([slope, offset]).all() and np.isfinite(affine).all()) or slope == 0:
        raise ValueError("a scaling or an orientation that is not finite")
    zooms = np.abs(file.header.get_zooms()[:3])
    sides = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[: len(zooms)]
    if not np.allclose(sides, zooms, rtol=_CLOSE_SPACING, atol=0):
        raise ValueError("its voxel sizes (pixdim) contradict its orientation matrix; set one of them right")
    return _Stored(values.reshape((*values.shape, 1, 1)[:3]), slope, offset, affine)
