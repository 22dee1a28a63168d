"""What listing needs to know of a DICOM file, by the standard library: patient, kind of object, number of frames.

Elements are skipped by their lengths, so pixels are never read. The values are for comparing only. They may identify a
person, so they go into no name, message or file.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PREAMBLE, _MAGIC = 128, b"DICM"
_SYNTAX, _CLASS, _MODALITY, _PATIENT = (0x0002, 0x0010), (0x0008, 0x0016), (0x0008, 0x0060), (0x0010, 0x0020)
_FRAMES = (0x0028, 0x0008)
_WANTED = frozenset({_SYNTAX, _CLASS, _MODALITY, _PATIENT, _FRAMES})
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
#: Class of segmentation objects, which hold the masks of a whole series.
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
#: Representations whose length has four bytes.
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONGEST_VALUE = 256
_MOST_ELEMENTS, _DEEPEST = 20_000, 16


@dataclass(frozen=True)
class DicomHeader:
    """Facts of a DICOM file.

    Attributes:
        patient: Identity of the patient; empty if the file has none.
        modality: Such as `CT`; empty if the file does not say.
        frames: Number of pictures.
        is_segmentation: Whether the file is a segmentation object.
    """

    patient: str
    modality: str
    frames: int
    is_segmentation: bool


def is_dicom(path: Path) -> bool:
    """Tell by its first bytes whether a regular file is DICOM."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def read_header(path: Path) -> DicomHeader:
    """Read a file up to its number of frames.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no DICOM file or is damaged.
    """
    if not is_dicom(path):
        raise ValueError("no DICOM file")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(_PREAMBLE + len(_MAGIC))
        try:
            values = _Walk(file, size).run()
        except (struct.error, RecursionError):
            raise ValueError("a damaged DICOM file") from None
    frames = values.get(_FRAMES, "") or "1"
    if not frames.isdecimal() or not 1 <= int(frames) <= 100_000:
        raise ValueError("a DICOM file with a damaged number of frames")
    return DicomHeader(
        values.get(_PATIENT, ""), values.get(_MODALITY, ""), int(frames), values.get(_CLASS) == _SEGMENTATION
    )


class _Walk:
    """A walk over the elements of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._order, self._explicit = "<", True
        self._left = _MOST_ELEMENTS
        self._values: dict[tuple[int, int], str] = {}

    def run(self) -> dict[tuple[int, int], str]:
        """Return the wanted values of the top level.

        Raises:
            ValueError: The file is deflated, or an element is damaged.
            struct.error: An element is cut.
        """
        in_meta = True
        while self._file.tell() < self._size:
            start = self._file.tell()
            tag = self._tag()
            if in_meta and tag[0] != 0x0002:
                in_meta = False
                self._enter(start)
                tag = self._tag()
            if tag > _FRAMES:
                break
            length, kind = self._length()
            if length == _UNDEFINED:
                self._sequence(0, explicit=self._explicit and kind != b"UN")
            elif tag in _WANTED:
                value = self._bytes(min(length, _LONGEST_VALUE))
                self._values[tag] = value.decode("latin-1").strip(" \0")
                self._skip(length - len(value))
            else:
                self._skip(length)
        return self._values

    def _enter(self, start: int) -> None:
        """Begin with the elements that have the file's own encoding."""
        syntax = self._values.get(_SYNTAX, "")
        if syntax == _DEFLATED:
            raise ValueError("a deflated DICOM file, which is not read")
        self._order, self._explicit = ">" if syntax == _BIG_ENDIAN else "<", syntax != _IMPLICIT
        self._file.seek(start)

    def _tag(self) -> tuple[int, int]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("a DICOM file with too many elements")
        group, element = struct.unpack(f"{self._order}HH", self._bytes(4))
        return group, element

    def _length(self, *, explicit: bool | None = None) -> tuple[int, bytes]:
        if not (self._explicit if explicit is None else explicit):
            return int(struct.unpack(f"{self._order}I", self._bytes(4))[0]), b""
        kind = self._bytes(2)
        if kind in _LONG:
            return int(struct.unpack(f"{self._order}2xI", self._bytes(6))[0]), kind
        return int(struct.unpack(f"{self._order}H", self._bytes(2))[0]), kind

    def _sequence(self, depth: int, *, explicit: bool) -> None:
        """Skip the items of a sequence of undefined length."""
        if depth > _DEEPEST:
            raise ValueError("a DICOM file with too many nested sequences")
        while (tag := self._tag()) != _SEQUENCE_END:
            length = int(struct.unpack(f"{self._order}I", self._bytes(4))[0])
            if tag != _ITEM:
                raise ValueError("a damaged DICOM sequence")
            if length != _UNDEFINED:
                self._skip(length)
                continue
            while (inner := self._tag()) != _ITEM_END:
                if inner[0] == _ITEM[0]:
                    raise ValueError("a damaged DICOM sequence")
                size, kind = self._length(explicit=explicit)
                if size == _UNDEFINED:
                    self._sequence(depth + 1, explicit=explicit and kind != b"UN")
                else:
                    self._skip(size)
            self._bytes(4)  # the length of the item's end
        self._bytes(4)  # the length of the sequence's end

    def _bytes(self, count: int) -> bytes:
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        place = self._file.tell() + count
        if place > self._size:
            raise ValueError("a DICOM file that ends too early")
        self._file.seek(place)
