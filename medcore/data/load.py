"""Image folders to arrays; the place to import data handling from.

Folders are listed by `folders`, files read by `imagefile`, parts come from `splits`, arrays in `imageset`.
Nothing is dropped in silence: what cannot be used is listed as `Skipped` with its reason.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcore.data.folders import Listing, Sample, Skipped, list_folder
from medcore.data.imagefile import UNREADABLE, box_of, mask_to_square, read_image, read_mask, to_square
from medcore.data.imageset import ImageSet, Indices, jitter_boxes
from medcore.data.splits import Splits, natural_key, read_splits, saved_file
from medcore.errors import MedcoreError

logger = logging.getLogger(__name__)

__all__ = [
    "ImageSet",
    "Indices",
    "Listing",
    "Sample",
    "Skipped",
    "box_of",
    "jitter_boxes",
    "list_folder",
    "load_image_set",
    "mask_to_square",
    "read_image",
    "read_mask",
    "read_splits",
    "to_square",
]


@dataclass(frozen=True)
class _Decoded:
    """One sample in the model's frame (uint8 (3, S, S) and (S, S)) and its mask at original size (bool)."""

    sample: Sample
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: NDArray[np.bool_]


def load_image_set(
    folders: Sequence[Path],
    split: str,
    size: int,
    *,
    per_dataset: int | None = None,
    seed: int = 0,
    split_seed: int = 0,
    save_splits: Path | None = None,
    deal_splits: bool = True,
) -> tuple[ImageSet, list[Skipped]]:
    """Reads one part of several data folders into memory, in the order of the folders and of natural names.

    Args:
        folders: data folders; the folder's name is the data set's name.
        split: part to read: one of `splits.json`, `val/search`, `val/report`, `all` (`splits.read_splits`).
        size: side of the model's square in pixels.
        per_dataset: at most so many readable images of each data set, chosen by `seed`; None takes all.
        seed: for this choice only.
        split_seed: for parts that the folder's manifest does not have. Apart from `seed` on purpose: another
            seed for calibration images must not move an image from the reported half into the searched one.
        save_splits: folder that keeps such parts (see `splits.read_splits` and `splits.saved_file`). Without it a part
            that has to be dealt out is a logged warning: nothing ties it to the part that others have seen.
        deal_splits: False: a part that is neither in the folder's manifest nor in `save_splits` is an error.

    Returns:
        The images, and what was left out: every file of these folders that has no pair or is in no part, and of the
        part what cannot be read, masks without foreground or of another size than their image, entries without files.

    Raises:
        MedcoreError: for a missing folder, an unknown part, two folders of one name, or if no image is left.
    """
    if not folders:
        raise MedcoreError("no data folder given; name at least one folder with images/ and masks/")
    if size < 1 or (per_dataset is not None and per_dataset < 1):
        raise MedcoreError(f"image size {size} and images per data set {per_dataset} must be positive")
    decoded: list[_Decoded] = []
    skipped: list[Skipped] = []
    seen: dict[str, Path] = {}
    dealt: list[str] = []
    for folder in map(Path, folders):
        name = folder.resolve().name
        if name in seen:
            raise MedcoreError(f"{seen[name]} and {folder} are both data set '{name}'; rename one folder")
        seen[name] = folder
        listing = list_folder(folder)
        keep = None if save_splits is None else saved_file(folder, Path(save_splits))
        splits = read_splits(folder, [s.name for s in listing.samples], split_seed, save_to=keep, deal=deal_splits)
        if split in splits.fleeting:
            dealt.append(str(folder))
        wanted, left_out = _of_part(folder, listing, splits, split, keep)
        usable, broken = _decode_some(wanted, size, per_dataset, seed)
        decoded += usable
        skipped += left_out + broken
    if dealt:
        logger.warning(
            "part '%s' of %s is in no file and was dealt out just now; for the part that a study used, name the folder "
            "with its saved splits",
            *(split, ", ".join(dealt)),
        )
    if not decoded:
        places = ", ".join(map(str, seen.values()))
        raise MedcoreError(f"no usable image in part '{split}' of {places}{_summary(skipped)}")
    return _assemble(decoded, size), skipped


