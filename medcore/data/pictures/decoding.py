"""Opening a picture file, and the values in it that Pillow does not hand out as they are stored.

- Content decides on the format, from a fixed list. Nothing but a regular file is opened.
- A file holds one picture. Thumbnails of a TIFF and the small pictures that a camera adds to a JPEG do not count.
- Pillow cuts 16-bit colours to 8 bits. Here each file is decoded twice, for the upper and for the lower bytes.

An exported MLflow model has a copy of what concerns images (`search/export/pyfunc_model.py`).
"""

from __future__ import annotations

import os
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from medcore.files import not_a_file

#: The decoders that a file may reach. JPEG covers MPO, the files of cameras that add small pictures.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
#: What PIL raises, depending on the format, for a file that is truncated, damaged or not an image.
IMAGE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
#: Modes of one number a pixel of more than 8 bits.
DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_ORIENTATION, _SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC = 274, 254, 258, 259, 262
_DESCRIPTION, _SOFTWARE, _SAMPLE_FORMAT, _DEPTH = 270, 305, 339, 32997
_REDUCED, _MASK_OF_PAGE = 1, 4
_SIGNED = 2
#: Modes whose 16-bit colours can be decoded in halves.
_HALVES = ("RGB;16", "RGBA;16")
_STACK = re.compile(r'^images=(?!1\s)\d+|"truncated": true', re.MULTILINE)
_FAX = (2, 3, 4)

Values = NDArray[np.integer] | NDArray[np.floating] | NDArray[np.bool_]


@dataclass(frozen=True)
class PictureFile:
    """An open picture file.

    Attributes:
        path: The file.
        image: Pillow's image.
        layout: Pillow's name for how the file stores pixels, such as RGB;16B; empty if there is none.
        orientation: EXIF orientation, 1 to 8; 1 if there is none.
    """

    path: Path
    image: ImageFile.ImageFile
    layout: str
    orientation: int


@contextmanager
def opened(path: Path) -> Iterator[PictureFile]:
    """Open a picture file; its pixels are decoded when they are used.

    Raises:
        IMAGE_ERRORS: The file is missing, damaged, no picture, or a stack of several.
    """
    if kind := not_a_file(path):
        raise OSError(kind)
    try:
        # by its path, Pillow maps an uncompressed TIFF with the sides of the turned picture
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            _require_one_page(image)
            layout = _layout(image)  # Pillow forgets it when it decodes, as it does to read the EXIF of a PNG
            yield PictureFile(path, image, layout, _orientation(image))
    except UnidentifiedImageError:
        raise ValueError("not a PNG, JPEG, BMP, TIFF or WebP file that can be read") from None


def turned(values: Values, how: int) -> Values:
    """Return stored values (height, width, ...) as an EXIF orientation shows them."""
    mirrored = values[:, ::-1] if how in (2, 4, 5, 7) else values
    quarters = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(how, 0)
    return np.rot90(mirrored, quarters)


def turned_back(values: Values, how: int) -> Values:
    """Undo `turned`."""
    return turned(values, {6: 8, 8: 6}.get(how, how))


def deep_values(file: PictureFile) -> Values | None:
    """Return values of more than 8 bits or with a sign, as they are stored and as the orientation shows them.

    Returns:
        (height, width) or (height, width, colours); None for a file of 8 bits a channel.

    Raises:
        IMAGE_ERRORS: The file is damaged, or has 16-bit colours that cannot be read.
    """
    image, layout = file.image, file.layout
    signed = _tag(image, _SAMPLE_FORMAT) == _SIGNED
    bits = _tag(image, _BITS) or (16 if ";16" in layout else 8)
    if image.mode not in DEEP and bits > 8:
        if not layout.startswith(_HALVES):
            raise ValueError(f"{bits}-bit colours in an arrangement that cannot be read ({image.mode}, {layout})")
        return _joined(file.path, layout)
    if image.mode in DEEP:
        values = np.asarray(ImageOps.exif_transpose(image))
        return values.view(np.uint32) if values.dtype == np.int32 and not signed and bits == 32 else values
    if signed and image.mode == "L":
        return np.asarray(ImageOps.exif_transpose(image)).view(np.int8)
    return None


def white_is_zero(file: PictureFile) -> bool:
    """Tell whether a TIFF says that 0 is white."""
    return bool(_tag(file.image, _PHOTOMETRIC) == 0)


