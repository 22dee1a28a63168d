"""What is in an `.npz` archive, by the standard library and without loading an array.

Nothing is unpickled: arrays of objects are refused by their headers.
"""

from __future__ import annotations

import ast
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

from medcore.data.formats.volume import check_size

#: Types of numbers: booleans, integers and floats, of either byte order.
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
#: NumPy reads no longer header either.
_LONGEST_HEADER = 10_000
_MOST_MEMBERS = 1000
#: What the standard library raises for a damaged archive.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, LookupError, OverflowError),
    *(EOFError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class ArrayHeader:
    """Type and shape of a stored array.

    Attributes:
        kind: `b`, `i`, `u` or `f`, as NumPy's `dtype.kind`.
        bytes: Bytes of a number.
        shape: Sides of the array.
    """

    kind: str
    bytes: int
    shape: tuple[int, ...]


def array_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return the headers of an archive's arrays by their names.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is no such archive, or an array cannot be loaded safely.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                raise ValueError(f"an archive of {len(members)} members")
            # of members with one name the last counts, as for NumPy
            by_name = {info.filename: info for info in members if info.filename.endswith(".npy")}
            size = path.stat().st_size
            return {name[:-4]: _header(archive, info, size) for name, info in by_name.items()}
    except ZIP_ERRORS as error:
        raise ValueError(f"not an .npz archive: {error}") from None


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> ArrayHeader:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed in a way that NumPy does not write")
    stored = min(info.compress_size, size)  # an archive's own word is not enough
    check_size(info.file_size, stored, compressed=info.compress_type == zipfile.ZIP_DEFLATED)
    with archive.open(info) as member:
        header, start = parse_header(member)
    described = start + prod(header.shape) * header.bytes
    if described != info.file_size:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, and its header describes {described}")
    return header


def parse_header(file: IO[bytes]) -> tuple[ArrayHeader, int]:
    """Read the header of a `.npy` file.

    Returns:
        The header, and where the numbers start.

    Raises:
        ValueError: It is none, or the array does not hold numbers.
    """
    magic = file.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError("an array without NumPy's header")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"an array with a header of {length} bytes")
    text = file.read(length).decode("latin-1")
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("an array with a damaged header") from None
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("an array with a damaged header")
    shape, kind = fields["shape"], fields["descr"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 8:
        raise ValueError("an array with a damaged shape")
    if not isinstance(kind, str) or not (match := _NUMBERS.fullmatch(kind)):
        raise ValueError("an array that does not hold plain numbers")
    return ArrayHeader(match[1][0], int(match[1][1:]), shape), 8 + width + length
