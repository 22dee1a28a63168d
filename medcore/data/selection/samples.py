"""Which samples of data folders belong to a split, and what of the folders is left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcore.data.kept_splits import folder_splits
from medcore.data.names import natural_key, readable
from medcore.data.reader import Listing, Sample, Skipped
from medcore.data.readers import list_folder, stem
from medcore.data.splits import Splits
from medcore.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The samples of one data folder that belong to a split.

    Attributes:
        dataset: Name of the data set.
        folder: The data folder.
        listing: All that the folder holds.
        samples: Samples of the split, in natural order of their names.
        skipped: Files that are no sample, names that have no file, and samples that are in no split.
    """

    dataset: str
    folder: Path
    listing: Listing
    samples: list[Sample]
    skipped: list[Skipped]


def select(
    folders: Sequence[Path], split: str, save_splits: Path | None = None, *, deal_splits: bool = True
) -> list[Selection]:
    """List the samples of a split in each of several data folders.

    Args:
        folders: Data folders; the folder's name is the data set's name.
        split: One of `splits.json`, `val/search`, `val/report` or `all` (see `splits.read_splits`).
        save_splits: As for `load.load_image_set`.
        deal_splits: As for `load.load_image_set`.

    Raises:
        DataError: A folder or manifest cannot be used, two folders have the same name, or one has no such split.
    """
    found: list[Selection] = []
    dealt: list[str] = []
    for dataset, folder in _by_dataset(folders).items():
        listing = list_folder(folder)
        splits = folder_splits(folder, listing.samples, save_splits, deal=deal_splits)
        if split not in splits.names:
            raise _no_such_split(folder, split, splits, save_splits)
        if split in splits.fleeting:
            dealt.append(str(folder))
        found.append(Selection(dataset, folder, listing, *_of_split(dataset, listing, splits, split)))
    if dealt:
        logger.warning(
            "split '%s' of %s is in no file and was dealt out just now; for the split that a study used, name the "
            "folder with its saved splits",
            *(split, ", ".join(dealt)),
        )
    return found


def nothing_usable(what: str, split: str, selections: Sequence[Selection], skipped: Sequence[Skipped]) -> DataError:
    """Build the error for a split without a usable image.

    Args:
        what: What there is none of, such as `image`.
        split: Name of the split.
        selections: What was looked at.
        skipped: What was left out.
    """
    where = ", ".join(str(selection.folder) for selection in selections)
    first = f"; {len(skipped)} left out, the first: {skipped[0].path} ({skipped[0].reason})" if skipped else ""
    return DataError(f"no usable {what} in split '{split}' of {where}{first}")


def _no_such_split(folder: Path, split: str, splits: Splits, place: Path | None) -> DataError:
    """Build the error for a split that neither the folder's manifest nor the saved splits have."""
    hint = ""
    if place is not None and not any(file.parent == Path(place) for file in splits.files):
        hint = f"; there are no saved splits of its images in {place}"
    return DataError(f"{folder}: no split '{split}'; known are {', '.join(sorted(splits.names))}{hint}")


def _by_dataset(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders by the name of their data set.

    Raises:
        DataError: There are none, or two have the same name.
    """
    if not folders:
        raise DataError("no data folder given; name at least one folder with images/ and masks/")
    places: dict[str, Path] = {}
    for folder in map(Path, folders):
        name = folder.resolve().name
        if name in places:
            raise DataError(f"{places[name]} and {folder} are both data set '{name}'; rename one folder")
        places[name] = folder
    return places


def _of_split(dataset: str, listing: Listing, splits: Splits, split: str) -> tuple[list[Sample], list[Skipped]]:
    """Return the samples of a split, and what was skipped.

    Returns:
        Samples in natural order; skipped files, names that have no file, and images in no split.
    """
    by_name = {sample.name: sample for sample in listing.samples}
    ordered = sorted(splits.names[split], key=natural_key)
    unpaired = {readable(text) for entry in listing.skipped for text in (entry.path.stem, stem(entry.path.name))}
    missing = [
        Skipped(dataset, listing.place / name, "named by the splits, but there is no such file")
        for name in ordered
        if name not in by_name and name.rpartition("/")[2] not in unpaired
    ]
    where, val = " and ".join(map(str, splits.files)), set(splits.names.get("val", ()))
    unassigned = [
        Skipped(dataset, by_name[name].image, f"in {'neither half' if name in val else 'no split'} of {where}")
        for name in sorted(splits.unassigned(split), key=natural_key)
    ]
    return [by_name[name] for name in ordered if name in by_name], listing.skipped + missing + unassigned
