"""Masks as label maps: which pixels are the object, which count nowhere, and what is a sample of its own.

Without rules of the user, a file says by itself what the object is only if it has two values: 0 and one other. Two
kinds of files mean two values without having them: lossy copies, in which hardly a pixel is away from black and full
scale, and fractions from 0 to 1. Anything else is a label map, which needs `labels` or `ignore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from medcore.errors import DataError

#: What is a sample: all of a mask's object, each of its connected parts, or each of its labels.
Objects = Literal["whole", "components", "labels"]
#: The labels of the object: every value but 0, some values, or what the file says by itself.
Labels = Literal["any"] | tuple[int, ...] | None

Bools = NDArray[np.bool_]

#: A copy counts as lossy if so many of its pixels are near black or full scale, within this share of the scale.
_CLEAR_PIXELS, _CLEAR = 0.9, 1 / 8
#: A lossless file with at most so many values is no copy of a lossy one, whose noise has more.
_FEW_VALUES = 16
#: Values that a message names at most.
_NAMED = 8


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The values of a mask file.

    Attributes:
        values: Real numbers (height, width), as the file has them; palettes by index.
        full: Largest value of the file's type, such as 255 or 65535; 1 for fractions.
        lossy: Whether the file's compression changes values.
        colours: Whether the values are colours, 0xRRGGBB.
    """

    values: NDArray[np.integer] | NDArray[np.floating] | Bools
    full: float = 255.0
    lossy: bool = False
    colours: bool = False


@dataclass(frozen=True)
class MaskRules:
    """What the user says about masks.

    Attributes:
        labels: Labels of the object.
        ignore: Labels of pixels that count in no loss, metric or box.
        objects: What is a sample.
        smallest: Objects of fewer pixels are left out if a mask is more than one sample.
    """

    labels: Labels = None
    ignore: tuple[int, ...] = ()
    objects: Objects = "whole"
    smallest: int = 1


#: No rules.
AS_THE_FILE_SAYS = MaskRules()


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


class UnclearMask(DataError):
    """A label map of which nobody said what the object is."""


def targets(found: LabelMap, rules: MaskRules) -> list[Target]:
    """Return the objects of a mask, in order of their labels or of their first rows.

    Args:
        found: The file's values.
        rules: What the user says.

    Returns:
        One target for `whole`, whose mask may be empty; else one for each object that is large enough.

    Raises:
        UnclearMask: The file is a label map and there are no rules for it; the message names its values.
    """
    void = np.isin(found.values, rules.ignore) if rules.ignore else np.zeros(found.values.shape, np.bool_)
    mask = _foreground(found, rules, void) & ~void
    kept = void if void.any() else None
    if rules.objects == "whole":
        return [Target("", mask, kept)]
    parts = _components(mask) if rules.objects == "components" else _labels(found, mask)
    return [Target(f"#{name}", part, kept) for name, part in parts if part.sum() >= rules.smallest]


def _foreground(found: LabelMap, rules: MaskRules, void: Bools) -> Bools:
    """Return the pixels of the object; ignored pixels may be among them."""
    values = found.values
    if isinstance(rules.labels, tuple):
        return np.isin(values, rules.labels)
    if rules.labels == "any" or rules.objects == "labels":
        return np.asarray(values != 0)
    counted = values[~void]
    distinct = np.unique(counted)
    if np.count_nonzero(distinct) <= 1 and not found.lossy and _whole(distinct):
        return np.asarray(values != 0)
    if found.full == 1:
        if distinct[0] >= 0 and distinct[-1] <= 1:
            return np.asarray(values > 0.5)
    elif not found.colours and _lossy_copy(counted, len(distinct), found):
        return np.asarray(values > found.full / 2)
    raise UnclearMask(
        f"a label map with the values {_named(distinct, found.colours)}; say by data.labels which of them are the "
        "object (any, or a list), or by data.ignore which count nowhere"
    )


def _whole(distinct: NDArray[np.generic]) -> bool:
    return bool(np.all(np.asarray(distinct, np.float64) % 1 == 0))


def _lossy_copy(values: NDArray[np.generic], count: int, found: LabelMap) -> bool:
    """Tell whether values are those of a black and white picture after lossy compression or smooth resizing."""
    if not found.lossy and count <= _FEW_VALUES:
        return False
    scaled = np.asarray(values, np.float64) / found.full
    near = (scaled <= _CLEAR) | (scaled >= 1 - _CLEAR)
    return bool(near.mean() >= _CLEAR_PIXELS and (scaled.max() <= _CLEAR or scaled.max() >= 1 - _CLEAR))


def _named(distinct: NDArray[np.generic], colours: bool) -> str:
    shown = [f"#{int(value):06x}" if colours else f"{value:g}" for value in distinct[:_NAMED]]
    return ", ".join(shown) + (f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else "")


def _components(mask: Bools) -> Iterator[tuple[str, Bools]]:
    """Yield the parts that are connected by sides or corners."""
    numbered, count = label(mask, structure=np.ones((3, 3)))
    for number in range(1, count + 1):
        yield str(number), np.asarray(numbered == number)


def _labels(found: LabelMap, mask: Bools) -> Iterator[tuple[str, Bools]]:
    for value in np.unique(found.values[mask]):
        yield (f"{int(value):06x}" if found.colours else f"{value:g}"), np.asarray(found.values == value) & mask


def warnings_of(masks: Sequence[Bools]) -> list[str]:
    """Return what is suspicious about the masks of a set: most touch all borders, or fill nearly everything."""
    most = len(masks) / 2
    touching = sum(all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) for mask in masks)
    filled = sum(mask.mean() > 0.95 for mask in masks)
    if filled > most:
        return [f"{filled} of {len(masks)} masks fill more than 95 % of the image; are they inverted?"]
    if touching > most:
        return [f"{touching} of {len(masks)} masks touch all four borders; are they inverted?"]
    return []
