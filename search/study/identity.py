"""What a study is computed from, by content: `inputs.json` in its folder.

Paths say where things are, and they change when a project is moved. So a resumed study compares hashes: of its model
files and tables, and of each image that it uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcore.data.load import ImageSet
from medcore.errors import ConfigError, MedcoreError
from results.store.files import read_json, write_by_rename

FILE = "inputs.json"
#: Name of an image within its data set, by the name of the data set and its own.
_Key = tuple[str, str]
_DIGITS = 16
_MEND = "delete it, and the study is compared by paths again"


@dataclass(frozen=True)
class Identity:
    """Hashes of what a study is computed from.

    Attributes:
        files: SHA-256 by name, such as `model.base`.
        folders: Data folders as they were when the images were recorded, for messages.
        images: For each purpose its images in order: data set, name, short hash.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    images: Mapping[str, tuple[tuple[str, str, str], ...]] = field(default_factory=dict)


def read_identity(study: Path) -> Identity:
    """Return what a study has recorded; nothing for one of an earlier version.

    Raises:
        MedcoreError: The file is corrupt.
    """
    path = study / FILE
    if not path.is_file():
        return Identity()
    values = read_json(path, _MEND)
    try:
        return Identity(
            {str(name): _text(digest) for name, digest in values["files"].items()},
            tuple(map(_text, values["folders"])),
            {
                str(purpose): tuple((_text(dataset), _text(name), _text(digest)) for dataset, name, digest in rows)
                for purpose, rows in values["images"].items()
            },
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        raise MedcoreError(f"{path}: corrupt; {_MEND}") from None


def write_identity(study: Path, identity: Identity) -> None:
    """Write the record by rename.

    Raises:
        StorageError: The study cannot be written.
    """
    write_by_rename(study / FILE, (json.dumps(asdict(identity)) + "\n").encode())


def image_rows(images: ImageSet) -> tuple[tuple[str, str, str], ...]:
    """Return data set, name and short hash of each image, in order.

    The hash covers what a model sees and what metrics compare: pixels, mask, box, and the mask at original size.
    """
    rows = []
    for index, (dataset, name) in enumerate(zip(images.datasets, images.names, strict=True)):
        digest = hashlib.sha256()
        for array in (images.images[index], images.masks[index], images.boxes[index]):
            digest.update(np.ascontiguousarray(array).tobytes())
        void = images.voids[index] if images.voids else None
        for mask in (images.truths[index], *([] if void is None else [void])):
            digest.update(f"{mask.shape}".encode())
            digest.update(np.packbits(mask).tobytes())
        rows.append((dataset, name, digest.hexdigest()[:_DIGITS]))
    return tuple(rows)


def require_same_images(study: Path, known: Identity, now: Identity) -> None:
    """Check that a study's images are still those that it began with.

    Raises:
        ConfigError: They are not; the message counts what was added, removed and changed.
    """
    for purpose, rows in now.images.items():
        before = known.images.get(purpose, rows)
        if rows == before:
            continue
        places = ", ".join(known.folders)
        moved = "" if known.folders == now.folders else f" (in {places} then, in {', '.join(now.folders)} now)"
        raise ConfigError(
            f"{study}: cannot resume, the {purpose} images are others than at its start{moved}: "
            f"{_changes(before, rows)}; restore them, or start a new study with --name"
        )


def _changes(before: tuple[tuple[str, str, str], ...], after: tuple[tuple[str, str, str], ...]) -> str:
    """Return what differs between two lists of images, in words."""
    old: dict[_Key, str] = {(dataset, name): digest for dataset, name, digest in before}
    new: dict[_Key, str] = {(dataset, name): digest for dataset, name, digest in after}
    if [row[1:] for row in before] == [row[1:] for row in after]:
        names = {one[0]: other[0] for one, other in zip(before, after, strict=True) if one[0] != other[0]}
        return ", ".join(f"data set '{was}' is called '{now}' now" for was, now in names.items())
    found = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "with other content": {key for key in old.keys() & new.keys() if old[key] != new[key]},
    }
    parts = [f"{len(keys)} {what} ({'/'.join(min(keys))})" for what, keys in found.items() if keys]
    return ", ".join(parts) or "the same in another order (data.folders)"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value
