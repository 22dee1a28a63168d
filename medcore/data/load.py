"""Data folders to arrays; the place to import data handling from.

`readers` lists folders and reads files, `splits` says which image belongs to which split, `imageset` holds the arrays.
Every file that cannot be used is reported as `Skipped` with its reason.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcore.data.formats.intensities import picture
from medcore.data.formats.windows import window_of
from medcore.data.frames.frame import Frame
from medcore.data.imagefile import box_of, mask_to_square, read_image, read_labels, to_square
from medcore.data.imageset import ImageSet, Indices, jitter_boxes
from medcore.data.labels import AS_THE_FILE_SAYS, MaskRules, UnclearMask, objects_in, warnings_of
from medcore.data.reader import Listing, Reader, Sample, Skipped, UnreadableFile
from medcore.data.readers import list_folder
from medcore.data.selection.samples import nothing_usable, select
from medcore.data.splits import read_splits
from medcore.errors import DataError

logger = logging.getLogger(__name__)

#: How the reason starts if an image and its mask differ in size.
_OTHER_SIZE = "mask of another size than its image"
#: Objects that a message names at most.
_NAMED = 5

__all__ = [
    "ImageSet",
    "Indices",
    "Listing",
    "Sample",
    "Skipped",
    "UnreadableFile",
    "box_of",
    "jitter_boxes",
    "list_folder",
    "load_image_set",
    "mask_to_square",
    "read_image",
    "read_labels",
    "read_splits",
    "to_square",
]


@dataclass(frozen=True)
class Decoded:
    """One sample in the model's frame.

    Attributes:
        sample: The sample's files.
        name: Name of the image; with the object's if the mask is more than one sample.
        image: Uint8 (3, S, S).
        mask: Uint8 (S, S): 0, 1, or `losses.IGNORED` where a pixel counts nowhere.
        truth: Bool (height, width), the mask at original size.
        void: Bool (height, width), pixels that count nowhere; None if there are none.
        spacing: Millimetres a pixel, rows and columns; None if unknown.
    """

    sample: Sample
    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    void: NDArray[np.bool_] | None
    spacing: tuple[float, float] | None


#: The objects of a sample, and what of it was left out.
Outcome = tuple[list[Decoded], list[Skipped]]


def load_image_set(
    folders: Sequence[Path],
    split: str,
    size: int | Frame,
    *,
    per_dataset: int | None = None,
    seed: int = 0,
    save_splits: Path | None = None,
    deal_splits: bool = True,
    rules: MaskRules = AS_THE_FILE_SAYS,
) -> tuple[ImageSet, list[Skipped]]:
    """Read one split of several data folders into memory.

    The images have the order of the folders and, within a folder, the natural order of names.

    Args:
        folders: Data folders; the folder's name is the data set's name.
        split: One of `splits.json`, `val/search`, `val/report` or `all` (see `splits.read_splits`).
        size: The model's frame, or the side of a square that images fill.
        per_dataset: At most so many readable images of each data set, chosen by `seed`; None takes all.
        seed: For this choice only. Splits that the folder's manifest does not have never depend on it, because another
            seed for calibration images must not move an image from the reported half into the searched one.
        save_splits: Folder that keeps such splits (see `medcore.data.kept_splits`). Without it, dealing a split out
            causes a logged warning, because nothing ties it to the split that others have seen.
        rules: Which of a mask's labels are the object, which count nowhere, and what is a sample. `ReadingRules` have
            the windows of scans too.
        deal_splits: False makes a split that is neither in the folder's manifest nor in `save_splits` an error.

    Returns:
        The images, and what was left out: every file of these folders that has no pair or is in no split, and every
        sample of this split that cannot be used.

    Raises:
        DataError: A folder or manifest cannot be used, two folders have the same name, or no image is left.
    """
    selections = select(folders, split, save_splits, deal_splits=deal_splits)
    skipped: list[Skipped] = []
    decoded: list[Decoded] = []
    for each in selections:
        usable, broken = _decode_some(
            each.listing.reader,
            each.samples,
            per_dataset,
            seed,
            decode=partial(decode, frame=Frame.of(size), rules=rules),
        )
        _warn_of_masks(each.dataset, split, usable, broken)
        decoded += usable
        skipped += each.skipped + without_slices(broken, each.listing.samples)
    if not decoded:
        raise nothing_usable("image", split, selections, skipped)
    return _assemble(decoded, Frame.of(size)), skipped


def _decode_some(
    reader: Reader, samples: Sequence[Sample], most: int | None, seed: int, *, decode: Callable[..., Outcome]
) -> tuple[list[Decoded], list[Skipped]]:
    """Decode the samples in threads, because Pillow releases Python's lock.

    Args:
        reader: Reads the samples.
        samples: The samples of one data set.
        most: At most so many readable samples, chosen by `seed`; None takes all.
        seed: For this choice.
        decode: Reads and resizes a sample.

    Returns:
        The readable samples in the order of `samples`, and the others.
    """
    order = list(range(len(samples)))
    if most is not None and samples:
        chance = np.random.default_rng([seed, zlib.crc32(samples[0].dataset.encode())])
        order = chance.permutation(len(samples)).tolist()
    target = len(samples) if most is None else min(most, len(samples))
    usable: dict[int, list[Decoded]] = {}
    broken: list[Skipped] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while order and len(usable) < target:
            need = target - len(usable)
            # in order, because the slices of a volume are read together
            batch, order = sorted(order[:need]), order[need:]
            outcomes = pool.map(lambda index: decode(reader, samples[index]), batch)
            for index, (found, left_out) in zip(batch, outcomes, strict=True):
                broken += left_out
                if found:
                    usable[index] = found
    return [each for index in sorted(usable) for each in usable[index]], broken


def without_slices(broken: Sequence[Skipped], samples: Sequence[Sample]) -> list[Skipped]:
    """Replace entries of slices that share a reason by one entry a reason.

    Most slices of a volume have no object, and a line for each would hide the others.
    """
    volumes = {file: sample.volume for sample in samples if sample.volume for file in (sample.image, sample.mask)}
    shared: dict[str, list[Skipped]] = {}
    for entry in broken:
        if entry.path in volumes:
            shared.setdefault(entry.reason, []).append(entry)
    kept = [entry for entry in broken if entry.path not in volumes or len(shared[entry.reason]) == 1]
    for reason, entries in shared.items():
        if len(entries) > 1:
            count = len({volumes[entry.path] for entry in entries})
            words = f"{reason}: {len(entries)} slices of {count} volume{'s' * (count > 1)}, the first of them here"
            kept.append(Skipped(entries[0].dataset, entries[0].path, words))
    return kept


def decode(reader: Reader, sample: Sample, *, frame: Frame, rules: MaskRules) -> Outcome:
    """Read a sample and resize it; return its objects, and why it or some of them cannot be used.

    Raises:
        DataError: The mask is a label map without rules.
    """

    def skip(path: Path, reason: str) -> Skipped:
        return Skipped(sample.dataset, path, reason)

    try:
        reading = reader.read(sample)
    except UnreadableFile as error:
        return [], [skip(error.path, error.reason)]
    labels = reading.labels
    height, width = labels.values.shape
    if (width, height) != reading.image.size:
        sizes = "{}x{} for an image of {}x{}".format(width, height, *reading.image.size)
        return [], [skip(sample.mask, f"{_OTHER_SIZE}: {sizes}")]
    try:
        targets, small = objects_in(reading, rules)
    except UnclearMask as error:
        raise DataError(f"{sample.mask}: {error}") from None
    left_out = [skip(sample.mask, f"{_some(small)} of fewer than {rules.smallest} pixels left out")] if small else []
    if not any(target.mask.any() for target in targets):
        return [], left_out or [skip(sample.mask, "mask without foreground")]
    image, decoded, vanished = frame.picture(picture(reading.image, window_of(rules, sample.dataset))), [], []
    for target in targets:
        mask = frame.mask(target.mask, target.void)
        if (mask == 1).any():
            name = f"{sample.name}{target.suffix}"
            decoded.append(Decoded(sample, name, image, mask, target.mask, target.void, reading.spacing))
        else:
            vanished.append(target.suffix)
    if vanished:
        what = "foreground vanishes" if rules.objects == "whole" else f"{_some(vanished)} vanish"
        left_out.append(skip(sample.mask, f"{what} at {frame.side} pixels"))
    return decoded, left_out


def _some(objects: Sequence[str]) -> str:
    more = ", ..." if len(objects) > _NAMED else ""
    return f"{len(objects)} objects ({', '.join(objects[:_NAMED])}{more})"


def _warn_of_masks(dataset: str, split: str, usable: Sequence[Decoded], broken: Sequence[Skipped]) -> None:
    """Log what is suspicious about the masks of a data set."""
    of_other_size = sum(entry.reason.startswith(_OTHER_SIZE) for entry in broken)
    for warning in warnings_of([item.truth for item in usable], of_other_size):
        logger.warning("data set '%s', split '%s': %s", dataset, split, warning)


def _assemble(decoded: list[Decoded], frame: Frame) -> ImageSet:
    """Move the samples into contiguous arrays.

    The list is emptied on the way, so that images are held once.
    """
    count, size = len(decoded), frame.side
    samples = [item.sample for item in decoded]
    truths, voids = [item.truth for item in decoded], [item.void for item in decoded]
    names, spacings = [item.name for item in decoded], [item.spacing for item in decoded]
    sources = [sample.name for sample in samples]
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    masks = np.empty((count, size, size), dtype=np.uint8)
    for index in reversed(range(count)):
        item = decoded.pop()
        images[index], masks[index] = item.image, item.mask
    return ImageSet(
        images=images,
        masks=masks,
        boxes=np.stack([box_of(mask == 1) for mask in masks]),
        truths=truths,
        datasets=[sample.dataset for sample in samples],
        names=names,
        voids=voids if any(void is not None for void in voids) else [],
        spacings=spacings if any(spacing is not None for spacing in spacings) else [],
        sources=sources if sources != names else [],
        inner=[frame.inner(*truth.shape) for truth in truths] if frame.padded else [],
    )
