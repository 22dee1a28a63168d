"""Interface of a format of image data: a list of samples, and the image and mask of each.

This module and those that list files import nothing but the standard library. A node of a cluster lists its data
folders before it is known whether the packages are installed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from medcore.errors import DataError, brief

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from medcore.data.formats.intensities import Intensities
    from medcore.data.labels import LabelMap


@dataclass(frozen=True)
class Sample:
    """A reference to one image and its mask, by which a reader finds both.

    Attributes:
        dataset: Name of the data set.
        name: Name within the data set; the splits know the sample by it.
        image: File that holds the image.
        mask: File that holds the mask; may be the image's.
        index: Place in the files if they hold several samples, such as the slices of a volume.
        group: The patient or volume that the sample is of; samples of one group are in one split. Empty: the sample
            is a group of its own.
        volume: Name of the volume of which the sample is a slice; empty if it is none.
        modality: How the image was taken, such as `CT`; empty if the files do not say.
    """

    dataset: str
    name: str
    image: Path
    mask: Path
    index: int = 0
    group: str = ""
    volume: str = ""
    modality: str = ""


class Reading(NamedTuple):
    """What a reader finds in the files of a sample.

    Attributes:
        image: 8 bits a channel, RGB; or measured values, to which the user's window applies.
        labels: Values of the mask, (height, width), of the image's size if all is well.
        spacing: Millimetres a pixel, rows and columns; None if the files do not say.
        volume_values: Distinct values of the mask of the whole volume, if the sample is a slice. By them a label map
            stays one in a slice that has only two of its values.
    """

    image: Image.Image | Intensities
    labels: LabelMap
    spacing: tuple[float, float] | None = None
    volume_values: NDArray[Any] | None = None


@dataclass(frozen=True)
class Skipped:
    """A file, or an entry of a manifest, that was left out, and why.

    Attributes:
        dataset: Name of the data set.
        path: The file.
        reason: Why it was left out, in a few words.
    """

    dataset: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """Content of a data folder.

    Attributes:
        samples: In natural order of their names.
        skipped: Files that belong to no sample.
        place: Folder in which a missing image would be expected.
        reader: Reads the samples.
    """

    samples: list[Sample]
    skipped: list[Skipped]
    place: Path
    reader: Reader


class UnreadableFile(DataError):
    """An image or mask file that is damaged or holds something else.

    Attributes:
        path: The file.
        reason: What is wrong with it, in one line.
    """

    def __init__(self, path: Path, kind: str, error: BaseException) -> None:
        """Describe the file.

        Args:
            path: The file.
            kind: `image` or `mask`.
            error: What reading it raised.
        """
        self.path = path
        self.reason = f"unreadable {kind} ({brief(error)})"
        super().__init__(f"{path}: {self.reason}")


class Reader(Protocol):
    """A format of data folders.

    Add one with `medcore.data.readers.READERS.register(name)`.

    Attributes:
        endings: Endings of the files that hold images or masks: lower case, with the dot. A manifest may name a sample
            with one of them.
    """

    endings: frozenset[str]

    def holds(self, folder: Path) -> bool:
        """Tell whether a folder has this format.

        Called for folders of any kind. Names decide; at most a few bytes of one file are read.
        """

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files of a data folder that belong to the data, in any order.

        Raises:
            OSError: The folder cannot be listed.
        """

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """List the samples of a data folder without loading them.

        A file that holds several samples is opened for its header.

        Args:
            folder: The data folder.
            dataset: Name of the data set.

        Raises:
            DataError: The folder does not have this format or cannot be listed.
        """

    def read(self, sample: Sample) -> Reading:
        """Read one sample.

        Args:
            sample: One that `list_samples` returned.

        Raises:
            UnreadableFile: A file cannot be read.
        """
