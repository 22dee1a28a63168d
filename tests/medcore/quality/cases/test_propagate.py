"""Segmentation from slice to slice against one object after the other, with a model and with toys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcore.data.formats.npz_case import Case, read_case, whole_cases
from medcore.data.readers import list_folder
from medcore.errors import CheckpointError, StorageError
from medcore.models.sam import MedSam, PaddedResize, SquareResize, build, predictor
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.cases.propagate import Boxes, next_box, propagate
from medcore.quality.cases.segment import Segmenter
from medcore.quality.cases.shelf import Shelf
from tests.support.helpers import TINY
from tests.support.tiny_vit import LITTLE
from tests.support.toy.arch import Toy
from tests.support.volume_files import balls, challenge_folder

#: A padded square whose logits are smaller than it.
SMALL_LOGITS = replace(LITTLE, img_size=64, stem_stride=2, window_sizes=(3, 3, 4, 4))
SHAPE = (12, 30, 40)
MARGIN = (1.5, 2.0)


def random_boxes(chance: np.random.Generator, count: int) -> Boxes:
    """Boxes with ends in any order of slices; some of a single slice, some that touch the borders."""
    corners = np.sort(chance.integers(0, (40, 30, 12), (2, count, 3)), axis=0)
    return np.concatenate(list(corners), axis=1).astype(np.float64)


class Field:
    """An encoder and a decoder without a network: bright pixels of noise within the box; some slices are black."""

    def __init__(self, chance: np.random.Generator) -> None:
        self.values = chance.random(SHAPE)
        self.values[chance.integers(0, SHAPE[0], 3)] = 0
        self.encoded: Counter[int] = Counter()
        self.decoded: Counter[int] = Counter()

    def encode(self, index: int) -> int:
        self.encoded[index] += 1
        return index

    def decode(self, index: int, boxes: Boxes) -> Iterator[np.ndarray]:
        self.decoded[index] += 1
        for box in boxes:
            yield self.mask(index, box)

    def mask(self, index: int, box: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
        inside = (columns >= box[0]) & (columns <= box[2]) & (rows >= box[1]) & (rows <= box[3])
        return np.asarray(inside & (self.values[index] > 0.8))


def one_by_one(boxes: Boxes, field: Field) -> np.ndarray:
    """Each object on its own: from the middle to the last slice, then from the middle to the first."""
    labels = np.zeros(SHAPE, np.uint16)
    for number, (x0, y0, z0, x1, y1, z1) in enumerate(boxes, start=1):
        own = np.array([x0, y0, x1, y1])
        middle = int(z0 + (z1 - z0) // 2)
        masks = {middle: field.mask(middle, own)}
        ways = [(index, index - 1) for index in range(middle + 1, int(z1) + 1)]
        ways += [(index, index + 1) for index in range(middle - 1, int(z0) - 1, -1)]
        for index, before in ways:
            ys, xs = np.nonzero(masks[before])
            box = own
            if len(ys):
                low = max(0, xs.min() - MARGIN[0]), max(0, ys.min() - MARGIN[1])
                box = np.array([*low, min(40, xs.max() + MARGIN[0]), min(30, ys.max() + MARGIN[1])])
            masks[index] = field.mask(index, box)
        for index, mask in masks.items():
            labels[index][mask] = number
    return labels


@pytest.mark.parametrize("count", [1, 2, 7])
def test_together_objects_get_the_masks_that_each_gets_alone(count: int) -> None:
    chance = np.random.default_rng(count)
    twice = 0
    for _ in range(40):
        boxes, field = random_boxes(chance, count), Field(chance)
        kept: dict[int, int] = {}
        found = propagate(boxes, SHAPE, MARGIN, field.encode, field.decode, kept)
        assert (found == one_by_one(boxes, field)).all() and found.dtype == np.uint16
        needed = {index for box in boxes for index in range(int(box[2]), int(box[5]) + 1)}
        assert field.encoded == Counter(needed) and not kept
        assert set(field.decoded) == needed and max(field.decoded.values()) <= 2
        twice += sum(times == 2 for times in field.decoded.values())
    assert twice > 0 or count == 1


def test_only_slices_between_the_middles_are_kept() -> None:
    class Watched(dict[int, int]):
        most = 0

        def __setitem__(self, index: int, value: int) -> None:
            super().__setitem__(index, value)
            self.most = max(self.most, len(self))

    field, kept = Field(np.random.default_rng(0)), Watched()
    boxes = np.array([[0, 0, 0, 9, 9, 8], [5, 5, 3, 20, 20, 11]], np.float64)  # middles 4 and 7
    propagate(boxes, SHAPE, MARGIN, field.encode, field.decode, kept)
    assert kept.most == 3  # slices 4 to 6


def test_the_next_box_is_the_mask_and_a_margin_within_the_image() -> None:
    mask = np.zeros((20, 30), bool)
    assert next_box(mask, (3, 2)) is None
    mask[5:9, 1:11] = True
    assert next_box(mask, (3, 2)).tolist() == [0, 3, 13, 10]
    mask[:] = True
    assert next_box(mask, (3, 2)).tolist() == [0, 0, 30, 20]


def model_of(arch: Architecture) -> MedSam:
    torch.manual_seed(1)
    return build(ModelSpec.dense(arch))


def case_of(folder: Path, name: str) -> Case:
    listing = list_folder(folder)
    cases, _ = whole_cases(listing, listing.samples)
    return read_case(next(case for case in cases if case.name == name))


def shown_by_the_predictor(sam: Any, case: Case) -> np.ndarray:
    """The same through segment-anything's own predictor, which encodes each slice for each object."""
    labels = np.zeros(case.shape, np.uint16)
    height, width = case.shape[1:]
    margin = 3 / 256 * np.array([max(height, width)] * 2 if sam.model.arch.frame.padded else [width, height])

    def mask_of(index: int, box: np.ndarray) -> np.ndarray:
        sam.set_image(
            np.repeat(case.volume.stored[index][..., None], 3, -1) if not case.flat else case.volume.stored[0]
        )
        return np.asarray(sam.predict(box=box, multimask_output=False)[0][0])

    for number, (x0, y0, z0, x1, y1, z1) in enumerate(case.boxes, start=1):
        middle = int((z0 + z1) // 2)
        begun = mask_of(middle, np.array([x0, y0, x1, y1]))
        labels[middle][begun] = number
        for way in (range(middle + 1, int(z1) + 1), range(middle - 1, int(z0) - 1, -1)):
            last = begun
            for index in way:
                box = np.array([x0, y0, x1, y1])
                if last.any():
                    ys, xs = np.nonzero(last)
                    low, high = np.array([xs.min(), ys.min()]), np.array([xs.max(), ys.max()])
                    box = np.concatenate([np.maximum(low - margin, 0), np.minimum(high + margin, [width, height])])
                last = mask_of(index, box)
                labels[index][last] = number
    return labels


@pytest.mark.parametrize("name", ["3DBox_CT_0000", "3DBox_MR_0002", "2DBox_US_0001"])
@pytest.mark.parametrize("arch", [TINY, Toy(), SMALL_LOGITS], ids=["vit", "toy", "padded TinyViT"])
def test_a_model_encodes_each_slice_once_and_finds_what_the_predictor_finds(
    arch: Architecture, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, case = model_of(arch), case_of(challenge_folder(tmp_path / "s"), name)
    segmenter = Segmenter(model)
    transform = segmenter._transform
    assert isinstance(transform, PaddedResize if arch is SMALL_LOGITS else SquareResize)
    expected = shown_by_the_predictor(predictor(model), case)
    assert 0 < np.mean(expected > 0) < 1
    batches: list[int] = []
    resize = transform.apply_image
    model.image_encoder.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    resized: list[np.ndarray] = []
    monkeypatch.setattr(transform, "apply_image", lambda pixels: resized.append(pixels) or resize(pixels))
    found = segmenter.segment(case)
    # objects are decoded together, which may round a logit near zero to the other side
    assert np.mean(found != expected) < 1e-3
    assert len(resized) == len(batches)
    assert batches == [1] * int(case.boxes[:, 5].max() - case.boxes[:, 2].min() + 1)


def test_more_objects_than_are_decoded_at_once(tmp_path: Path) -> None:
    grey = balls(0)[0]
    cells = np.arange(40 * 52).reshape(40, 52) // 50 % 40
    (tmp_path / "s").mkdir()
    np.savez(tmp_path / "s" / "2DBox_Microscopy_1.npz", imgs=np.repeat(grey[5][..., None], 3, -1), gts=cells)
    model, case = model_of(TINY), case_of(tmp_path / "s", "2DBox_Microscopy_1")
    assert len(case.boxes) == 39 and case.exact
    found = Segmenter(model).segment(case)
    assert np.mean(found != shown_by_the_predictor(predictor(model), case)) < 1e-3


def test_logits_that_are_not_finite_are_no_empty_mask(tmp_path: Path) -> None:
    model = model_of(TINY)
    next(model.mask_decoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        Segmenter(model).segment(case_of(challenge_folder(tmp_path / "s"), "2DBox_US_0001"))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [1 << 20, 100])
def test_a_shelf_returns_every_bit_from_memory_and_from_its_file(kind: torch.dtype, most: int) -> None:
    torch.manual_seed(0)
    given = {index: torch.randn(1, 3, 4, 5).to(kind) for index in (7, 2, 9)}
    with Shelf(torch.device("cpu"), most) as shelf:
        for index, embedding in given.items():
            shelf[index] = embedding
        assert list(shelf) == [7, 2, 9] and len(shelf) == 3
        assert torch.equal(shelf.pop(2), given.pop(2)) and 2 not in shelf
        shelf[3] = given[3] = torch.full((1, 3, 4, 5), -0.0).to(kind)
        assert all(torch.equal(shelf[index], embedding) for index, embedding in given.items())
        assert torch.signbit(shelf[3].float()).all()


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with Shelf(torch.device("cpu"), 10) as shelf, pytest.raises(StorageError, match=r"No space left.*TMPDIR"):
        shelf[0] = torch.zeros(1, 2, 3, 4)
