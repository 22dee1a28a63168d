"""Procedural images: what the masks promise, what the seed promises, and that the two domains differ."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medcore.data.load import box_of, load_image_set
from medcore.errors import ConfigError, StorageError
from medcore.synthetic.shapes import GENERAL_FAMILIES, MEDICAL_FAMILIES, _finish, draw_shape
from medcore.synthetic.textures import any_texture, curves, noise
from medcore.synthetic.write import DEMO_ARCH, make, write_folder

DOMAINS = ("general", "medical")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [32, 97, 128])
def test_one_whole_object_of_the_promised_size(domain: str, size: int) -> None:
    images, masks = make(domain, 40, size, seed=5)
    assert images.shape == (40, size, size, 3) and images.dtype == np.uint8
    assert masks.shape == (40, size, size) and masks.dtype == np.bool_
    for image, mask in zip(images, masks, strict=True):
        assert 0.015 <= mask.mean() <= 0.40
        assert ndimage.label(mask)[1] == 1
        assert image.std() > 5
    assert masks.mean(axis=(1, 2)).std() > 0.03


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_seed_decides(domain: str) -> None:
    np.random.seed(0)  # noqa: NPY002 (the global state must not matter)
    images, masks = make(domain, 6, 64, seed=1)
    np.random.seed(1)  # noqa: NPY002
    again, masks_again = make(domain, 4, 64, seed=1)
    assert (images[:4] == again).all() and (masks[:4] == masks_again).all()
    other, _ = make(domain, 6, 64, seed=2)
    assert all((a != b).mean() > 0.5 for a, b in zip(images, other, strict=True))
    assert len({image.tobytes() for image in images}) == 6


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_edge_is_visible_where_the_mask_says(domain: str) -> None:
    """The image changes more across the mask's edge than elsewhere: boundaries can be learned."""
    images, masks = make(domain, 60, 128, seed=11)
    wins = 0
    for image, mask in zip(images, masks, strict=True):
        grey = ndimage.gaussian_filter(image.astype(float), (1.5, 1.5, 0))
        slope = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)).max(axis=2)
        edge = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1)
        wins += np.median(slope[edge]) > 1.5 * np.median(slope[~ndimage.binary_dilation(edge, iterations=3)])
    assert wins >= 54


def test_neither_brightness_nor_colour_alone_finds_the_object() -> None:
    """Distractors: even the best of many global thresholds (per channel, both signs) misses the mask."""
    for domain in DOMAINS:
        images, masks = make(domain, 60, 64, seed=3)
        best = []
        for image, mask in zip(images, masks, strict=True):
            options = []
            for channel in np.moveaxis(image, 2, 0):
                for level in np.quantile(channel, np.linspace(0.05, 0.95, 15)):
                    guesses = (channel > level, channel <= level)
                    options += [2 * (guess & mask).sum() / (guess.sum() + mask.sum()) for guess in guesses]
            best.append(max(options))
        assert np.mean(best) < 0.8


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_box_does_not_give_the_shape_away(domain: str) -> None:
    """The ellipse inscribed in the box, an answer without a look at the image, is no better than on real polyps.

    There its mean Dice is 0.85 (CVC-ClinicDB) to 0.87 (Kvasir-SEG).
    """
    _, masks = make(domain, 150, 64, seed=9)
    y, x = np.mgrid[:64, :64]
    scores = []
    for mask in masks:
        left, top, right, bottom = box_of(mask)
        across = (2 * x - left - right) / (right - left + 1)
        down = (2 * y - top - bottom) / (bottom - top + 1)
        guess = across**2 + down**2 <= 1
        scores.append(2 * (guess & mask).sum() / (guess.sum() + mask.sum()))
    assert np.mean(scores) < 0.87


def test_the_domains_differ() -> None:
    general, medical = (make(domain, 60, 64, seed=7)[0].astype(float) for domain in DOMAINS)

    def redness(images: np.ndarray) -> np.ndarray:
        lit = images[images.sum(axis=3) > 60]
        return np.asarray(lit[:, 0] - lit[:, 2])

    assert (redness(medical) > 0).mean() > 0.95 > 0.7 > (redness(general) > 0).mean()
    spread = [images.mean(axis=(1, 2)).std(axis=0).mean() for images in (general, medical)]
    assert spread[0] > 1.2 * spread[1]


