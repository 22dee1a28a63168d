"""Pixels of a DICOM file by pydicom: measured values, colours or labels, frame by frame."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from medcore.data.formats.intensities import Intensities, Limits, usual_limits
from medcore.data.formats.volume import LARGEST_BYTES, required

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The run-length code of DICOM makes data at most so many times smaller.
_RUN_LENGTH, _RUN_LENGTH_RATIO = "1.2.840.10008.1.2.5", 64
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, eq=False)
class Pixels:
    """A DICOM file whose size has been checked.

    Attributes:
        data: pydicom's data set.
        spacing: Millimetres a pixel, rows and columns; None if the file does not say.
    """

    data: Any
    spacing: tuple[float, float] | None

    def picture(self, frame: int) -> Image.Image | Intensities:
        """Return a frame: colours as they are, grey values after the rescaling of the file.

        Raises:
            ValueError: The frame cannot be used.
        """
        values, kind = self._values(frame), str(self.data.PhotometricInterpretation)
        pixels = required("pydicom.pixels")
        if kind == "PALETTE COLOR":
            values = pixels.apply_color_lut(values, self.data)
            values = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
        if kind not in _GREY:
            if values.ndim != 3 or values.shape[-1] != 3 or values.dtype != np.uint8:
                raise ValueError("colours that are not of 8 bits")
            return Image.fromarray(np.ascontiguousarray(values))
        measured = np.asarray(pixels.apply_modality_lut(values, self.data))
        if measured.ndim != 2 or not np.isfinite(measured).all():
            raise ValueError("values that are not finite")
        limits = _window_of(self.data)
        return Intensities(measured, lambda: limits or usual_limits(measured), inverted=kind == "MONOCHROME1")

    def labels(self, frame: int) -> NDArray[Any]:
        """Return a frame as label values (height, width), as they are stored.

        Raises:
            ValueError: The frame is no label map.
        """
        values = self._values(frame)
        if values.ndim != 2 or str(self.data.PhotometricInterpretation) != "MONOCHROME2":
            raise ValueError("a mask that is not MONOCHROME2")
        return values

    def _values(self, frame: int) -> NDArray[Any]:
        if not 0 <= frame < _frames(self.data):
            raise ValueError(f"{_frames(self.data)} frames where more are needed")
        return np.asarray(required("pydicom.pixels").pixel_array(self.data, index=frame))


def read_pixels(path: Path) -> Pixels:
    """Read a file and check what it says of its pixels; nothing is decoded.

    Raises:
        ValueError: They cannot be decoded, or not safely.
        DataError: pydicom is not installed.
    """
    pydicom = required("pydicom")
    # pydicom warns of invalid values and quotes them, and they may be names
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    data = pydicom.dcmread(path)
    if "PixelData" not in data:
        raise ValueError("a DICOM file without pixels")
    if "SharedFunctionalGroupsSequence" in data:
        raise ValueError("an enhanced multi-frame object; convert it to one file a slice")
    if str(data.PhotometricInterpretation) not in (*_GREY, *_COLOURS, "PALETTE COLOR"):
        raise ValueError(f"pixels of kind {data.PhotometricInterpretation}")
    bits = int(data.Rows) * int(data.Columns) * int(data.SamplesPerPixel) * int(data.BitsAllocated)
    size = math.ceil(bits / 8)
    syntax = data.file_meta.TransferSyntaxUID
    stored = len(data.PixelData)
    ratio = _RUN_LENGTH_RATIO if syntax == _RUN_LENGTH else 1
    if size < 1 or size > LARGEST_BYTES or ((ratio > 1 or not syntax.is_compressed) and size > stored * ratio * 2):
        raise ValueError(f"a frame of {size} bytes in {stored}")
    if syntax.is_compressed:
        _require_decoder(syntax)
    return Pixels(data, _spacing_of(data))


def _require_decoder(syntax: Any) -> None:
    """Check that some package decodes a compressed file.

    Raises:
        ValueError: None does.
    """
    try:
        available = required("pydicom.pixels").get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ValueError(
            f"{syntax.name} needs a decoder: pip install 'pylibjpeg[all]', or convert the files to uncompressed ones"
        )


def _frames(data: Any) -> int:
    return int(data.get("NumberOfFrames", None) or 1)


def _spacing_of(data: Any) -> tuple[float, float] | None:
    """Return the spacing in the patient; that on a detector is larger and does not count."""
    values = data.get("PixelSpacing", None)
    if values is None or isinstance(values, str) or len(values) != 2:
        return None
    rows, columns = map(float, values)
    return (rows, columns) if all(math.isfinite(side) and side > 0 for side in (rows, columns)) else None


def _window_of(data: Any) -> Limits | None:
    """Return the limits of the file's first window, by the formulas of DICOM's PS3.3, C.11.2.1.2."""
    centre, width = (_first(data.get(name, None)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or not math.isfinite(centre) or not 1 <= width < math.inf:
        return None
    if str(data.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return centre - width / 2, centre + width / 2


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])
