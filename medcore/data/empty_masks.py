"""Samples without foreground. An image set leaves them out; evaluation in the model's frame counts them (method §7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medcore.data.imagefile import mask_to_square, to_square
from medcore.data.imageset import ImageSet
from medcore.data.reader import UnreadableFile
from medcore.data.readers import list_folder
from medcore.data.splits import read_splits, saved_file


def empty_samples(
    folders: Sequence[Path], split: str, loaded: ImageSet, *, save_splits: Path | None = None, deal_splits: bool = True
) -> ImageSet | None:
    """Read the samples of a split whose mask has no foreground in the model's square.

    Args:
        folders: Data folders.
        split: Name of the split.
        loaded: What `load_image_set` returned for it.
        save_splits: As for `load_image_set`.
        deal_splits: As for `load_image_set`.

    Returns:
        Samples with masks of zeros and the whole square as box; None if there are none.
    """
    size, known = loaded.size, set(zip(loaded.datasets, loaded.names, strict=True))
    images, truths, datasets, names = [], [], [], []
    for folder in folders:
        listing = list_folder(folder)
        keep = None if save_splits is None else saved_file(folder, save_splits)
        samples = [sample.name for sample in listing.samples]
        chosen = set(read_splits(folder, samples, save_to=keep, deal=deal_splits).names[split])
        for sample in listing.samples:
            if sample.name not in chosen or (sample.dataset, sample.name) in known:
                continue
            try:
                picture, truth = listing.reader.read(sample)
            except UnreadableFile:
                continue
            if truth.shape == (picture.height, picture.width) and not mask_to_square(truth, size).any():
                images.append(to_square(picture, size))
                truths.append(truth)
                datasets.append(sample.dataset)
                names.append(sample.name)
    if not images:
        return None
    count = len(images)
    return ImageSet(
        images=np.stack(images),
        masks=np.zeros((count, size, size), np.uint8),
        boxes=np.tile(np.array([0, 0, size, size], np.float32), (count, 1)),
        truths=truths,
        datasets=datasets,
        names=names,
    )


def joined(one: ImageSet, other: ImageSet) -> ImageSet:
    """Return the samples of two sets of one size."""
    return ImageSet(
        images=np.concatenate([one.images, other.images]),
        masks=np.concatenate([one.masks, other.masks]),
        boxes=np.concatenate([one.boxes, other.boxes]),
        truths=one.truths + other.truths,
        datasets=one.datasets + other.datasets,
        names=one.names + other.names,
    )
