"""What the readers of volumes share: limits of sizes, slices as samples, and the last volumes that were read.

Importing this module needs nothing but the standard library, as listing a folder must not.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medcore.data.reader import Reading, Sample, Skipped, UnreadableFile
from medcore.errors import DataError, MedcoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from medcore.data.formats.intensities import Intensities

T = TypeVar("T")

#: Largest array that a reader loads, in bytes as they are stored. Larger ones are refused before they are loaded.
LARGEST_BYTES = 2 << 30
#: Deflate makes data at most so many times smaller. A file that claims more is damaged or made to fill the memory.
LARGEST_RATIO = 1040
#: Extra of the project that installs the packages of these formats.
EXTRA = "volumes"


def check_size(size: int, stored: int, *, compressed: bool) -> None:
    """Check that a file can hold the array that its header describes.

    Args:
        size: Bytes of the array.
        stored: Bytes of the file, or of the array's part of it.
        compressed: Whether the file is compressed.

    Raises:
        ValueError: It cannot, or the array is larger than `LARGEST_BYTES`.
    """
    if size > LARGEST_BYTES:
        raise ValueError(f"an array of {size} bytes, more than the {LARGEST_BYTES} that are read; split the file")
    if size > stored * (LARGEST_RATIO if compressed else 1):
        raise ValueError(f"the header describes {size} bytes, but the file has only {stored}")


def required(package: str) -> Any:
    """Import a package that only one format needs.

    Raises:
        DataError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        install = f"pip install 'medcore-search[{EXTRA}]'"
        raise DataError(f"these data need the package {package} ({error}); install it with: {install}") from None


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn what a library raises for a damaged file into an `UnreadableFile`.

    Raises:
        UnreadableFile: The work raised anything but our own errors.
    """
    try:
        yield
    except MedcoreError:
        raise
    except Exception as error:  # noqa: BLE001  on damaged bytes the libraries raise nearly every type
        raise UnreadableFile(path, kind, error) from None


def unreadable(dataset: str, path: Path, kind: str, error: BaseException) -> Skipped:
    """Return the entry of a file whose header cannot be used."""
    return Skipped(dataset, path, UnreadableFile(path, kind, error).reason)


def slices(sample: Sample, count: int) -> Iterator[Sample]:
    """Yield the slices of a volume; a single one keeps the volume's name.

    Args:
        sample: The whole volume.
        count: Number of slices.
    """
    if count == 1:
        yield sample
        return
    for index in range(count):
        yield Sample(
            dataset=sample.dataset,
            name=f"{sample.name}_z{index:03}",
            image=sample.image,
            mask=sample.mask,
            index=index,
            group=sample.group or sample.name,
            volume=sample.name,
            modality=sample.modality,
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and its label map.

    Attributes:
        stored: (slices, rows, columns), or (slices, rows, columns, 3) of uint8 for colours.
        labels: (slices, rows, columns), integers or finite numbers.
        slope: Measured values are stored values times this.
        offset: Plus this.
        spacing: Millimetres a pixel of a slice, rows and columns; None if unknown.
        thickness: Millimetres from slice to slice; None if unknown.
    """

    stored: NDArray[Any]
    labels: NDArray[Any]
    slope: float = 1.0
    offset: float = 0.0
    spacing: tuple[float, float] | None = None
    thickness: float | None = None

    def reading(self, index: int) -> Reading:
        """Return a slice.

        Raises:
            ValueError: A value of the image is not finite.
        """
        import numpy as np

        from medcore.data.labels import LabelMap

        # full scale 1: a label map has two values or fractions, else the user says what is the object
        labels = LabelMap(np.ascontiguousarray(self.labels[index]), full=1.0)
        return Reading(self.image(index), labels, self.spacing, self.values_of_labels)

    def image(self, index: int) -> Image.Image | Intensities:
        """Return the image of a slice.

        Pictures of 8 bits stay as they are; other values are measurements.

        Raises:
            ValueError: A value is not finite.
        """
        import numpy as np
        from PIL import Image

        from medcore.data.formats.intensities import Intensities

        values = np.ascontiguousarray(self.stored[index])
        if values.dtype == np.uint8 and (self.slope, self.offset) == (1.0, 0.0):
            return Image.fromarray(values).convert("RGB")
        measured = values if (self.slope, self.offset) == (1.0, 0.0) else values * self.slope + self.offset
        if not np.isfinite(measured).all():
            raise ValueError(f"values of slice {index} that are not finite")
        return Intensities(measured, lambda: self.limits)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Return the darkest and the brightest value without a window of the user, of the whole volume."""
        from medcore.data.formats.intensities import usual_limits

        return usual_limits(self.stored, self.slope, self.offset)

    @cached_property
    def values_of_labels(self) -> NDArray[Any]:
        """Return the distinct values of the whole label map, in order."""
        import numpy as np

        if self.labels.dtype.itemsize > 2 or self.labels.dtype.kind not in "iu":
            return np.unique(np.concatenate([np.unique(part) for part in self.labels]))
        # small integers: marking those that occur is many times faster than sorting the voxels
        occur = np.zeros(1 << 16, np.bool_)
        for part in self.labels:
            occur[part.astype(np.int32)] = True  # negative ones count from the end
        found = np.flatnonzero(occur)
        signed = np.where(found >= 1 << 15, found - (1 << 16), found) if self.labels.dtype.kind == "i" else found
        return np.sort(signed)


def finite_labels(values: NDArray[Any]) -> NDArray[Any]:
    """Return label values as they are.

    Raises:
        ValueError: They are not numbers, or one is not finite.
    """
    import numpy as np

    if values.dtype.kind not in "biuf":
        raise ValueError(f"labels of type {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("labels that are not finite")
    return values.view(np.uint8) if values.dtype.kind == "b" else values


class Recent(Generic[T]):
    """The last results of a slow function of files.

    The slices of a volume are read one after the other and by several threads. Each volume is then loaded once. A
    failure is kept like a result, so that a damaged file is not tried again for each slice.
    """

    def __init__(self, load: Callable[..., T], most: int = 2) -> None:
        """Keep at most `most` results of `load`, which takes paths."""
        self._load, self._most = load, most
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Any, ...], _Entry[T]] = OrderedDict()

    def __call__(self, *paths: Path) -> T:
        """Return the result for these files as they are now.

        Raises:
            UnreadableFile: `load` did.
        """
        key = tuple((path, _version(path)) for path in paths)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return entry.result(lambda: self._load(*paths))


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: tuple[T | None, UnreadableFile | None] | None = None

    def result(self, load: Callable[[], T]) -> T:
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = load(), None
                except UnreadableFile as error:
                    self._outcome = None, error
        value, problem = self._outcome
        if problem is not None:
            raise problem
        return value  # type: ignore[return-value]  # there is one without a problem


def _version(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