@pytest.mark.parametrize("family", GENERAL_FAMILIES + MEDICAL_FAMILIES)
def test_shapes_meet_their_share_and_have_no_holes(family: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        share = rng.uniform(0.02, 0.3)
        shape = draw_shape(rng, 96, family, share, (48.0, 40.0), rng.uniform(0.5, 4), rng.uniform(0, 0.12))
        assert 0.8 * share < shape.share < 1.2 * share + 0.01
        assert ndimage.label(shape.mask)[1] == 1
        assert (ndimage.binary_fill_holes(shape.mask) == shape.mask).all()
        assert (shape.mask == (shape.alpha > 0.5)).mean() > 0.995 and not shape.depth[~shape.mask].any()
    smooth = draw_shape(rng, 96, family, 0.1, (48.0, 48.0), 1.0, 0.0)
    assert abs(smooth.share - 0.1) < 0.002


def test_a_ring_beside_a_second_piece_becomes_one_filled_piece() -> None:
    """Two pieces less one hole is 1, the Euler number of a whole shape."""
    level = np.full((24, 24), -1, dtype=np.float32)
    level[2:15, 2:15] = 1
    level[6:9, 6:9] = -1
    level[18:21, 18:21] = 1
    shape = _finish(level, radius=8.0, softness=1.0)
    expected = np.zeros((24, 24), dtype=bool)
    expected[2:15, 2:15] = True
    assert (shape.mask == expected).all()
    assert (shape.alpha[expected] == 1).all() and not shape.alpha[18:21, 18:21].any()


def test_fields_have_the_scale_they_promise() -> None:
    rng = np.random.default_rng(0)
    for cells in (2.5, 7, 31, 200):
        sheets = np.stack([noise(rng, 64, cells, octaves=2) for _ in range(200)])
        assert sheets.dtype == np.float32 and abs(sheets.mean()) < 0.15
        np.testing.assert_allclose(sheets.std(axis=0).mean(), 1, atol=0.1)
    for _ in range(40):
        field = any_texture(rng, 48)
        assert field.shape == (48, 48) and 0 <= field.min() < field.max() <= 1
    lines = curves(rng, 64, 4, 1.0)
    assert lines.min() >= 0 and 0.9 < lines.max() <= 1


def test_folder_is_read_back_as_made(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "medical", "medical", 12, 48, seed=4)
    images, masks = make("medical", 12, 48, seed=4)
    loaded, skipped = load_image_set([root], "all", 48)
    assert not skipped and loaded.datasets == ["medical"] * 12
    assert (loaded.images == images.transpose(0, 3, 1, 2)).all() and (loaded.masks == masks).all()
    splits = json.loads((root / "splits.json").read_text())
    assert {part: len(names) for part, names in splits.items()} == {"train": 9, "val": 3}
    with Image.open(root / "masks" / "medical_0000.png") as mask:
        assert mask.mode == "L" and set(np.unique(np.asarray(mask))) == {0, 255}
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]


def test_wrong_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mars'.*general, medical"):
        make("mars", 1, 64, 0)
    with pytest.raises(ConfigError, match="size >= 32"):
        make("general", 1, 16, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="synthetic images"):
        write_folder(tmp_path / "file", "general", 1, 32, 0)
    assert make("general", 0, 32, 0)[0].shape == (0, 32, 32, 3)


def test_demo_architecture_fits_its_decoder() -> None:
    assert (DEMO_ARCH.img_size, DEMO_ARCH.head_dim) == (128, 16)
    assert DEMO_ARCH.grid % DEMO_ARCH.window_size == 0 and DEMO_ARCH.low_res == 4 * DEMO_ARCH.grid
    assert DEMO_ARCH.out_chans % (2 * DEMO_ARCH.decoder.num_heads) == 0 and DEMO_ARCH.out_chans % 8 == 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_drawing_is_fast_enough_for_a_demo(domain: str) -> None:
    """About 100 images a second on an idle core; the bound and the best of three leave room for a busy machine."""

    def seconds() -> float:
        start = time.process_time()
        make(domain, 40, 128, seed=0)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 40 / 20
