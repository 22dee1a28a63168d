"""Evaluation in the model's square: boxes as the released code draws them, metrics by NumPy and SciPy."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.quality.evaluate import evaluate
from medcore.quality.model_frame import WideBoxes, in_model_frame
from tests.support.helpers import TINY
from tests.support.training_samples import random_images, tiny_model

SIDE = TINY.img_size


def expected_box(box: list[float], seed: int, file: str, widen: int) -> list[float]:
    """x0, x1, y0 and y1 draw one after another from Python's generator, seeded by eight bytes of a hash."""
    generator = random.Random(int(hashlib.sha256(f"{seed}:{file}".encode()).hexdigest()[:16], 16))
    x0 = max(0, box[0] - generator.randint(0, widen))
    x1 = min(SIDE, box[2] + generator.randint(0, widen))
    y0 = max(0, box[1] - generator.randint(0, widen))
    y1 = min(SIDE, box[3] + generator.randint(0, widen))
    return [x0, y0, x1, y1]


def hd95_by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    if not one.any() or not other.any():
        return 0.0 if one.any() == other.any() else float(SIDE)
    edges = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3))) for mask in (one, other)]
    gaps = [ndimage.distance_transform_edt(~edge) for edge in edges]
    return max(float(np.percentile(gaps[1][edges[0]], 95)), float(np.percentile(gaps[0][edges[1]], 95)))


def test_boxes_move_outward_by_whole_pixels_that_file_and_seed_decide() -> None:
    images = random_images(30)
    files = [f"picture {number}.png" for number in range(30)]
    wide = WideBoxes(5, 42).of(images.boxes, files, SIDE)
    for box, file, found in zip(images.boxes.tolist(), files, wide.tolist(), strict=True):
        assert found == expected_box(box, 42, file, 5)
    moves = np.abs(wide - images.boxes)
    assert moves.max() == 5 and moves.min() == 0
    assert (WideBoxes(5, 1).of(images.boxes, files, SIDE) != wide).any()
    np.testing.assert_array_equal(WideBoxes(0).of(images.boxes, files, SIDE), images.boxes)
    # the order of the images does not matter
    np.testing.assert_array_equal(WideBoxes(5, 42).of(images.boxes[::-1], files[::-1], SIDE), wide[::-1])


def test_a_box_at_the_frame_stays_inside() -> None:
    boxes = np.array([[0, 0, SIDE, SIDE], [1, 1, SIDE - 1, SIDE - 1]], np.float32)
    wide = WideBoxes(5).of(boxes, ["a.png", "b.png"], SIDE)
    assert wide[0].tolist() == [0, 0, SIDE, SIDE] and wide.min() >= 0 and wide.max() <= SIDE


def test_names_that_are_no_utf8_draw_boxes_too() -> None:
    boxes = np.array([[9, 9, 20, 20]], np.float32)
    assert WideBoxes().of(boxes, ["bild-\udce4.png"], SIDE).shape == (1, 4)


@pytest.mark.parametrize("wrong", [(-1, 0), (5, -1)])
def test_negative_numbers_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(MedcoreError, match="at least 0"):
        WideBoxes(*wrong)


def test_masks_are_compared_in_the_models_square() -> None:
    model, images = tiny_model(), random_images(4)
    # the truths at original size are other masks, which must not count here
    images = replace(images, truths=[np.ones((7, 9), bool)] * 4)
    files = [f"{name}.png" for name in images.names]
    framed = in_model_frame(images, files, WideBoxes(5, 3))
    rows = evaluate(model, framed)
    boxes = np.array(
        [expected_box(box, 3, file, 5) for box, file in zip(images.boxes.tolist(), files, strict=True)], np.float32
    )
    with torch.no_grad():
        low = model.segment(images.tensor(), torch.from_numpy(boxes))
    predicted = (F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0] > 0).numpy()
    for row, mask, truth in zip(rows, predicted, images.masks.astype(bool), strict=True):
        assert row["dice"] == pytest.approx(2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1))
        assert row["hd95"] == pytest.approx(hd95_by_scipy(mask, truth))


def test_the_set_itself_stays_as_it_is() -> None:
    images = random_images(2)
    before = images.boxes.copy()
    in_model_frame(images, ["a", "b"], WideBoxes())
    np.testing.assert_array_equal(images.boxes, before)
    assert images.truths[0].shape == (SIDE, SIDE)


def test_pixels_that_count_nowhere_do_not_count_in_the_square() -> None:
    model, images = tiny_model(), random_images(2)
    masks = images.masks.copy()
    masks[:, :, :20] = 255
    framed = in_model_frame(replace(images, masks=masks, voids=[None, None]), ["a", "b"], WideBoxes())
    assert framed.voids[0] is not None and framed.voids[0][:, :20].all() and not framed.truths[0][:, :20].any()
    changed = images.masks.copy()
    changed[:, :, :20] = 0
    plain = in_model_frame(replace(images, masks=changed), ["a", "b"], WideBoxes())
    void = [np.broadcast_to(np.arange(SIDE) < 20, (SIDE, SIDE))] * 2
    assert evaluate(model, framed) == evaluate(model, replace(plain, voids=void))
