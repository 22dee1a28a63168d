"""Images that keep their proportions in a padded square, from the file to the mask at original size."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from medcore.data.empty_masks import empty_samples, joined
from medcore.data.frames.frame import Frame, by_area
from medcore.data.frames.transforms import PaddedResize
from medcore.data.imageset import ImageSet
from medcore.data.load import load_image_set
from medcore.data.low_masks import NearestImageSet
from medcore.losses import IGNORED
from medcore.models.sam import predictor
from medcore.quality.evaluate import evaluate, masks_of
from medcore.quality.metrics import all_metrics
from medcore.quality.model_frame import WideBoxes, in_model_frame
from medcore.training.flips import flipped, flipped_boxes
from tests.support.image_files import blob, image_folder, noise
from tests.support.tiny_vit import LITTLE, little_model

PADDED = Frame(32, padded=True)


def area_mean(pixels: np.ndarray, top: float, left: float, bottom: float, right: float) -> float:
    """Mean of one channel over a rectangle, pixel by pixel with its share in it."""
    total = 0.0
    for row in range(int(top), int(np.ceil(bottom))):
        for column in range(int(left), int(np.ceil(right))):
            down = min(bottom, row + 1) - max(top, row)
            across = min(right, column + 1) - max(left, column)
            total += float(pixels[row, column]) * max(down, 0) * max(across, 0)
    return total / ((bottom - top) * (right - left))


@pytest.mark.parametrize("size", [(7, 9), (20, 13), (10, 40), (33, 50)])
def test_a_new_pixel_is_the_mean_of_its_area(size: tuple[int, int]) -> None:
    pixels = noise(3, height=20, width=26)
    found = by_area(pixels, size)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    high, wide = 20 / size[0], 26 / size[1]
    for row in range(size[0]):
        for column in range(size[1]):
            for channel in range(3):
                mean = area_mean(pixels[..., channel], row * high, column * wide, (row + 1) * high, (column + 1) * wide)
                assert abs(found[row, column, channel] - mean) <= 0.5 + 1e-3
    np.testing.assert_array_equal(by_area(pixels, (20, 26)), pixels)
    np.testing.assert_array_equal(by_area(pixels, (10, 13)), np.rint(pixels.reshape(10, 2, 13, 2, 3).mean(axis=(1, 3))))


@pytest.mark.parametrize("size", [(101, 67), (300, 450), (1, 1), (16, 17)])
def test_bands_of_lines_give_what_whole_matrices_give(size: tuple[int, int]) -> None:
    pixels = noise(4, height=203, width=333)

    def shares(old: int, new: int) -> np.ndarray:
        edges = np.arange(new + 1) * (old / new)
        starts, ends = edges[:-1, None], edges[1:, None]
        return np.clip(np.minimum(ends, np.arange(1, old + 1)) - np.maximum(starts, np.arange(old)), 0, 1) * new / old

    expected = np.einsum("yh,hwc,xw->yxc", shares(203, size[0]), pixels, shares(333, size[1]), optimize=True)
    found = by_area(pixels, size)
    assert found.shape == (*size, 3) and np.abs(found - expected).max() <= 0.5 + 1e-4


def test_a_large_picture_needs_no_matrix_of_its_sides() -> None:
    """Shares of all 20000 rows in all 4000 new ones alone would take 320 MB."""
    pixels = np.full((20000, 2, 3), 7, np.uint8)
    tracemalloc.start()
    found = by_area(pixels, (4000, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 7).all() and peak < 10e6


def test_the_longest_side_becomes_the_squares() -> None:
    assert Frame(256, padded=True).inner(480, 640) == (192, 256)
    assert Frame(256, padded=True).inner(529, 622) == (int(529 * 256 / 622 + 0.5), 256) == (218, 256)
    assert Frame(256, padded=True).inner(1000, 1) == (256, 1) and Frame(256, padded=True).inner(3, 2) == (256, 171)
    assert Frame(256).inner(480, 640) == (256, 256)
    assert Frame.of(64) == Frame(64) and Frame.of(PADDED) is PADDED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of 40 × 30 pixels and one of 20 × 60, all with the same kind of object."""
    place = image_folder(tmp_path_factory.mktemp("frames") / "set", ["a", "b", "c"])
    Image.fromarray(noise(9, height=20, width=60) // 2 + 60).save(place / "images" / "d.png")
    Image.fromarray(blob(height=20, width=60)).save(place / "masks" / "d.png")
    return place


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return load_image_set([folder], "all", PADDED)[0]


def test_images_masks_and_boxes_in_the_square(images: ImageSet, folder: Path) -> None:
    assert images.inner == [(32, 24)] * 3 + [(11, 32)] and images.size == 32
    for index, name in enumerate(images.names):
        height, width = images.inner[index]
        pixels = np.asarray(Image.open(folder / "images" / f"{name}.png"))
        inside = by_area(pixels, (height, width)).transpose(2, 0, 1)
        np.testing.assert_array_equal(images.images[index, :, :height, :width], inside)
        mask = Image.open(folder / "masks" / f"{name}.png").resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(images.masks[index, :height, :width], np.asarray(mask) > 0)
        outside = np.ones((32, 32), bool)
        outside[:height, :width] = False
        assert not images.images[index, :, outside].any() and (images.masks[index, outside] == IGNORED).all()
        rows, columns = np.nonzero(np.asarray(mask))
        assert images.boxes[index].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        scaled = images.tensor([index])[0].numpy()
        expected = (inside.astype(np.float32) - inside.min()) / (int(inside.max()) - int(inside.min()))
        np.testing.assert_allclose(scaled[:, :height, :width], expected, atol=1e-6)
        assert not scaled[:, outside].any()


def test_sets_keep_their_sizes(images: ImageSet, folder: Path) -> None:
    for part in (images.subset([3, 0]), pickle.loads(pickle.dumps(images)).subset([3, 0])):
        assert part.inner == [(11, 32), (32, 24)]
        assert torch.equal(part.tensor(), images.tensor([3, 0]))
    assert joined(images, images.subset([3])).inner == [*images.inner, (11, 32)]
    filled = replace(copy.copy(images), inner=[])
    assert filled.fingerprint() != images.fingerprint() and filled.inner_size(3) == (32, 32)
    with pytest.raises(ValueError, match="inner sizes"):
        replace(images, inner=images.inner[:2])
    low = NearestImageSet.of(images).low_masks(16, [3])[0]
    # the image has 5 of the 16 rows there
    assert (low[5:] == IGNORED).all() and set(np.unique(low[:5])) == {0, 1}


def test_a_sample_without_object_has_its_image_as_box(folder: Path, tmp_path: Path) -> None:
    place = image_folder(tmp_path / "other", ["a", "b"])
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(place / "masks" / "b.png")
    loaded = load_image_set([place], "all", PADDED)[0]
    empty = empty_samples([place], "all", loaded)
    assert empty is not None and empty.inner == [(32, 24)] and empty.boxes.tolist() == [[0, 0, 24, 32]]


@pytest.mark.parametrize("low", [32, 16])
def test_masks_at_original_size_are_of_the_image_alone(images: ImageSet, low: int) -> None:
    """Fields by hand: positive in the padding alone, negative there alone, and positive in the image's left half."""
    for index in (3, 1):
        height, width = (-(-pixels * low // 32) for pixels in images.inner[index])
        inside = torch.zeros(low, low, dtype=torch.bool)
        inside[:height, :width] = True
        left = torch.arange(low) < images.inner[index][1] * low // 64
        fields = torch.stack([~inside, inside, left.expand(low, low)]).float() * 2 - 1
        nothing, everything, half = masks_of(fields, images, np.array([index] * 3))
        rows, columns = images.truths[index].shape
        assert nothing.shape == (rows, columns) and not nothing.any() and everything.all()
        np.testing.assert_array_equal(half, np.tile(np.arange(columns) < columns // 2, (rows, 1)))


def test_an_image_without_padding_passes_the_square_too(images: ImageSet) -> None:
    """A square image in a padded frame takes both steps of (1.3), and one in a frame that images fill takes one."""
    logits = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(4))
    truths = [np.ones((45, 45), bool)] * len(images)
    square = replace(images, truths=truths, inner=[(32, 32)] * len(images))
    full = F.interpolate(logits[None], (32, 32), mode="bilinear", align_corners=False)
    for some, field in ((square, full), (replace(square, inner=[]), logits[None])):
        expected = F.interpolate(field, (45, 45), mode="bilinear", align_corners=False)[0, 0] > 0
        np.testing.assert_array_equal(masks_of(logits, some, np.array([0]))[0], expected.numpy())


def test_the_models_frame_is_the_image_within_the_square(images: ImageSet) -> None:
    framed = in_model_frame(images, images.names, WideBoxes(0))
    assert [truth.shape for truth in framed.truths] == images.inner
    for index, truth in enumerate(framed.truths):
        height, width = images.inner[index]
        np.testing.assert_array_equal(truth, images.masks[index, :height, :width] == 1)
    model = little_model()
    with torch.no_grad():
        # one logit a pixel of the square
        found = model.segment(framed.tensor(), framed.box_tensor())[:, 0].numpy() > 0
    rows = evaluate(model, framed)
    for index, (row, (height, width)) in enumerate(zip(rows, framed.inner, strict=True)):
        mask = found[index, :height, :width]
        assert 0 < mask.mean() < 1 and found[index].sum() > mask.sum()
        labels = {"dataset": framed.datasets[index], "name": framed.names[index]}
        assert row == labels | all_metrics(mask, images.masks[index, :height, :width] == 1)


def test_the_interactive_predictor_sees_the_same(images: ImageSet, folder: Path) -> None:
    model = little_model(5)
    interactive = predictor(model)
    assert isinstance(interactive.transform, PaddedResize)
    pixels = np.asarray(Image.open(folder / "images" / "d.png"))
    interactive.set_image(pixels)
    box = np.array([6.0, 3.0, 50.0, 17.0])
    masks, _, low = interactive.predict(box=box, multimask_output=False)
    with torch.no_grad():
        logits = model.segment(images.tensor([3]), torch.from_numpy(box).float()[None] * 32 / 60)
    np.testing.assert_allclose(low, logits[0].numpy(), atol=1e-4)
    assert masks.shape == (1, 20, 60) and LITTLE.low_res == 32
    np.testing.assert_array_equal(masks[0], masks_of(logits[:, 0], images, np.array([3]))[0])
    with torch.no_grad():
        scaled = interactive.transform.apply_image_torch(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float())
        assert scaled.shape == (1, 3, 11, 32)
    points = torch.tensor([[60.0, 20.0]])
    np.testing.assert_allclose(interactive.transform.apply_coords_torch(points, (20, 60)), [[32.0, 32 * 20 / 60]])
    np.testing.assert_allclose(interactive.transform.apply_boxes(box, (20, 60)), [box * 32 / 60])


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_image_stays_where_it_is(images: ImageSet, axis: int) -> None:
    chosen, lengths = np.array([True, False, False, True]), np.array([each[axis - 2] for each in images.inner])
    pictures, masks = (flipped(part, chosen, axis, lengths) for part in (images.tensor(), images.mask_tensor()))
    boxes = flipped_boxes(images.box_tensor(), chosen, axis, lengths)
    for index, (height, width) in enumerate(images.inner):
        inside = (slice(None), slice(height), slice(width))
        expected = images.mask_tensor([index])[0][inside]
        expected = expected.flip(axis - 1) if chosen[index] else expected
        assert torch.equal(masks[index][inside], expected)
        assert (masks[index] == IGNORED).sum() == 32 * 32 - height * width
        assert pictures[index][inside].sum() == pytest.approx(float(pictures[index].sum()), rel=1e-5)
        rows, columns = np.nonzero(expected[0].numpy())
        assert boxes[index].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
