"""Samples without foreground. An image set leaves them out; evaluation in the model's frame counts them (method §7)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcore.data.formats.intensities import picture
from medcore.data.formats.windows import window_of
from medcore.data.frames.frame import Frame
from medcore.data.imageset import ImageSet
from medcore.data.kept_splits import folder_splits
from medcore.data.labels import AS_THE_FILE_SAYS, MaskRules, objects_of
from medcore.data.reader import Reading, Sample, UnreadableFile
from medcore.data.readers import list_folder


def empty_samples(
    folders: Sequence[Path],
    split: str,
    loaded: ImageSet,
    *,
    save_splits: Path | None = None,
    deal_splits: bool = True,
    rules: MaskRules = AS_THE_FILE_SAYS,
) -> ImageSet | None:
    """Read the samples of a split whose mask has no foreground in the model's square.

    Args:
        folders: Data folders.
        split: Name of the split.
        loaded: What `load_image_set` returned for it.
        save_splits: As for `load_image_set`.
        deal_splits: As for `load_image_set`.
        rules: As for `load_image_set`. A mask whose objects are all too small is empty.

    Returns:
        Samples with masks of zeros and the whole image as box; None if there are none.
    """
    frame, known = (
        Frame(loaded.size, padded=bool(loaded.inner)),
        {(dataset, loaded.source(index)) for index, dataset in enumerate(loaded.datasets)},
    )
    found: list[ImageSet] = []
    for folder in folders:
        listing = list_folder(folder)
        chosen = set(folder_splits(folder, listing.samples, save_splits, deal=deal_splits).names[split])
        for sample in listing.samples:
            if sample.name not in chosen or (sample.dataset, sample.name) in known:
                continue
            try:
                reading = listing.reader.read(sample)
            except UnreadableFile:
                continue
            if (one := _empty(sample, reading, frame, rules)) is not None:
                found.append(one)
    return functools.reduce(joined, found) if found else None


def _empty(sample: Sample, reading: Reading, frame: Frame, rules: MaskRules) -> ImageSet | None:
    """Return the sample if nothing of its mask is foreground in the square; None for any other."""
    labels = reading.labels
    if labels.values.shape != reading.image.size[::-1]:
        return None
    void = objects_of(labels, replace(rules, labels="any", objects="whole")).targets[0].void
    if any((frame.mask(target.mask, void) == 1).any() for target in objects_of(labels, rules).targets):
        return None
    truth = np.zeros(labels.values.shape, np.bool_)
    height, width = frame.inner(*truth.shape)
    return ImageSet(
        images=frame.picture(picture(reading.image, window_of(rules, sample.dataset)))[None],
        masks=frame.mask(truth, void)[None],
        boxes=np.array([[0, 0, width, height]], np.float32),
        truths=[truth],
        datasets=[sample.dataset],
        names=[sample.name],
        voids=[] if void is None else [void],
        inner=[(height, width)] if frame.padded else [],
    )


def joined(one: ImageSet, other: ImageSet) -> ImageSet:
    """Return the samples of two sets of one size."""
    sets = (one, other)
    return ImageSet(
        images=np.concatenate([each.images for each in sets]),
        masks=np.concatenate([each.masks for each in sets]),
        boxes=np.concatenate([each.boxes for each in sets]),
        truths=one.truths + other.truths,
        datasets=one.datasets + other.datasets,
        names=one.names + other.names,
        voids=[each.void(index) for each in sets for index in range(len(each))] if one.voids or other.voids else [],
        spacings=[each.spacing(index) for each in sets for index in range(len(each))]
        if one.spacings or other.spacings
        else [],
        sources=[each.source(index) for each in sets for index in range(len(each))]
        if one.sources or other.sources
        else [],
        inner=one.inner + other.inner,
    )
