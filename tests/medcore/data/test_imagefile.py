"""What counts as foreground, which colours an image gets, and its exact box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.imagefile import box_of, read_image, read_labels
from medcore.data.labels import AS_THE_FILE_SAYS, targets
from tests.support.image_files import noise


def test_image_modes_become_rgb(tmp_path: Path) -> None:
    pixels = noise(3)
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (np.asarray(read_image(tmp_path / "grey.png")) == grey[..., None]).all()
    alpha = np.concatenate([pixels, np.zeros_like(grey)[..., None]], axis=2)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert (np.asarray(read_image(tmp_path / "alpha.png")) == pixels).all()
    deep = np.linspace(1000, 5000, 1200).reshape(40, 30)
    for name, values in (("deep.png", deep.astype(np.uint16)), ("deep.tif", deep.astype(np.float32))):
        Image.fromarray(values).save(tmp_path / name)
        expected = np.rint((values.astype(float) - 1000) / 4000 * 255)
        assert np.abs(np.asarray(read_image(tmp_path / name))[..., 1] - expected).max() <= 1
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="not finite"):
        read_image(tmp_path / "nan.tif")


def test_mask_threshold_in_every_depth(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = (ramp > 200).astype(np.uint8)
    files = {
        "grey.png": (ramp, ramp > 127),
        "colour.png": (np.stack([ramp * 0, ramp, ramp * 0], axis=2), ramp > 127),
        "alpha.png": (np.stack([ramp, ramp, ramp, ramp * 0], axis=2), ramp > 127),
        "bool.png": (ramp > 9, ramp > 9),
        "zero_one.png": (one, one > 0),
        "deep.png": (ramp.astype(np.uint16) * 257, ramp > 127),
        "deep_small.png": (ramp.astype(np.uint16), ramp > 127),
        "deep_one.png": (one.astype(np.uint16), one > 0),
        "float.tif": (one.astype(np.float32), one > 0),
        "empty.png": (ramp * 0, ramp < 0),
    }
    for name, (values, expected) in files.items():
        Image.fromarray(values).save(tmp_path / name)
        assert (_mask(tmp_path / name) == expected).all(), name
    Image.fromarray(one).save(tmp_path / "noise.jpg", quality=100)
    assert not _mask(tmp_path / "noise.jpg").any()  # compression noise around 0 is not foreground


def test_boxes_agree_with_a_search_over_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.1
        mask[rng.integers(mask.shape[0]), rng.integers(mask.shape[1])] = True
        pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
        xs, ys = zip(*pixels, strict=True)
        assert box_of(mask).tolist() == [min(xs), min(ys), max(xs), max(ys)]
    with pytest.raises(ValueError, match="empty"):
        box_of(np.zeros((3, 3), dtype=bool))


def _mask(path):
    (target,) = targets(read_labels(path), AS_THE_FILE_SAYS)
    return target.mask
