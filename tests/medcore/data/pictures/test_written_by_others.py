"""Property: what Pillow, tifffile and imageio write is read back as it was, or refused."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from medcore.data.imagefile import IMAGE_ERRORS, read_labels, read_oriented
from medcore.data.labels import AS_THE_FILE_SAYS, UnclearMask, objects_of
from medcore.data.mask_rules import MaskRules

_TYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
_TIFF: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "zlib"},
    {"byteorder": ">"},
    {"photometric": "miniswhite"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)},
    {"software": "scanner"},
)


def _label_map(chance: random.Random, kind: str) -> np.ndarray:
    """A few rectangles with labels that the type can hold."""
    height, width = chance.randint(3, 24), chance.randint(3, 24)
    info = None if kind in ("bool", "float32") else np.iinfo(kind)
    low, high = (0, 1) if info is None else (max(info.min, -300), min(info.max, 70000))
    values = np.zeros((height, width), np.int64)
    for _ in range(chance.randint(0, 4)):
        top, left = chance.randrange(height), chance.randrange(width)
        values[top : top + chance.randint(1, 9), left : left + chance.randint(1, 9)] = chance.choice(
            [low, high, 1, chance.randint(low, high)]
        )
    return values.astype(kind)


def _write(path: Path, values: np.ndarray, chance: random.Random) -> Path:
    """Write an array with one of three libraries, in a format that holds its type."""
    kind = values.dtype.name
    endings = [".tif"] + [".png"] * (kind in ("bool", "uint8", "uint16")) + [".bmp", ".webp"] * (kind == "uint8")
    file = path.with_suffix(chance.choice(endings))
    options: dict[str, Any] = {"lossless": True} if file.suffix == ".webp" else {}
    writer = chance.choice(["pillow", "tifffile", "imageio"])
    if file.suffix == ".tif" and (writer == "tifffile" or kind in ("int8", "int16", "uint32")):
        tifffile.imwrite(file, values, **chance.choice(_TIFF))
    elif writer == "imageio":
        imageio.imwrite(file, values, **options)
    else:
        Image.fromarray(values).save(file, **options)
    return file


def _assert_read_back(folder: Path, number: int) -> bool:
    """Write a label map and read it; returns whether it was read."""
    chance = random.Random(number)
    kind = chance.choice(_TYPES)
    values = _label_map(chance, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = _write(folder / f"m{number}", values, chance)
    except (ValueError, OSError, TypeError, KeyError, RuntimeError, ImportError):
        return False  # the writer cannot store this type
    try:
        labels = read_labels(file)
    except IMAGE_ERRORS:
        return False
    read = labels.values
    assert read.shape == values.shape, file
    if kind == "bool" or len(np.unique(values)) <= 2:
        # writers stretch booleans to 255
        assert ((read != 0) == (values != 0)).all(), file
    else:
        assert (read == values).all(), file
    try:
        (target,) = objects_of(labels, AS_THE_FILE_SAYS).targets
    except UnclearMask:
        assert len(np.unique(values)) > 2 or values.min() < 0 or (values != 0).all(), file
    else:
        assert (target.mask == (values != 0)).all(), file
    for label in np.unique(values)[:3].tolist():
        chosen = objects_of(labels, MaskRules(labels=(int(label),))).targets[0].mask
        assert kind == "bool" or (chosen == (values == label)).all(), file
    return True


def _assert_picture_read_back(folder: Path, number: int) -> bool:
    """Write colours of 8 or 16 bits with an orientation, read them, and compare the picture up to its scale."""
    chance = random.Random(number)
    generator = np.random.default_rng(number)
    bits, channels = chance.choice([8, 10, 12, 16]), chance.choice([1, 3, 4])
    shape = (chance.randint(2, 9), chance.randint(2, 9)) + ((channels,) if channels > 1 else ())
    values = generator.integers(0, 1 << bits, shape).astype(np.uint8 if bits == 8 else np.uint16)
    values.flat[0], values.flat[1] = 0, (1 << bits) - 1
    orientation = chance.choice([1, 1, *range(1, 9)])
    kinds = {**chance.choice(_TIFF[:3] + _TIFF[4:6]), "photometric": "rgb" if channels > 1 else "minisblack"}
    file = folder / f"p{number}.tif"
    tifffile.imwrite(file, values, extratags=[(274, 3, 1, orientation, True)], **kinds)
    try:
        picture, how = read_oriented(file)
    except IMAGE_ERRORS:
        return False
    assert how == orientation
    expected = _as_shown(values if channels == 1 else values[..., :3], orientation)
    assert picture.size == expected.shape[1::-1], file
    read = np.asarray(picture if channels > 1 else picture.convert("L")).astype(float)
    assert np.abs(read - expected.astype(float) * 255 / ((1 << bits) - 1)).max() <= 1, file
    return True


def _as_shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says: where row 0 and column 0 of the stored pixels are on the screen."""
    swapped = np.swapaxes(stored, 0, 1) if orientation >= 5 else stored
    rows_from_below = orientation in (3, 4, 7, 8)
    columns_from_right = orientation in (2, 3, 6, 7)
    return swapped[:: -1 if rows_from_below else 1, :: -1 if columns_from_right else 1]


@seed(13)
@settings(max_examples=140, deadline=None, database=None)
@given(number=st.integers(0, 10**9))
def test_label_maps_come_back_or_are_refused(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    _assert_read_back(tmp_path_factory.mktemp("m"), number)


@seed(13)
@settings(max_examples=60, deadline=None, database=None)
@given(number=st.integers(0, 10**9))
def test_colours_come_back_or_are_refused(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    _assert_picture_read_back(tmp_path_factory.mktemp("p"), number)


def test_most_files_are_read(tmp_path: Path) -> None:
    assert sum(_assert_read_back(tmp_path, number) for number in range(60)) > 30
    assert sum(_assert_picture_read_back(tmp_path, number) for number in range(40)) > 30


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, database=None)
@given(number=st.integers(0, 10**9))
def test_many_label_maps_and_colours(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("many")
    _assert_read_back(folder, number)
    _assert_picture_read_back(folder, number)
