"""What counts as foreground, which colours an image gets, and its exact box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.imagefile import box_of, read_image, read_labels
from medcore.data.labels import AS_THE_FILE_SAYS, objects_of
from tests.support.image_files import blob, noise


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


def test_two_values_in_every_depth(tmp_path: Path) -> None:
    mask = blob() > 0
    for high in (1, 2, 100, 128, 255):
        values = mask * np.uint8(high)
        zero = np.zeros_like(values)
        files = {
            "grey.png": values,
            "grey.bmp": values,
            "colour.png": np.stack([zero, values, zero], axis=2),
            "same.png": np.stack([values] * 3, axis=2),
            "bool.png": mask,
            "deep.png": values.astype(np.uint16) * 257,
            "deep_small.png": values.astype(np.uint16),
            "integer.tif": values.astype(np.int32),
            "float.tif": values.astype(np.float32),
        }
        for name, pixels in files.items():
            Image.fromarray(pixels).save(tmp_path / name)
            assert (_mask(tmp_path / name) == mask).all(), (name, high)
    Image.fromarray(mask * np.uint8(0)).save(tmp_path / "empty.png")
    assert not _mask(tmp_path / "empty.png").any()
    Image.fromarray(mask * np.uint8(1)).save(tmp_path / "noise.jpg", quality=100)
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
    (target,) = objects_of(read_labels(path), AS_THE_FILE_SAYS).targets
    return target.mask
