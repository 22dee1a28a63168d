"""Reading an image or mask file: what counts as foreground, and how a picture reaches the model's square.

The rules:

- Images of any mode become RGB: grey is repeated, alpha is dropped, palettes are looked up. Pixels of more
  than 8 bits (16-bit grey, 32-bit integer, float) are min-max scaled to 0..255 first, as MedSAM's protocol
  would do anyway. 16-bit colours lose their lowest bits, or are min-max scaled if they take up less than a quarter of
  the scale. EXIF orientation is applied.
- A mask keeps its values (`medcore.data.labels` says which of them are the object). Palettes are read by index. Grey
  written as a colour is grey; other colours become numbers 0xRRGGBB. Alpha is the mask if the colour is constant. It is
  dropped if it is constant itself or agrees with the colours.
- If image and mask differ in their EXIF orientation, sizes tell whether the mask was drawn on the image as it is shown
  or on its stored pixels.
- A file with several pages is refused (`medcore.data.pictures.decoding`).
- The model's frame is a square. Images go through PIL's bicubic filter (MedSAM: cubic with anti-aliasing), masks
  take the nearest neighbour. A picture that already has the size stays the same, bit for bit.

An exported MLflow model has a copy of `read_image` (`search/export/pyfunc_model.py`), because that file runs without
this project. A change of the rules for images belongs in both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medcore.data.labels import LabelMap
from medcore.data.pictures.decoding import (
    IMAGE_ERRORS,
    PictureFile,
    Values,
    deep_values,
    is_lossy,
    opened,
    stored_grey,
    turned,
    turned_back,
    white_is_zero,
)

__all__ = ["IMAGE_ERRORS", "box_of", "mask_to_square", "read_image", "read_labels", "read_oriented", "to_square"]


#: Least range of 16-bit colours in 8 bits.
_WEAK = 64


def read_image(path: Path) -> Image.Image:
    """Read a file as an RGB picture of 8 bits a channel.

    Raises:
        IMAGE_ERRORS: The file is missing, damaged, no image, or a stack of several.
    """
    return read_oriented(path)[0]


def read_oriented(path: Path) -> tuple[Image.Image, int]:
    """Return `read_image` and the EXIF orientation that was applied, 1 to 8.

    Raises:
        IMAGE_ERRORS: As for `read_image`.
    """
    with opened(path) as file:
        how = file.orientation
        values = deep_values(file)
        if values is None:
            return ImageOps.exif_transpose(file.image).convert("RGB"), how
        if values.ndim == 3:
            return Image.fromarray(_colours_to_bytes(np.asarray(values[..., :3], np.uint16))), how
        grey = np.asarray(values, dtype=np.float64)
        return Image.fromarray(_to_bytes(-grey if white_is_zero(file) else grey)).convert("RGB"), how


def read_labels(path: Path, image_size: tuple[int, int] | None = None, image_orientation: int = 1) -> LabelMap:
    """Read the values of a mask file by the rules above.

    Args:
        path: The file.
        image_size: Width and height of the mask's image as it is shown; None reads the mask by itself.
        image_orientation: EXIF orientation that was applied to the image.

    Raises:
        IMAGE_ERRORS: The file is missing, damaged, no image, a stack of several, or says two things.
    """
    with opened(path) as file:
        how = file.orientation
        found = _labels(file)
    if image_size is None or how == image_orientation:
        return found
    return replace(found, values=_as_drawn(found.values, how, image_size, image_orientation))


def _as_drawn(values: Values, how: int, image_size: tuple[int, int], image_orientation: int) -> Values:
    """Return mask values that fit the image as it is shown, if image and mask differ in their orientation.

    The mask was drawn either on the image as it is shown or on its stored pixels.

    Raises:
        ValueError: Both fit.
    """
    stored = turned(turned_back(values, how), image_orientation)
    fitting = [each for each in (values, stored) if each.shape == image_size[::-1]]
    if len(fitting) == 2 and not np.array_equal(fitting[0], fitting[1]):
        raise ValueError(
            f"EXIF orientation {image_orientation} of the image and {how} of the mask: it is not known whether the "
            "mask is for the image as it is shown or as it is stored; save both without orientation"
        )
    return fitting[0] if fitting else values


def _labels(file: PictureFile) -> LabelMap:
    """Return the values of a mask as its own orientation shows them."""
    lossy = is_lossy(file)
    deep = deep_values(file)
    if deep is not None and deep.ndim == 2:
        if not np.isfinite(deep).all():
            raise ValueError("values that are not finite")
        return LabelMap(deep, full=_full_scale(file.image.mode, deep), lossy=lossy)
    if deep is not None:
        return _of_colours(deep[..., :3], deep[..., 3] if deep.shape[-1] == 4 else None, lossy=lossy)
    if file.image.mode == "P":
        return _of_palette(ImageOps.exif_transpose(file.image))
    if file.image.mode in ("1", "L"):
        grey, full = stored_grey(file)
        return LabelMap(grey, full=full if full == 255 else 0, lossy=lossy)
    pixels = np.asarray(ImageOps.exif_transpose(file.image).convert("RGBA"))
    return _of_colours(pixels[..., :3], pixels[..., 3] if "A" in file.image.getbands() else None, lossy=lossy)


def _of_palette(picture: Image.Image) -> LabelMap:
    """Return the palette's indices, or the transparency if that alone tells the pixels apart."""
    indices = np.asarray(picture)
    pixels = np.asarray(picture.convert("RGBA"))
    used, where = np.unique(indices, return_index=True)
    colours = pixels.reshape(-1, 4)[where].astype(np.intp)
    if len(used) > 1 and (colours[:, :3] == colours[0, :3]).all() and (colours[:, 3] != colours[0, 3]).any():
        return LabelMap(pixels[..., 3])
    if (colours[:, :3] == used[:, None]).all():
        return LabelMap(indices)
    light = colours[:, :3].mean(axis=1)
    doubt = "a palette in which 0 is white and the other value is black" if _is_reversed(light) else ""
    return LabelMap(indices, full=0, doubt=doubt)


