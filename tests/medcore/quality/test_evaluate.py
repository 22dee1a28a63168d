"""Evaluation: masks at original size, batches, means, and what must not pass in silence."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, evaluate_logits, masks_of, predict_masks, summarise
from medcore.quality.metrics import all_metrics
from tests.support.helpers import TINY

SIZES = [(40, 64), (91, 33), (64, 64), (10, 12), (128, 100)]


def image_set(seed: int = 0) -> ImageSet:
    """Five random images of 64 px with masks of other sizes; arrays are read-only, as under shared memory."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (len(SIZES), 3, 64, 64), dtype=np.uint8)
    masks = np.zeros((len(SIZES), 64, 64), dtype=np.uint8)
    boxes, truths = np.empty((len(SIZES), 4), np.float32), []
    for i, (height, width) in enumerate(SIZES):
        top, left, bottom, right = 10 + i, 5 + i, 40 + i, 50 - i
        masks[i, top : bottom + 1, left : right + 1] = 1
        boxes[i] = left, top, right, bottom
        truth = np.zeros((height, width), dtype=bool)
        truth[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
        truths.append(truth)
    for array in (images, masks, boxes, *truths):
        array.flags.writeable = False
    names = [f"image{i}" for i in range(len(SIZES))]
    return ImageSet(images, masks, boxes, truths, ["a", "a", "b", "a", "b"], names)


class BoxModel(nn.Module):
    """Stands in for a model: low-resolution logits that rise from −1 to 1 over the left edge of the box."""

    def __init__(self, low: int = 16, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.low, self.value, self.batches = low, value, []

    def segment(self, images: Tensor, boxes: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.batches.append(len(images))
        edge = boxes[:, :1] * self.low / images.shape[-1]
        line = (torch.arange(self.low) + 0.5 - edge).clamp(-1, 1) * self.value
        return line[:, None, None, :].expand(-1, 1, self.low, -1) * self.weight


def scalar_bilinear(line: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres (align_corners=False), written with np.interp, which clamps at both ends."""
    return np.interp((np.arange(size) + 0.5) * len(line) / size - 0.5, np.arange(len(line)), line)


def test_masks_come_at_original_size() -> None:
    images = image_set()
    masks = predict_masks(BoxModel(), images, [3, 0, 4])
    for mask, index in zip(masks, [3, 0, 4], strict=True):
        height, width = SIZES[index]
        line = np.clip(np.arange(16) + 0.5 - images.boxes[index, 0] / 4, -1, 1)
        expected = np.broadcast_to(scalar_bilinear(line, width) > 0, (height, width))
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    assert predict_masks(BoxModel(), images, []) == []
    assert [mask.shape for mask in predict_masks(BoxModel(), images, None)] == SIZES


def test_rows_follow_the_set_and_batches_change_nothing() -> None:
    images = image_set()
    model = BoxModel()
    rows = evaluate(model, images, batch_size=2)
    assert model.batches == [2, 2, 1]
    masks = predict_masks(model, images, None)
    for row, dataset, name, mask, truth in zip(rows, images.datasets, images.names, masks, images.truths, strict=True):
        assert row == {"dataset": dataset, "name": name, **all_metrics(mask, truth)}
    assert evaluate(model, images, batch_size=5) == rows


@pytest.mark.parametrize("autocast", [False, True])
def test_a_real_model(autocast: bool) -> None:
    torch.manual_seed(0)
    model, images = build(ModelSpec.dense(TINY)), image_set()
    rows = evaluate(model, images, batch_size=3, autocast=autocast)
    assert [row["name"] for row in rows] == images.names
    assert all(np.isfinite(value) for value in summarise(rows).values())
    assert all(not parameter.is_inference() for parameter in model.parameters())


def test_summary_on_paper() -> None:
    rows = [
        {"dataset": "b", "name": "1", "dice": 0.2, "hd95": 10.0},
        {"dataset": "a", "name": "2", "dice": 0.5, "hd95": 2.0},
        {"dataset": "a", "name": "3", "dice": 0.9, "hd95": 4.0},
    ]
    assert summarise(rows) == pytest.approx(
        {
            "dice": 0.45,
            "dice_images": 1.6 / 3,
            "dice_worst": 0.2,
            "dice/a": 0.7,
            "dice/b": 0.2,
            "hd95": 6.5,
            "hd95_images": 16 / 3,
            "hd95_worst": 10.0,
            "hd95/a": 3.0,
            "hd95/b": 10.0,
        }
    )


def test_worst_knows_each_direction() -> None:
    rows = evaluate(BoxModel(), image_set())
    summary = summarise(rows)
    for metric in ("dice", "iou", "boundary_f1", "nsd"):
        assert summary[f"{metric}_worst"] == min(summary[f"{metric}/a"], summary[f"{metric}/b"])
    for metric in ("hd95", "assd"):
        assert summary[f"{metric}_worst"] == max(summary[f"{metric}/a"], summary[f"{metric}/b"])


def test_no_rows_is_an_error() -> None:
    with pytest.raises(MedcoreError, match="no image was evaluated"):
        summarise([])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(MedcoreError, match="a/image0 are not finite"):
        evaluate(BoxModel(value=value), image_set())


def test_a_model_that_predicts_nothing_is_finite_and_bad() -> None:
    rows = evaluate(BoxModel(value=0.0), image_set())
    assert [row["hd95"] for row in rows] == [max(size) for size in SIZES]
    assert all(row["dice"] == row["nsd"] == row["boundary_f1"] == 0 for row in rows)


def test_metrics_in_millimetres_need_the_spacing_of_every_image() -> None:
    """A mean over some of the images would stand next to means over all."""
    images, logits = image_set(), np.random.default_rng(0).standard_normal((5, 16, 16)).astype(np.float32)
    spacings = [(0.5, 2.0), (1.0, 1.0), (0.3, 0.3), (4.0, 1.0), (1.0, 2.0)]
    spaced = dataclasses.replace(images, spacings=spacings)
    plain, rows = evaluate_logits(logits, images), evaluate_logits(logits, spaced)
    masks = masks_of(torch.from_numpy(logits), images, np.arange(5))
    for mask, truth, spacing, row, before in zip(masks, images.truths, spacings, rows, plain, strict=True):
        assert {key: row[key] for key in ("dataset", "name")} | all_metrics(mask, truth, spacing) == row
        assert {key: row[key] for key in before} == before and len(row) == len(before) + 3
    assert summarise(rows)["hd95_mm_worst"] == max(summarise(rows)[f"hd95_mm/{dataset}"] for dataset in "ab")
    mixed = dataclasses.replace(images, spacings=[*spacings[:4], None])
    assert not mixed.is_spaced and evaluate_logits(logits, mixed) == plain
    assert mixed.subset([0, 1]).is_spaced and images.largest_sides == (128, 0.0)
    assert spaced.largest_sides == (128, 200.0)