def _of_part(
    folder: Path, listing: Listing, splits: Splits, split: str, keep: Path | None
) -> tuple[list[Sample], list[Skipped]]:
    """Samples of the part in natural order; entries without any file and images in no part join the skipped."""
    if split not in splits.parts:
        known = ", ".join(sorted(splits.parts))
        hint = f"; there are no saved splits {keep}" if keep is not None and not keep.is_file() else ""
        raise MedcoreError(f"{folder}: no part '{split}'; known are {known}{hint}")
    dataset = folder.resolve().name
    by_name = {sample.name: sample for sample in listing.samples}
    ordered = sorted(splits.parts[split], key=natural_key)
    unpaired = {entry.path.stem for entry in listing.skipped}
    missing = [
        Skipped(dataset, folder / "images" / name, "named by the splits, but there is no such file")
        for name in ordered
        if name not in by_name and name not in unpaired
    ]
    where, val = " and ".join(map(str, splits.files)), set(splits.parts.get("val", ()))
    homeless = [
        Skipped(dataset, by_name[name].image, f"in {'neither half' if name in val else 'no part'} of {where}")
        for name in sorted(splits.unassigned(split), key=natural_key)
    ]
    return [by_name[name] for name in ordered if name in by_name], listing.skipped + missing + homeless


def _decode_some(
    samples: Sequence[Sample], size: int, most: int | None, seed: int
) -> tuple[list[_Decoded], list[Skipped]]:
    """Decodes the samples, or `most` readable ones chosen by `seed`, in threads (PIL lets go of the lock)."""
    order = list(range(len(samples)))
    if most is not None and samples:
        chance = np.random.default_rng([seed, zlib.crc32(samples[0].dataset.encode())])
        order = chance.permutation(len(samples)).tolist()
    target = len(samples) if most is None else min(most, len(samples))
    usable: dict[int, _Decoded] = {}
    broken: list[Skipped] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        while order and len(usable) < target:
            need = target - len(usable)
            batch, order = order[:need], order[need:]
            outcomes = pool.map(lambda index: _decode(samples[index], size), batch)
            for index, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Skipped):
                    broken.append(outcome)
                else:
                    usable[index] = outcome
    return [usable[index] for index in sorted(usable)], broken


def _decode(sample: Sample, size: int) -> _Decoded | Skipped:
    try:
        picture = read_image(sample.image)
    except UNREADABLE as error:
        return Skipped(sample.dataset, sample.image, f"unreadable image ({_one_line(error)})")
    try:
        truth = read_mask(sample.mask)
    except UNREADABLE as error:
        return Skipped(sample.dataset, sample.mask, f"unreadable mask ({_one_line(error)})")
    if truth.shape != (picture.height, picture.width):
        sizes = f"{truth.shape[1]}x{truth.shape[0]} for an image of {picture.width}x{picture.height}"
        return Skipped(sample.dataset, sample.mask, f"mask of another size than its image: {sizes}")
    if not truth.any():
        return Skipped(sample.dataset, sample.mask, "mask without foreground")
    mask = mask_to_square(truth, size)
    if not mask.any():
        return Skipped(sample.dataset, sample.mask, f"foreground vanishes at {size} pixels")
    return _Decoded(sample, to_square(picture, size), mask, truth)


def _assemble(decoded: list[_Decoded], size: int) -> ImageSet:
    """Moves the samples into contiguous arrays and empties the list, so that images are held once."""
    count = len(decoded)
    samples = [item.sample for item in decoded]
    truths = [item.truth for item in decoded]
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    masks = np.empty((count, size, size), dtype=np.uint8)
    for index in reversed(range(count)):
        item = decoded.pop()
        images[index], masks[index] = item.image, item.mask
    boxes = np.stack([box_of(mask) for mask in masks])
    return ImageSet(images, masks, boxes, truths, [s.dataset for s in samples], [s.name for s in samples])


def _summary(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    first = skipped[0]
    return f"; {len(skipped)} left out, the first: {first.path} ({first.reason})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
