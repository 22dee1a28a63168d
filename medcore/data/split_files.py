"""Files that say which image belongs to which split: what they hold, and two layouts in which they come.

Ours is a JSON object `{"train": [names], "val": [names], ...}`; a name may have the file's ending or not. A file that
medcore saves has the key `content` too: what the images were when they were dealt out.

The released code of the MedCore paper writes one file for all data sets. It has a `version`, and for each data set the
names of its images, with the splits as positions among them. Its `validation` is our `val`; its `calibration` is a part
of `train`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcore.data.names import readable
from medcore.data.readers import stem
from medcore.errors import DataError, StorageError, brief
from medcore.files import replacing

FILE_NAME = "splits.json"
_CONTENT = "content"
_SHAPE = 'expected an object {"train": [names], "val": [names]}'
#: Our names of the splits in the released code's file.
_RELEASED = {"train": "train", "validation": "val", "test": "test", "calibration": "calibration"}


@dataclass(frozen=True)
class SplitFile:
    """What a file of splits holds.

    Attributes:
        splits: Names of images by split, without the endings of files.
        dataset: Name of the data set; empty if the file does not say.
        folder: Where the images were; empty if the file does not say.
        prints: Short hash of each image file by name of the image; empty if the file does not say.
    """

    splits: Mapping[str, Sequence[str]]
    dataset: str = ""
    folder: str = ""
    prints: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Return the names of all images in any split."""
        return {name for names in self.splits.values() for name in names}


def exists(path: Path) -> bool:
    """Tell whether there is something to read at a path.

    Raises:
        DataError: There is something else than a file, such as a folder, a pipe or a link to nothing. To pass it over
            would deal the images out again.
    """
    try:
        if not os.path.lexists(path):
            return False
        if path.is_file():
            return True
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    kind = "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"
    raise DataError(f"{path}: {kind}; put the splits there, or delete it so that splits are dealt out")


def read_split_file(path: Path, names: Set[str] = frozenset(), dataset: str = "") -> SplitFile:
    """Read a file of splits in one of the two layouts; repeated names are dropped.

    Args:
        path: The JSON file.
        names: Images of the data folder. An entry that is one of them stays as it is, and the folder's part of the
            released code's file is found by them.
        dataset: Name of the data folder, which decides if several parts hold such images.

    Raises:
        DataError: The file holds something else, or none of its data sets is the folder's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except RecursionError:
        raise DataError(f"{path}: not a readable splits file (nested too deeply)") from None
    except (OSError, ValueError) as error:  # ValueError also for bytes that are no text, and for thousands of digits
        raise DataError(f"{path}: not a readable splits file ({brief(error, first=120)})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: {_SHAPE}")
    if "version" in content and isinstance(content.get("datasets"), list):
        return SplitFile(_released(path, content, names, dataset))
    about = content.pop(_CONTENT, {})
    splits: dict[str, list[str]] = {}
    for split, entries in content.items():
        if not isinstance(entries, list) or not all(_is_name(entry) for entry in entries):
            raise DataError(f"{path}: split '{split}' is no list of names; {_SHAPE}")
        splits[split] = list(dict.fromkeys(_sample(str(entry), names) for entry in entries))
    return SplitFile(splits, **_about(path, about))


def write_split_file(path: Path, content: SplitFile) -> None:
    """Write a file of splits by rename.

    Args:
        path: The file; its folder is made if it does not exist.
        content: What to write; what is known of the images is left out if there is nothing.

    Raises:
        StorageError: The file cannot be written.
    """
    values: dict[str, Any] = dict(content.splits)
    about = {"dataset": content.dataset, "folder": content.folder, "images": dict(content.prints)}
    if any(about.values()):
        values[_CONTENT] = about
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot write the splits ({error}); choose a writable place") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object.

    Raises:
        ValueError: A key is there twice, and only one of its values could be used.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' is there twice")
    return values


def _sample(entry: str, names: Set[str]) -> str:
    """Return the name of the sample that an entry means; a sample's own name may hold folders."""
    return entry if entry in names else stem(entry, names)


def _is_name(entry: object) -> bool:
    return isinstance(entry, (str, int)) and not isinstance(entry, bool)


def _about(path: Path, about: Any) -> dict[str, Any]:
    """Return what a saved file says about the images."""
    words = {"dataset": "", "folder": ""}
    if isinstance(about, dict):
        found = {name: about.get(name, "") for name in words}
        prints = about.get("images", {})
        if isinstance(prints, dict) and all(isinstance(text, str) for text in (*found.values(), *prints.values())):
            return {**found, "prints": prints}
    raise DataError(f"{path}: '{_CONTENT}' is damaged; delete this key, and the splits are known by their names only")


def _released(path: Path, content: Mapping[str, Any], names: Set[str], dataset: str) -> dict[str, list[str]]:
    """Return a folder's splits out of the released code's file."""
    if content["version"] != 1:
        raise DataError(f"{path}: version {content['version']!r} of the released code's splits; version 1 can be read")
    entries = [_released_entry(path, entry) for entry in content["datasets"]]
    fits = [(len(names & entry.names), entry.dataset == dataset, entry) for entry in entries]
    most = max(((shared, named) for shared, named, _ in fits), default=(0, False))
    best = [entry for shared, named, entry in fits if (shared, named) == most and shared]
    if len(best) != 1:
        known = ", ".join(entry.dataset for entry in entries) or "none"
        reason = "several data sets hold" if best else "no data set holds"
        raise DataError(
            f"{path}: {reason} the images of '{dataset}' (known are {known}); leave only its own in the file"
        )
    return {split: list(members) for split, members in best[0].splits.items()}


def _released_entry(path: Path, entry: Any) -> SplitFile:
    """Return one data set of the released code's file.

    Raises:
        DataError: It has another form, or a position that no image has.
    """
    values = entry if isinstance(entry, dict) else {}
    name, images = values.get("name"), values.get("images")
    if not isinstance(name, str) or not isinstance(images, list) or not all(isinstance(each, str) for each in images):
        raise DataError(f"{path}: a data set without 'name' or 'images'; copy the file of the released code again")
    splits: dict[str, list[str]] = {}
    for theirs, ours in _RELEASED.items():
        positions = values.get(theirs, [])
        if not isinstance(positions, list) or not all(
            type(each) is int and 0 <= each < len(images) for each in positions
        ):
            raise DataError(f"{path}: '{theirs}' of '{name}' holds positions that its {len(images)} images do not have")
        splits[ours] = list(dict.fromkeys(stem(readable(images[each])) for each in positions))
    return SplitFile({split: members for split, members in splits.items() if members}, dataset=name)
