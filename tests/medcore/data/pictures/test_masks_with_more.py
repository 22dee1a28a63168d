"""Masks with alpha, palettes, colours or an orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.imagefile import read_image, read_labels
from medcore.data.labels import AS_THE_FILE_SAYS, UnclearMask, objects_of
from medcore.data.load import load_image_set
from medcore.data.mask_rules import MaskRules
from medcore.errors import DataError
from tests.support.image_files import blob, image_folder, noise


def mask_of(path: Path, rules: MaskRules = AS_THE_FILE_SAYS) -> np.ndarray:
    (target,) = objects_of(read_labels(path), rules).targets
    return target.mask


def test_alpha_is_the_mask_if_only_alpha_varies(tmp_path: Path) -> None:
    mask, path = blob(), tmp_path / "x.png"
    for colour in (255, 0, 9):
        Image.merge("LA", [Image.new("L", (30, 40), colour), Image.fromarray(mask)]).save(path)
        assert (mask_of(path) == (mask > 0)).all()
    for alpha in (0, 128, 255):  # constant alpha says nothing
        Image.merge("LA", [Image.fromarray(mask), Image.new("L", (30, 40), alpha)]).save(path)
        assert (mask_of(path) == (mask > 0)).all()
    Image.merge("LA", [Image.fromarray(mask), Image.fromarray(mask)]).save(path)
    assert (mask_of(path) == (mask > 0)).all()
    Image.merge("LA", [Image.fromarray(mask), Image.fromarray(mask[::-1])]).save(path)
    with pytest.raises(ValueError, match="alpha"):
        read_labels(path)


def test_a_palette_counts_by_index(tmp_path: Path) -> None:
    picture = Image.fromarray((blob() > 0).astype(np.uint8))
    for colours in ([0, 0, 0, 64, 0, 0], [255, 255, 255, 255, 0, 0], [0, 0, 0, 255, 255, 255]):
        picture.putpalette(colours)
        picture.save(tmp_path / "x.png")
        assert (mask_of(tmp_path / "x.png") == (blob() > 0)).all()
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(tmp_path / "x.png")
    with pytest.raises(UnclearMask, match=r"white.*black"):
        mask_of(tmp_path / "x.png")
    assert (mask_of(tmp_path / "x.png", MaskRules(labels=(0,))) == (blob() == 0)).all()
    picture.putpalette([9, 9, 9, 9, 9, 9])
    picture.save(tmp_path / "x.png", transparency=b"\xff\x00")
    assert (mask_of(tmp_path / "x.png") == (blob() == 0)).all()


def test_colours_are_labels_by_number(tmp_path: Path) -> None:
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[5:15, 5:15], pixels[20:30, 5:15] = (255, 0, 0), (0, 128, 0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.raises(UnclearMask, match=r"0xff0000"):
        mask_of(tmp_path / "x.png")
    assert (mask_of(tmp_path / "x.png", MaskRules(labels=(0xFF0000,))) == (pixels[..., 0] > 0)).all()
    both = objects_of(read_labels(tmp_path / "x.png"), MaskRules(objects="labels")).targets
    assert [each.suffix for each in both] == ["#008000", "#ff0000"]
    one = pixels * (pixels[..., :1] > 0)
    Image.fromarray(one).save(tmp_path / "one.png")
    assert (mask_of(tmp_path / "one.png") == (one[..., 0] > 0)).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_mask_is_for_the_image_as_shown_or_as_stored_if_sizes_tell(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = image_folder(tmp_path / "set", [])
    stored = noise(0)
    stored[blob() > 0] = 255
    Image.fromarray(stored).save(root / "images" / "a.png", exif=exif)
    Image.fromarray(blob()).save(root / "masks" / "a.png")
    shown = np.asarray(read_image(root / "images" / "a.png"))
    if orientation >= 5:
        images, _ = load_image_set([root], "all", 32)
        assert (shown[images.truths[0]] == 255).all() and images.truths[0].sum() == (blob() > 0).sum()
    else:
        with pytest.raises(DataError, match="orientation"):
            load_image_set([root], "all", 32)
    Image.fromarray(blob()).save(root / "masks" / "a.png", exif=exif)
    images, _ = load_image_set([root], "all", 32)
    assert (shown[images.truths[0]] == 255).all()


def test_a_square_mask_without_the_images_orientation_is_listed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = image_folder(tmp_path / "set", ["b"], height=30, width=30)
    Image.fromarray(noise(0, 30, 30)).save(root / "images" / "a.jpg", exif=exif)
    Image.fromarray(blob(30, 30)).save(root / "masks" / "a.png")
    images, skipped = load_image_set([root], "all", 32)
    assert images.names == ["b"] and "orientation" in skipped[0].reason
    # turned or not, this mask is the same
    full = np.full((30, 30), 255, np.uint8)
    Image.fromarray(full).save(root / "masks" / "a.png")
    assert len(load_image_set([root], "all", 32)[0]) == 2