def stored_grey(file: PictureFile) -> tuple[Values, int]:
    """Return the values of a grey file of at most 8 bits as its writer had them, and the largest possible one.

    Pillow stretches values of 2 and 4 bits, and turns those round where 0 is white. tifffile and what builds on it
    write arrays of booleans as "0 is white" and mean the numbers. Other writers mean the look.

    Raises:
        ValueError: 0 is white, and it is not known who wrote the file.
    """
    layout, by_tifffile = file.layout, _by_tifffile(file.image)
    as_shown = _tag(file.image, _COMPRESSION) in _FAX or bool(_tag(file.image, _SOFTWARE))
    backwards = white_is_zero(file)
    if backwards and not by_tifffile and not as_shown:
        raise ValueError("a MinIsWhite TIFF of an unknown writer, which may be inverted; save it with black as 0")
    values = np.asarray(ImageOps.exif_transpose(file.image).convert("L"))
    if backwards and by_tifffile:
        values = 255 - values
    step = 255 if file.image.mode == "1" else {"L;2": 85, "L;4": 17}.get(layout[:3], 1)
    return values // step, 255 // step


def is_lossy(file: PictureFile) -> bool:
    """Tell whether the compression changes values."""
    if file.image.format == "TIFF":
        return file.image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    return file.image.format in ("JPEG", "MPO") or (file.image.format == "WEBP" and not _lossless_webp(file.path))


def _orientation(file: ImageFile.ImageFile) -> int:
    # Pillow applies and forgets a TIFF's orientation when it decodes, unless its EXIF was asked for before
    value = _tag(file, _ORIENTATION) if file.format == "TIFF" else file.getexif().get(_ORIENTATION, 1)
    return value if value in range(2, 9) else 1


def _require_one_page(file: ImageFile.ImageFile) -> None:
    """Check that a file holds one picture.

    Raises:
        ValueError: It is a stack.
    """
    count = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    if file.format == "TIFF":
        pages = 0
        for index in range(count):
            file.seek(index)
            pages += not (_tag(file, _SUBFILE) or 0) & (_REDUCED | _MASK_OF_PAGE)
        file.seek(0)
        # writers of large stacks describe one page and say in words that more follow
        hidden = (_tag(file, _DEPTH) or 1) > 1 or _STACK.search(str(_tag(file, _DESCRIPTION) or ""))
        count = max(pages, 2 if hidden else 1)
    if count > 1:
        raise ValueError("a stack of several pages; save each page as a file of its own")


def _joined(path: Path, layout: str) -> NDArray[np.uint16]:
    """Return 16-bit colours, (height, width, 3 or 4), decoded once for either half of the bytes."""
    mode, order = layout.split(";16")
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    upper, lower = (_decoded_as(path, f"{mode};16{which}") for which in (order, "L" if order == "B" else "B"))
    return upper.astype(np.uint16) * np.uint16(256) + lower


def _decoded_as(path: Path, layout: str) -> NDArray[np.uint8]:
    with Image.open(path, formats=FORMATS) as file:
        file.tile = [
            tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)
            for tile in file.tile
        ]
        return np.asarray(ImageOps.exif_transpose(file))


def _layout(file: ImageFile.ImageFile) -> str:
    arguments: Any = file.tile[0].args if file.tile else ""
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else ""


def _tag(file: ImageFile.ImageFile, number: int) -> Any:
    """Return a tag of a TIFF, the first value of several; None if there is none."""
    value = file.tag_v2.get(number) if isinstance(file, TiffImagePlugin.TiffImageFile) else None
    return value[0] if isinstance(value, tuple) and value else value


def _by_tifffile(file: ImageFile.ImageFile) -> bool:
    described = str(_tag(file, _DESCRIPTION) or "")
    return str(_tag(file, _SOFTWARE) or "").startswith("tifffile") or described.startswith('{"shape"')


def _lossless_webp(path: Path) -> bool:
    """Tell whether the picture of a WebP file is stored without loss."""
    with path.open("rb") as file:
        head = file.read(16)
        while head[-4:] not in (b"VP8L", b"VP8 ", b""):
            size = file.read(4)
            if len(size) < 4:
                return False
            file.seek(int.from_bytes(size, "little") + int.from_bytes(size, "little") % 2, os.SEEK_CUR)
            head = file.read(4)
        return head[-4:] == b"VP8L"
