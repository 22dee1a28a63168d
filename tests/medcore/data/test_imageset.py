"""Arrays of an image set, what is derived from them, and moved boxes."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from medcore.data.imagefile import box_of
from medcore.data.imageset import ImageSet, jitter_boxes


def _random_set(count: int, size: int) -> ImageSet:
    rng = np.random.default_rng(count)
    masks = (rng.random((count, size, size)) < 0.5).astype(np.uint8)
    return ImageSet(
        rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
        masks,
        np.stack([box_of(m) for m in masks]),
        [m > 0 for m in masks],
        ["one" if i % 2 else "two" for i in range(count)],
        [f"n{i}" for i in range(count)],
    )


def test_image_set_works_on_read_only_memory() -> None:
    images = _random_set(6, 16)
    for array in (images.images, images.masks, images.boxes):
        array.flags.writeable = False
    part = images.subset([4, 1])
    assert part.names == ["n4", "n1"] and part.datasets == ["two", "one"] and len(part) == 2
    assert part.size == 16
    order = torch.tensor([5, 0, 0])
    assert torch.equal(images.tensor(order), images.tensor()[order])
    assert images.mask_tensor([2]).shape == (1, 1, 16, 16) and images.box_tensor().shape == (6, 4)
    images.tensor([0]).zero_()
    assert images.images[0].any() and images.tensor([]).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="do not fit"):
        ImageSet(images.images, images.masks[:, :8], images.boxes, images.truths, images.datasets, images.names)


def test_constant_image_becomes_zeros() -> None:
    images = _random_set(1, 8)
    images.images[:] = 77
    assert not images.tensor().any()


def test_low_masks_are_area_averages() -> None:
    images = _random_set(5, 16)
    blocks = images.masks.reshape(5, 8, 2, 8, 2).mean(axis=(2, 4))
    low = images.low_masks(8)
    assert low.dtype == np.float32 and (low == (blocks >= 0.5)).all()
    assert images.low_mask_tensor(8, [3, 1]).shape == (2, 1, 8, 8)
    assert images.low_masks(7).shape == (5, 7, 7)
    alone = _random_set(5, 16)
    assert (alone.low_masks(8, [3, 1, 3]) == low[[3, 1, 3]]).all() and (alone.low_masks(8) == low).all()
    assert alone.low_masks(8, []).shape == (0, 8, 8)
    low[:] = 7  # a copy: what the set keeps stays
    assert images.low_masks(8).max() == 1


def test_image_set_travels_with_what_is_derived_from_it() -> None:
    images = _random_set(6, 16)
    low, complexity = images.low_masks(8, [0, 4]), images.complexity
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(images, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not again.masks.flags.writeable
    assert (again.low_masks(8)[[0, 4]] == low).all() and again.low_masks(8)[1].any()
    assert (again.complexity == complexity).all() and again.fingerprint() == images.fingerprint()


def test_fingerprint_sees_every_change_and_only_changes() -> None:
    images = _random_set(4, 16)
    prints = {images.fingerprint()}
    copies = [dataclasses.replace(images), images.subset(range(4))]
    copies.append(dataclasses.replace(images, images=np.asfortranarray(images.images)))
    assert {copy.fingerprint() for copy in copies} == prints
    for field in ("images", "masks", "boxes"):
        changed = getattr(images, field).copy()
        changed[2] = changed[2, ::-1]
        prints.add(dataclasses.replace(images, **{field: changed}).fingerprint())
    prints.add(dataclasses.replace(images, names=["n0", "n1", "n2", "x"]).fingerprint())
    prints.add(dataclasses.replace(images, datasets=["one"] * 4).fingerprint())
    prints |= {images.subset(chosen).fingerprint() for chosen in ([], [0, 1, 2], [1, 0, 2, 3])}
    assert len(prints) == 9


def test_jitter_stays_in_bounds_and_in_order() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 64, (500, 2))
    boxes = np.concatenate([first, np.minimum(first + rng.integers(0, 40, (500, 2)), 63)], axis=1)
    boxes = boxes.astype(np.float32)
    moved = jitter_boxes(boxes, np.random.default_rng(1), 0.2, size=64)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    assert moved.dtype == np.float32 and (moved[:, 2:] >= moved[:, :2]).all()
    assert moved.min() >= 0 and moved.max() <= 63 and (np.abs(moved - boxes) <= 0.2 * sides + 1e-4).all()
    assert (moved == jitter_boxes(boxes, np.random.default_rng(1), 0.2, size=64)).all()
    assert (jitter_boxes(boxes, np.random.default_rng(1), 0, size=64) == boxes).all()
    with pytest.raises(ValueError, match="share"):
        jitter_boxes(boxes, rng, 64, size=64)
