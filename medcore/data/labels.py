"""Masks as label maps: which pixels are the object, which count nowhere, and what is a sample of its own.

Without rules of the user, a file says by itself what the object is only if it has two values: 0 and another one. Two
kinds of files mean two values but have more: copies of a black and white picture (`pictures.copies`), and fractions
from 0 to 1. Both are cut at half. Anything else is a label map, which needs `labels` or `ignore`.

Lossy copies and fractions are cut before rules apply, because their values are no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medcore.data.mask_rules import AS_THE_FILE_SAYS, MaskRules
from medcore.data.pictures.copies import is_copy
from medcore.data.reader import Reading
from medcore.errors import DataError

__all__ = [
    "AS_THE_FILE_SAYS",
    "Found",
    "LabelMap",
    "MaskRules",
    "Target",
    "UnclearMask",
    "objects_in",
    "objects_of",
    "warnings_of",
]

Bools = NDArray[np.bool_]

#: Values that a message names at most.
_NAMED = 8
#: Most objects of one mask. Each is a sample with an image and masks of its own.
_MOST_OBJECTS = 1000
#: A mask of a larger share may be inverted.
_FILLED = 0.95


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The values of a mask file.

    Attributes:
        values: Real numbers (height, width), as the file has them; palettes by index.
        full: Largest value of the file's type, such as 255 or 65535; 1 for fractions; 0 if values have no order.
        lossy: Whether the file's compression changes values.
        colours: Whether the values are colours, 0xRRGGBB.
        doubt: Why two values do not say what the object is; empty if they do.
    """

    values: NDArray[np.integer] | NDArray[np.floating] | Bools
    full: float = 255.0
    lossy: bool = False
    colours: bool = False
    doubt: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """One object of a mask.

    Attributes:
        suffix: Ending of the sample's name; empty if the mask is one sample.
        mask: (height, width), the object without ignored pixels.
        void: (height, width), pixels that count nowhere; None if there are none.
    """

    suffix: str
    mask: Bools
    void: Bools | None = None


class Found(NamedTuple):
    """What is in a mask.

    Attributes:
        targets: One for `whole`, whose mask may be empty; else one for each object that is large enough.
        small: Suffixes of the objects that are too small.
    """

    targets: list[Target]
    small: list[str]


class UnclearMask(DataError):
    """A label map without rules that say which label is the object."""


def objects_in(reading: Reading, rules: MaskRules) -> Found:
    """Return the objects of a sample's mask, in the order of `objects_of`.

    A slice of a volume is a label map if the volume is one, although it may have only two of its values.

    Args:
        reading: What is in the sample's files.
        rules: What the user says.

    Raises:
        UnclearMask: As `objects_of`.
    """
    labels = reading.labels
    if reading.volume_values is not None and rules.objects != "labels":
        objects_of(replace(labels, values=reading.volume_values[None]), replace(rules, objects="whole"))
    return objects_of(labels, rules)


def objects_of(labels: LabelMap, rules: MaskRules) -> Found:
    """Return the objects of a mask, in order of their labels or of their first rows.

    Args:
        labels: The file's values.
        rules: What the user says.

    Raises:
        UnclearMask: The file is a label map and there are no rules for it; the message names its values. Or it has so
            many objects that memory would run out.
    """
    labels = _cut_at_half(labels, rules)
    void = np.isin(labels.values, rules.ignore) if rules.ignore else np.zeros(labels.values.shape, np.bool_)
    mask = _foreground(labels, rules, void) & ~void
    kept = void if void.any() else None
    if rules.objects == "whole":
        return Found([Target("", mask, kept)], [])
    numbered, names = _components(mask) if rules.objects == "components" else _by_label(labels, mask)
    sizes = np.bincount(numbered.ravel(), minlength=len(names) + 1)[1:]
    large = np.flatnonzero(sizes >= rules.smallest)
    if len(large) > _MOST_OBJECTS:
        raise UnclearMask(f"{len(large)} objects, at most {_MOST_OBJECTS} are possible; raise data.smallest_object")
    found = [Target(f"#{names[index]}", np.asarray(numbered == index + 1), kept) for index in large]
    return Found(found, [f"#{names[index]}" for index in np.flatnonzero(sizes < rules.smallest)])