def _is_reversed(light: NDArray[np.float64]) -> bool:
    return len(light) == 2 and light[0] > 247 and light[1] < 8


def _of_colours(colours: Values, alpha: Values | None, *, lossy: bool) -> LabelMap:
    """Return the values of a mask in colours.

    Raises:
        ValueError: Colour and alpha disagree, or the colours are no labels.
    """
    full = 255.0 if colours.dtype == np.uint8 else 65535.0
    if alpha is not None and (alpha != alpha.flat[0]).any():
        if (colours == colours[0, 0]).all():
            return LabelMap(alpha, full=full, lossy=lossy)
        drawn = colours.max(axis=-1)
        if ((drawn != 0) != (alpha != 0)).any() and ((drawn > full / 2) != (alpha > full / 2)).any():
            raise ValueError("colour and alpha channel disagree on what the object is; save the mask without alpha")
    if (colours == colours[..., :1]).all():
        return LabelMap(colours[..., 0], full=full, lossy=lossy)
    if colours.dtype != np.uint8:
        raise ValueError("16-bit colours, which are no labels; save the mask in grey")
    numbers = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return LabelMap(numbers, full=0, lossy=lossy, colours=True)


def _full_scale(mode: str, values: Values) -> float:
    """Return the largest value of a file of more than 8 bits; 1 if its values are fractions."""
    if mode == "F" and values.max() <= 1:
        return 1.0
    return 255.0 if values.max() <= 255 else 65535.0


def to_square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return an RGB picture in the model's frame.

    Returns:
        Uint8 (3, size, size), not min-max scaled.
    """
    resized = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def mask_to_square(mask: NDArray[np.bool_], size: int, void: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return a mask (height, width) in the model's frame.

    Args:
        mask: (height, width), the object.
        size: Side of the frame.
        void: (height, width), pixels that count nowhere.

    Returns:
        Uint8 (size, size): 0, 1, or `losses.IGNORED` where a pixel counts nowhere.
    """
    from medcore.losses import IGNORED  # here, because masks are read before torch is imported

    values = mask.astype(np.uint8)
    if void is not None:
        values[void] = int(IGNORED)
    picture = Image.fromarray(values)
    return np.array(picture.resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)


def box_of(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the exact box of a mask.

    Args:
        mask: (height, width), not 0 in the foreground.

    Returns:
        Float32 (x0, y0, x1, y1), the smallest and largest foreground indices. Both ends are inclusive, as in MedSAM,
        so one pixel gives x0 = x1.

    Raises:
        ValueError: The mask is empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    low, high = values.min(), values.max()
    scaled: NDArray[np.float64] = np.rint((values - low) * (255.0 / max(high - low, 1e-12)))
    return scaled.astype(np.uint8)


def _colours_to_bytes(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Drop the lowest bits, so that 12-bit colours in 16 bits are as bright as in 8; scale a weak picture."""
    spare = max(int(values.max()).bit_length() - 8, 0)
    if (int(values.max()) - int(values.min())) >> spare < _WEAK:
        return _to_bytes(np.asarray(values, np.float64))
    return np.asarray(values >> spare, np.uint8)
