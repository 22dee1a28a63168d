"""Read every image of the data folders once, and say what is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcore.data.formats.windows import ReadingRules
from medcore.data.frames.frame import Frame
from medcore.data.imagefile import box_of
from medcore.data.labels import LabelMap, warnings_of
from medcore.data.load import Decoded, decode, without_slices
from medcore.data.reader import Listing, Reader, Reading, Sample, Skipped
from medcore.data.splits import ALL
from medcore.errors import DataError
from results.plots.samples import Shown

#: Samples that are in memory at once.
_TOGETHER = 256
#: Masks that are looked at together for what is suspicious about them.
_COMPARED = 500
#: Values of masks that the survey distinguishes.
_VALUES = 12


@dataclass
class DataSurvey:
    """What a data folder holds.

    Attributes:
        name: Name of the data set.
        listed: Images by name.
        usable: Names of the images that can be used.
        objects: Samples that they give.
        sizes: Number of images by width and height.
        values: Values of the masks as text, in order; more than `_VALUES` are cut off.
        parts: Usable images by split.
        skipped: What was left out, and why.
        truth_bytes: Bytes of all masks at original size.
        spaced: Whether the pixel spacing of every sample is known.
        warnings: What is suspicious about the masks.
        shown: A few samples for a picture.
        problem: Why reading ended early; empty if it did not.
    """

    name: str
    listed: int
    usable: set[str] = field(default_factory=set)
    objects: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    values: list[str] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    truth_bytes: int = 0
    spaced: bool = True
    warnings: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class _Seen:
    """One sample that was read: its objects, what was left out, its size and the values of its mask."""

    found: list[Decoded]
    skipped: list[Skipped]
    size: tuple[int, int] | None
    values: tuple[str, ...]


def survey(
    folder: Path,
    listing: Listing,
    members: Mapping[str, Sequence[str]],
    rules: ReadingRules,
    size: int | Frame,
    *,
    show: int = 3,
    on_image: Callable[[], None] = lambda: None,
) -> DataSurvey:
    """Read all images of a folder, whatever split they are in.

    Args:
        folder: The data folder.
        listing: Its samples.
        members: Names of images by split.
        rules: What the user says about masks and scans.
        size: The model's frame, or the side of its square in pixels.
        show: How many samples the picture gets, evenly spread.
        on_image: Called after each image.
    """
    found = DataSurvey(folder.resolve().name, len(listing.samples))
    broken: list[Skipped] = []
    wanted = {len(listing.samples) * number // show for number in range(show)}
    values: set[str] = set()
    truths: list[npt.NDArray[np.bool_]] = []
    try:
        for number, seen in enumerate(_read(listing.reader, listing.samples, rules, size)):
            broken += seen.skipped
            values.update(seen.values)
            if seen.size is not None:
                found.sizes[seen.size] += 1
            for each in seen.found:
                found.usable.add(each.sample.name)
                found.objects += 1
                found.truth_bytes += each.truth.nbytes
                found.spaced &= each.spacing is not None
                truths += [each.truth] if len(truths) < _COMPARED else []
            if seen.found and any(place <= number for place in wanted):
                wanted.remove(min(wanted))
                found.shown.append(_shown(seen.found[0]))
            on_image()
    except DataError as error:
        found.problem = str(error)
    found.values = sorted(values, key=_number)
    found.skipped = [*listing.skipped, *without_slices(broken, listing.samples)]
    found.warnings = warnings_of(truths) if truths else []
    found.parts = {split: len(found.usable & set(names)) for split, names in members.items() if split != ALL}
    return found


def _read(reader: Reader, samples: Sequence[Sample], rules: ReadingRules, size: int | Frame) -> Iterator[_Seen]:
    """Yield what each sample holds, in order, read in threads."""
    look = partial(_look, reader, rules=rules, size=size)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), _TOGETHER):
            yield from pool.map(look, samples[start : start + _TOGETHER])


def _look(reader: Reader, sample: Sample, *, rules: ReadingRules, size: int | Frame) -> _Seen:
    watch = _Watch(reader)
    found, skipped = decode(watch, sample, frame=Frame.of(size), rules=rules)
    return _Seen(found, skipped, watch.size, watch.values)


class _Watch:
    """A reader that also notes the size of the image and the values of its mask."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.endings = reader.endings
        self.size: tuple[int, int] | None = None
        self.values: tuple[str, ...] = ()

    def holds(self, folder: Path) -> bool:
        """Tell whether a folder has the format."""
        return self._reader.holds(folder)

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files of a folder."""
        return self._reader.files(folder)

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """List the samples of a folder."""
        return self._reader.list_samples(folder, dataset)

    def read(self, sample: Sample) -> Reading:
        """Read a sample, and note what it is."""
        reading = self._reader.read(sample)
        self.size = (int(reading.image.size[0]), int(reading.image.size[1]))
        self.values = _values_of(reading.labels)
        return reading


def _values_of(labels: LabelMap) -> tuple[str, ...]:
    """Return the values of a mask as text; those of a file that is cut at half are no labels."""
    if labels.lossy:
        return ("lossy, cut at half",)
    distinct = np.unique(labels.values)
    if labels.full == 1 and distinct.dtype.kind == "f" and (distinct % 1 != 0).any():
        return ("fractions, cut at half",)
    named = [f"0x{int(value):06x}" if labels.colours else f"{value:g}" for value in distinct[:_VALUES]]
    return (*named, *(["…"] if len(distinct) > _VALUES else []))


def _number(text: str) -> tuple[int, float, str]:
    """Return a key that sorts values as numbers, and words behind them."""
    try:
        return (0, float(int(text, 16)) if text.startswith("0x") else float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _shown(sample: Decoded) -> Shown:
    mask = sample.mask == 1
    return Shown(sample.sample.dataset, sample.name, np.moveaxis(sample.image, 0, -1), mask, box_of(mask))