def _cut_at_half(found: LabelMap, rules: MaskRules) -> LabelMap:
    """Return two values instead of those of a copy or of fractions, and other masks as they are.

    Raises:
        UnclearMask: A lossy file holds more than two labels.
    """
    values, full = found.values, found.full
    if full == 1 and not _whole(values) and values.min() >= 0 and values.max() <= 1:
        return replace(found, values=np.asarray(values > 0.5))
    # the user's labels, or labels as objects, are exact values of a lossless file
    asked = found.lossy or (rules.labels is None and not rules.ignore and rules.objects != "labels")
    if full > 1 and asked and is_copy(values, full, lossy=found.lossy):
        return replace(found, values=np.where(values > full / 2, int(full), 0), lossy=False)
    if found.lossy:
        raise UnclearMask(
            f"a label map with the values {_named(np.unique(values), found.colours)} in a file with lossy compression, "
            "which changes labels; save it as PNG"
        )
    return found


def _foreground(found: LabelMap, rules: MaskRules, void: Bools) -> Bools:
    """Return the pixels of the object; ignored pixels may be among them.

    Raises:
        UnclearMask: Nothing says which they are.
    """
    values = found.values
    if isinstance(rules.labels, tuple):
        return np.isin(values, rules.labels)
    if rules.labels == "any" or rules.objects == "labels":
        return np.asarray(values != 0)
    distinct = np.unique(values[~void])
    if np.count_nonzero(distinct) <= 1 and _whole(distinct) and not (distinct < 0).any() and not found.doubt:
        return np.asarray(values != 0)
    raise UnclearMask(
        f"{found.doubt or 'a label map'} with the values {_named(distinct, found.colours)}; say by data.labels which "
        "of them are the object (any, or a list), or by data.ignore which count nowhere"
    )


def _whole(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind != "f" or bool(np.all(np.asarray(values, np.float64) % 1 == 0))


def _named(distinct: NDArray[np.generic], colours: bool) -> str:
    shown = [f"0x{int(value):06x}" if colours else f"{value:g}" for value in distinct[:_NAMED]]
    return ", ".join(shown) + (f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else "")


def _components(mask: Bools) -> tuple[NDArray[np.integer], list[str]]:
    """Number the parts that are connected by sides or corners, from 1.

    Returns:
        The number of each pixel's part, 0 outside of the object; the parts' names.
    """
    from scipy.ndimage import label  # here, because it takes long to import

    numbered, count = label(mask, structure=np.ones((3, 3)))
    return numbered, [str(number) for number in range(1, count + 1)]


def _by_label(labels: LabelMap, mask: Bools) -> tuple[NDArray[np.integer], list[str]]:
    """Number the labels of the object from 1, as `_components` does."""
    distinct = np.unique(labels.values[mask])
    numbered = np.where(mask, np.searchsorted(distinct, labels.values) + 1, 0)
    return numbered, [f"{int(value):06x}" if labels.colours else f"{value:g}" for value in distinct]


def warnings_of(masks: Sequence[Bools], of_other_size: int = 0) -> list[str]:
    """Return what is suspicious about the masks of a data set, one line each.

    Args:
        masks: The masks that can be used, (height, width) each.
        of_other_size: How many more have another size than their image.

    Returns:
        Lines on masks that mostly fill nearly everything, or else touch all borders, and on sizes.
    """
    found = []
    touching = sum(all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) for mask in masks)
    filled = sum(bool(mask.mean() > _FILLED) for mask in masks)
    if filled > len(masks) / 2:
        found.append(f"{filled} of {len(masks)} masks fill more than 95 % of the image; are they inverted?")
    elif touching > len(masks) / 2:
        found.append(f"{touching} of {len(masks)} masks touch all four borders; are they inverted?")
    if of_other_size > len(masks):
        found.append(
            f"{of_other_size} of {len(masks) + of_other_size} masks have another size than their image; "
            "do they belong to these images?"
        )
    return found
