"""The formats of data folders that can be read, and which of them a folder has."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from medcore.data.formats.dicom import DicomFolders
from medcore.data.formats.nifti import NiftiFolders
from medcore.data.formats.npz import NpzFolders
from medcore.data.image_folders import ImageFolders
from medcore.data.names import readable
from medcore.data.reader import Listing, Reader
from medcore.registry import Registry

READERS: Registry[Reader] = Registry("data reader")
#: Lists a folder of which no reader knows the format; its error says what is missing there.
DEFAULT = READERS.register("image_folders")(ImageFolders())
READERS.register("npz")(NpzFolders())
READERS.register("nifti")(NiftiFolders())
READERS.register("dicom")(DicomFolders())


def reader_of(folder: Path) -> Reader:
    """Return the reader for a data folder.

    Take the reader that was registered last of those that know the folder's format, or else the default. So a user's
    reader comes before ours, and a special format before pictures in folders of the same names.
    """
    latest_first = (READERS[name] for name in reversed(READERS.names()))
    return next((reader for reader in latest_first if reader.holds(folder)), DEFAULT)


def is_data_folder(folder: Path) -> bool:
    """Tell whether some reader knows the format of a folder."""
    return any(READERS[name].holds(folder) for name in READERS.names())


def list_folder(root: Path, dataset: str | None = None) -> Listing:
    """List the samples of a data folder.

    Hidden files are ignored; other files that are no sample are listed too.

    Args:
        root: The data folder.
        dataset: Name of the data set; by default the folder's name.

    Returns:
        The samples, what was skipped, and the reader.

    Raises:
        DataError: The folder cannot be listed or has no known format.
    """
    root = Path(root)
    return reader_of(root).list_samples(root, dataset or root.resolve().name)


def stem(name: str, known: Container[str] = frozenset()) -> str:
    """Return the name of the sample that a manifest's entry means.

    Args:
        name: The entry: a sample's name, with or without the ending of a data file, possibly after names of folders.
        known: Names of the samples, of which some may have folders in them.

    Returns:
        The known sample. If there is none, the entry as it is; one with an ending loses that and all folders. Other
        dots stay.
    """
    entry = readable(name)
    base = entry.rpartition("/")[2]
    endings = {ending for reader in READERS.names() for ending in READERS[reader].endings}
    found = [ending for ending in endings if base.lower().endswith(ending) and len(base) > len(ending)]
    whole = entry[: -max(map(len, found))] if found else entry
    for each in (whole, entry):
        pieces = each.split("/")
        tails = ("/".join(pieces[start:]) for start in range(len(pieces)))
        if match := next((tail for tail in tails if tail in known), None):
            return match
    return whole.rpartition("/")[2] if found else whole
