"""Copies of black and white pictures against label maps, whatever was done to either."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from medcore.data.labels import AS_THE_FILE_SAYS, LabelMap, UnclearMask, objects_of
from medcore.data.mask_rules import MaskRules
from medcore.data.pictures.copies import is_copy

_Y, _X = np.mgrid[:120, :160]
DISK = ((_Y - 60) / 35) ** 2 + ((_X - 70) / 45) ** 2 < 1
QUALITIES = (1, 5, 10, 30, 60, 75, 90, 95, 100)


def compressed(values: np.ndarray, quality: int, kind: str = "JPEG") -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


@pytest.mark.parametrize("quality", QUALITIES)
def test_compressed_masks_are_copies(quality: int) -> None:
    mask = DISK * np.uint8(255)
    for kind in ("JPEG", "WEBP"):
        values = compressed(mask, quality, kind)
        (target,) = objects_of(LabelMap(values, lossy=True), AS_THE_FILE_SAYS).targets
        assert (target.mask == (values > 127)).all() and (target.mask != DISK).mean() < 0.01
    if 5 < quality < 95:  # saved again without loss
        assert is_copy(compressed(mask, quality), 255, lossy=False)


@pytest.mark.parametrize(
    ("filter_", "scale"), [(2, 2), (2, 4), (3, 4), (3, 10), (1, 0.4), (4, 0.5), (2, 0.33), (2, 0.2)]
)
def test_smoothly_resized_masks_are_copies(filter_: int, scale: float) -> None:
    small = Image.fromarray(DISK * np.uint8(255))
    size = (round(160 * scale), round(120 * scale))
    values = np.asarray(small.resize(size, Image.Resampling(filter_)))
    for full, pixels in ((255, values), (65535, values.astype(np.uint16) * 257)):
        (target,) = objects_of(LabelMap(pixels, full=full), AS_THE_FILE_SAYS).targets
        assert (target.mask == (values > 127)).all()
    assert is_copy(compressed(values, 60), 255, lossy=True)


def _label_maps() -> dict[str, np.ndarray]:
    zero = np.zeros(DISK.shape, np.uint8)
    rng = np.random.default_rng(0)
    classes = zero.copy()
    for index in range(20):
        top, left = 5 + index // 5 * 28, 5 + index % 5 * 30
        classes[top : top + 20, left : left + 20] = index + 1
    inside = classes > 0
    rim = binary_dilation(inside, iterations=2) & ~inside
    unsure = DISK * np.uint8(255)
    unsure[binary_dilation(DISK, iterations=3) & ~DISK] = 128
    cells = [
        rng.integers(1, 251, (60, 80)).repeat(2, 0).repeat(2, 1),
        rng.integers(1, 251, (40, 54)).repeat(3, 0).repeat(3, 1),
    ]
    return {
        "three": np.where(DISK, 255, np.where(_X > 130, 128, 0)).astype(np.uint8),
        "rim": unsure,
        "twenty": classes,
        "twenty and void": np.where(rim, 255, classes).astype(np.uint8),
        "four": np.choose(np.minimum(classes, 3), [0, 85, 170, 255]).astype(np.uint8),
        "cells of 2": np.where(DISK, cells[0], 0).astype(np.uint8),
        "cells of 3": np.where(DISK, cells[1][:120, :160], 0).astype(np.uint8),
        "thin": np.where(DISK & (_X % 7 == 0) & (_Y > 60), 255, np.where(_X == 4, 56, (_Y == 116) * 143)).astype(
            np.uint8
        ),
        "one and void": np.where(rim, 255, inside).astype(np.uint8),
    }


@pytest.mark.parametrize("name", _label_maps())
def test_label_maps_are_none(name: str) -> None:
    values = _label_maps()[name]
    for every in (1, 2, 4):  # thumbnails too
        with pytest.raises(UnclearMask, match=r"values 0, 1?.*data\.labels"):
            objects_of(LabelMap(values[::every, ::every]), AS_THE_FILE_SAYS)


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
@pytest.mark.parametrize("name", ["three", "twenty", "twenty and void", "four", "cells of 3"])
def test_a_lossy_label_map_is_refused_even_with_rules(name: str, quality: int) -> None:
    found = LabelMap(compressed(_label_maps()[name], quality), lossy=True)
    for rules in (AS_THE_FILE_SAYS, MaskRules(labels="any"), MaskRules(labels=(1,)), MaskRules(objects="labels")):
        with pytest.raises(UnclearMask, match=r"lossy.*PNG"):
            objects_of(found, rules)


def test_noise_of_a_lossy_copy_is_no_label() -> None:
    found = LabelMap(compressed(DISK * np.uint8(255), 50), lossy=True)
    for rules in (MaskRules(labels="any"), MaskRules(labels=(255,)), MaskRules(objects="labels")):
        (target,) = objects_of(found, rules).targets
        assert (target.mask == (found.values > 127)).all()
    assert not objects_of(found, MaskRules(labels=(1,))).targets[0].mask.any()
