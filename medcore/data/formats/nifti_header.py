"""The header of a NIfTI file, by the standard library and without loading the volume."""

from __future__ import annotations

import gzip
import math
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from medcore.data.formats.volume import check_size

#: Bytes of a voxel by the code of its type: real numbers of at most 64 bits.
_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
_LONGEST = 540
#: Millimetres by the code of the unit; a file that names none means millimetres.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
#: An axis is that of the slices if its voxels are so many times longer than on both others.
_CLEARLY_LONGER = 1.05


@dataclass(frozen=True)
class NiftiHeader:
    """Shape and spacing of a volume.

    Attributes:
        shape: Voxels along the three axes.
        spacing: Millimetres a voxel along each axis; None if the header does not say.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None

    @property
    def slice_axis(self) -> int:
        """Return the axis across the slices: the one with by far the longest voxels, else the third."""
        if self.spacing is None:
            return 2
        longest = max(range(3), key=self.spacing.__getitem__)
        others = [side for axis, side in enumerate(self.spacing) if axis != longest]
        return longest if self.spacing[longest] > _CLEARLY_LONGER * max(others) else 2

    @property
    def plane(self) -> tuple[int, int]:
        """Return the axes of a slice: that of its rows and that of its columns.

        The first axis runs along a row, as SimpleITK and the MedSAM challenge have it.
        """
        columns, rows = (axis for axis in range(3) if axis != self.slice_axis)
        return rows, columns

    @property
    def plane_spacing(self) -> tuple[float, float] | None:
        """Return the millimetres a pixel of a slice, rows and columns."""
        return None if self.spacing is None else (self.spacing[self.plane[0]], self.spacing[self.plane[1]])


def read_header(path: Path) -> NiftiHeader:
    """Read and check the header of a `.nii` or `.nii.gz` file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no volume that can be loaded safely.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        data = file.read(_LONGEST)
    zipped = data[:2] == b"\x1f\x8b"
    if zipped != path.name.lower().endswith(".gz"):
        raise ValueError("an ending that does not fit the content: .nii.gz is compressed, .nii is not")
    if zipped:
        try:
            with gzip.open(path) as unzipped:
                data = unzipped.read(_LONGEST)
        except (EOFError, zlib.error) as error:
            raise ValueError(f"damaged compression: {error}") from None
    try:
        fields = _fields(data)
    except struct.error:
        raise ValueError("a header that is too short") from None
    shape = _shape(fields.sides)
    size = math.prod(shape) * _BYTES[fields.kind]
    stored = status.st_size if zipped else max(0, status.st_size - fields.start)
    check_size(size, stored, compressed=zipped)
    return NiftiHeader(shape, _spacing(fields))


@dataclass(frozen=True)
class _Fields:
    sides: tuple[int, ...]
    kind: int
    start: int
    voxel: tuple[float, ...]
    unit: int


def _fields(data: bytes) -> _Fields:
    """Return the fields of a header of either version and byte order.

    Raises:
        ValueError: It is no header, or the type of the voxels is not known.
        struct.error: It is too short.
    """
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", data, 0)
        if length in (348, 540) and len(data) < length:
            raise ValueError("a header that is too short")
        if length == 348:
            if data[344:348] != b"n+1\0":
                raise ValueError("a header without its volume; NIfTI pairs (.hdr and .img) are not read")
            dimensions = struct.unpack_from(f"{order}8h", data, 40)
            kind, start = *struct.unpack_from(f"{order}h", data, 70), *struct.unpack_from(f"{order}f", data, 108)
            voxel, unit = struct.unpack_from(f"{order}3f", data, 80), data[123]
            break
        if length == 540:
            if data[4:8] != b"n+2\0":
                raise ValueError("a header without its volume; NIfTI pairs (.hdr and .img) are not read")
            dimensions = struct.unpack_from(f"{order}8q", data, 16)
            kind, start = *struct.unpack_from(f"{order}h", data, 12), *struct.unpack_from(f"{order}q", data, 168)
            voxel, (unit,) = struct.unpack_from(f"{order}3d", data, 112), struct.unpack_from(f"{order}i", data, 500)
            break
    else:
        raise ValueError("no NIfTI file")
    if kind not in _BYTES:
        raise ValueError(f"voxels of type {kind}, which are no real numbers of at most 64 bits")
    if not math.isfinite(start) or start < length:
        raise ValueError("voxels that start inside the header")
    count = dimensions[0]
    if not 1 <= count <= 7:
        raise ValueError(f"{count} dimensions")
    return _Fields(dimensions[1 : count + 1], kind, int(start), voxel, unit)


def _shape(sides: tuple[int, ...]) -> tuple[int, int, int]:
    if min(sides) < 1 or len(sides) < 2 or any(side != 1 for side in sides[3:]):
        raise ValueError(f"a volume of shape {sides}; only three dimensions are read")
    return sides[0], sides[1], sides[2] if len(sides) > 2 else 1


def _spacing(fields: _Fields) -> tuple[float, float, float] | None:
    factor = _MILLIMETRES.get(fields.unit & 7)
    sides = [abs(side) for side in fields.voxel]
    if len(fields.sides) < 3 and sides[2] == 0:
        sides[2] = 1.0
    if factor is None or not all(math.isfinite(side) and side > 0 for side in sides):
        return None
    return sides[0] * factor, sides[1] * factor, sides[2] * factor
