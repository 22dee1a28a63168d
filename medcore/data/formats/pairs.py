"""Folders of images and folders of masks with equal names, in which patients may have folders of their own."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcore.data.names import natural_key
from medcore.data.reader import Skipped
from medcore.errors import DataError

#: Folder of the images and folder of the masks; the last is nnU-Net's.
LAYOUTS = (("images", "masks"), ("images", "labels"), ("imagesTr", "labelsTr"))
#: Folders in folders, such as study and series of a patient.
_DEEPEST = 4
#: A folder without a file of a format among so many is no folder of that format.
_LOOK_AT = 1000


@dataclass(frozen=True)
class Named:
    """A file of a data folder.

    Attributes:
        path: The file.
        name: Its place in the folder, without the ending and with `_` between folders.
        patient: The first folder on the way to it; empty if it lies in the top folder.
        parent: Name of the folder that holds it, like `name`; empty for the top folder.
    """

    path: Path
    name: str
    patient: str
    parent: str


def layout_of(folder: Path, is_image: Callable[[Path], bool]) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks, or None if there are none that hold such images.

    At least half of the files must be of the format. A scan that was left among pictures is none of them.

    Args:
        folder: The data folder.
        is_image: Tells whether a file is an image of the format.
    """
    for images, masks in ((folder / images, folder / masks) for images, masks in LAYOUTS):
        try:
            if images.is_dir() and masks.is_dir():
                own = [is_image(file) for file in itertools.islice(walk(images), _LOOK_AT)]
                if own and sum(own) >= len(own) / 2:
                    return images, masks
        except OSError:
            continue
    return None


class PairedFolders(ABC):
    """What readers share whose images and masks lie in two folders."""

    @staticmethod
    @abstractmethod
    def is_image(file: Path) -> bool:
        """Tell whether a file is an image of the format."""

    def holds(self, folder: Path) -> bool:
        """Tell whether most images of a folder have the format."""
        return layout_of(folder, self.is_image) is not None

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield all that lies in the two folders.

        Raises:
            OSError: A folder cannot be listed.
        """
        for place in layout_of(folder, self.is_image) or ():
            yield from walk(place)


def walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield what lies in a folder and in its folders, hidden entries aside.

    Folders are followed, also by links, down to a fixed depth. What else is no regular file is yielded too.

    Raises:
        OSError: A folder cannot be listed.
    """
    for entry in folder.iterdir():
        if entry.name[0] == ".":
            continue
        if depth < _DEEPEST and entry.is_dir():
            yield from walk(entry, depth + 1)
        else:
            yield entry


def named_files(
    folder: Path, dataset: str, ending_of: Callable[[Path], str | None], what: str, skipped: list[Skipped]
) -> dict[str, Named]:
    """Return the files of a folder by name, in natural order.

    Args:
        folder: Folder of images or masks.
        dataset: Name of the data set.
        ending_of: Returns a file's ending, which may be empty, or None if the file is of another format.
        what: What a file of the format is, for the reason of others.
        skipped: Others, and files whose name is taken, are added to it.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        files = sorted(walk(folder), key=lambda file: natural_key(str(file.relative_to(folder))))
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from None
    named: dict[str, Named] = {}
    for file in files:
        ending = ending_of(file) if file.is_file() else None
        if ending is None:
            skipped.append(Skipped(dataset, file, f"not {what}"))
            continue
        parents = file.relative_to(folder).parts[:-1]
        name = "_".join((*parents, file.name[: len(file.name) - len(ending)]))
        if name in named:
            skipped.append(Skipped(dataset, file, f"same name as {named[name].path.name}, which is used"))
        else:
            named[name] = Named(file, name, parents[0] if parents else "", "_".join(parents))
    return named


def known_ending(file: Path, endings: Sequence[str]) -> str | None:
    """Return which of the endings a file has, as it is written there; None if it has none of them."""
    lower = file.name.lower()
    fits = [ending for ending in endings if lower.endswith(ending) and len(lower) > len(ending)]
    return file.name[-max(map(len, fits)) :] if fits else None


def unpaired(dataset: str, images: dict[str, Named], masks: dict[str, Named], used: set[str]) -> list[Skipped]:
    """Return the masks that no image uses, and the images that have no mask.

    Args:
        dataset: Name of the data set.
        images: Images that found no mask.
        masks: All masks.
        used: Names of the masks that belong to an image.
    """
    lone = [Skipped(dataset, image.path, "image without mask") for image in images.values()]
    return lone + [Skipped(dataset, masks[name].path, "mask without image") for name in masks if name not in used]
