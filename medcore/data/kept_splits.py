"""Find the file that keeps a data folder's splits, by what the folder holds.

The files of all data sets are in one folder, `OUTPUT/splits`. Each says which images it is about: their names, a short
hash of each image file, and where the folder was. So a folder that was renamed, copied, or mounted elsewhere keeps its
splits. The decision:

- A file is the folder's if most of the images that both name have the same content, and they are at least half of the
  smaller of the two; a folder of the same name needs no half. Files of earlier versions hold names only, and a hash of
  the folder's path in their own name. Such a file is the folder's if the path is the same, if the folder has the same
  name and half of the names agree, or if all do.
- In its old place a folder is recognised by half of the names alone. If images have other content there, a warning says
  so, and the splits still go by names.
- Images that are in no saved split stay out of all splits, and are reported. They are never dealt out later, because
  that could move reported images or add near copies of them to the training.
- If images have swapped names, so that a reported image would come into the training, if several files fit and differ,
  or if a file may be the folder's and may not, the command stops and says which files. A file `DATASET.splits.json`
  without a hash in its name is one that a user has chosen; it needs only one name in common.
- Else the folder is a new data set. It gets a file of its own, named by its content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from medcore.data.reader import Sample
from medcore.data.split_files import FILE_NAME, SplitFile, exists, read_split_file, write_split_file
from medcore.data.splits import REPORT, SEARCH, Splits, read_splits
from medcore.errors import DataError, MedcoreError

logger = logging.getLogger(__name__)

_ENDING = ".splits.json"
#: The smaller of two sets of images must be in the other by this share.
_SHARE = 0.5
#: Bytes of an image file that are hashed at its start, middle and end.
_PIECE = 1 << 15
_DIGITS = 16
#: What this process has warned of already.
_told: set[str] = set()


@dataclass(frozen=True)
class _Folder:
    """A data folder as it is now."""

    place: Path
    dataset: str
    prints: Mapping[str, str]

    @property
    def content(self) -> SplitFile:
        """What is saved of the images."""
        return SplitFile({}, self.dataset, str(self.place), {name: text for name, text in self.prints.items() if text})


@dataclass(frozen=True)
class _Fit:
    """How a saved file compares with a data folder.

    Attributes:
        file: The saved file.
        kept: What it holds.
        shared: Images that both name.
        same: Those of equal content.
        other: Those of different content.
        near: The share of the smaller of the two that the other names too.
        equal: Whether both name the same images.
        chosen: Whether the user has named the file for this folder.
        here: Whether the file was made for a folder in this place.
        alike: Whether it was made for a folder of this name.
        renamed: Name in the folder -> name in the file, for images whose content the file knows by another name.
    """

    file: Path
    kept: SplitFile
    shared: frozenset[str]
    same: int
    other: int
    near: float
    equal: bool
    chosen: bool
    here: bool
    alike: bool
    renamed: Mapping[str, str]

    @property
    def matches(self) -> bool:
        """Whether the file is the folder's."""
        close = self.near >= _SHARE
        if not self.shared or self.chosen:
            return bool(self.shared)
        if not self.kept.prints:
            return self.here or self.equal or (self.alike and close)
        if self.same > self.other:
            return self.here or self.alike or close
        return self.here and close

    @property
    def unclear(self) -> bool:
        """Whether the file may be the folder's, which content and names do not decide."""
        if self.matches:
            return False
        if self.kept.prints:
            return self.same > 0 or (self.here and bool(self.renamed))
        return bool(self.shared) and (self.alike or self.near >= _SHARE)


def folder_splits(folder: Path, samples: Sequence[Sample], place: Path | None, *, deal: bool = True) -> Splits:
    """Read the splits of a data folder, and make those that are missing, as `splits.read_splits` does.

    Args:
        folder: The data folder.
        samples: Its images.
        place: Folder of saved splits; None saves nothing.
        deal: False uses only the manifest and the saved file, and writes nothing.

    Raises:
        DataError: As for `read_splits` and `find_splits`.
    """
    names, groups = [sample.name for sample in samples], {each.name: each.group for each in samples if each.group}
    if place is None or not _needs_saved(Path(folder), set(names)):
        return read_splits(folder, names, deal=deal, groups=groups)
    now = _folder(Path(folder), samples)
    found = _found(now, Path(place), say=deal)
    keep = _new_file(now, Path(place)) if found is None else found
    splits = read_splits(folder, names, save_to=keep, deal=deal, groups=groups, content=now.content)
    if deal and found is not None:
        _renew(found, now)
    return splits


def find_splits(folder: Path, samples: Sequence[Sample], place: Path) -> Path | None:
    """Return the file in `place` that keeps a data folder's splits; None if the folder is a new data set.

    Args:
        folder: The data folder.
        samples: Its images.
        place: Folder of saved splits.

    Raises:
        DataError: It cannot be known which file it is, or the file would move images between splits.
    """
    return _found(_folder(Path(folder), samples), Path(place), say=False)


def _needs_saved(folder: Path, names: set[str]) -> bool:
    """Tell whether a folder's own manifest leaves splits to be dealt out."""
    manifest = folder / FILE_NAME
    if not exists(manifest):
        return True
    given = read_split_file(manifest, names, folder.resolve().name).splits
    return not given or ("val" in given and not {SEARCH, REPORT} <= given.keys())


def _found(now: _Folder, place: Path, *, say: bool) -> Path | None:
    """Return the folder's file; `say` warns of files that one may take for it."""
    fits: list[_Fit] = []
    broken: list[MedcoreError] = []
    for file in sorted(place.glob(f"*{_ENDING}")):
        try:
            if exists(file):
                fits.append(_fit(file, read_split_file(file, set(now.prints)), now))
        except MedcoreError as error:
            broken.append(error)
    if (chosen := _choose([fit for fit in fits if fit.matches], now)) is not None:
        _check_order(chosen, now)
        return chosen.file
    if broken:
        raise broken[0]
    if unclear := [fit for fit in fits if fit.unclear]:
        raise DataError(_doubt(unclear[0], now))
    for fit in fits if say else ():
        _warn_of_kin(fit, now)
    return None


def _choose(fits: Sequence[_Fit], now: _Folder) -> _Fit | None:
    """Return the one file that fits; of several that agree, the one that knows most images.

    Raises:
        DataError: They do not agree.
    """
    fits = [fit for fit in fits if fit.chosen] or [fit for fit in fits if fit.here] or fits
    ranked = sorted(fits, key=lambda fit: (fit.same, len(fit.shared)), reverse=True)
    for fit in ranked[1:]:
        if not fit.shared <= ranked[0].shared or _differ(ranked[0], fit):
            raise DataError(
                f"{now.place}: both {ranked[0].file} and {fit.file} keep splits of its images, and they differ; keep "
                f"the one that your reported figures rest on, and move the other away"
            )
    return ranked[0] if ranked else None


def _differ(one: _Fit, other: _Fit) -> bool:
    """Tell whether two files put an image of the folder into different splits."""
    common = one.kept.splits.keys() & other.kept.splits.keys()
    known = one.shared & other.shared
    return any(known & set(one.kept.splits[split]) != known & set(other.kept.splits[split]) for split in common)


def _fit(file: Path, kept: SplitFile, now: _Folder) -> _Fit:
    named = kept.names
    shared = frozenset(named & now.prints.keys())
    pairs = [(now.prints[name], kept.prints.get(name, "")) for name in shared]
    of_print = {text: name for name, text in kept.prints.items()}
    title = file.name.removesuffix(_ENDING)
    return _Fit(
        file,
        kept,
        shared,
        same=sum(new == old for new, old in pairs if new),
        other=sum(bool(new and old and new != old) for new, old in pairs),
        near=len(shared) / max(1, min(len(named), len(now.prints))),
        equal=named == now.prints.keys(),
        chosen=title == now.dataset,
        here=str(now.place) == kept.folder or title == _title_before(now),
        alike=now.dataset == (kept.dataset or re.sub(r"-[0-9a-f]{8}$", "", title)),
        renamed={
            name: of_print[text]
            for name, text in now.prints.items()
            if text and kept.prints.get(name) != text and text in of_print
        },
    )


def _title_before(now: _Folder) -> str:
    """Return how earlier versions named the file: by a hash of the folder's path."""
    return f"{now.dataset}-{hashlib.sha256(os.fsencode(now.place)).hexdigest()[:8]}"


def _check_order(fit: _Fit, now: _Folder) -> None:
    """Check that no image has taken the name of one in another split; warn if content has changed otherwise.

    Raises:
        DataError: An image has.
    """
    parts = fit.kept.splits
    moved = [
        (name, old)
        for name, old in fit.renamed.items()
        if name in fit.shared and any((name in members) != (old in members) for members in map(set, parts.values()))
    ]
    if moved:
        name, old = min(moved)
        raise DataError(
            f"{now.place}: {len(moved)} images have changed names since {fit.file} was made, so that they would change "
            f"splits ('{name}' was '{old}'); give them their old names, or write {now.place / FILE_NAME} yourself"
        )
    if fit.other:
        _warn(
            f"{now.place}: {fit.other} of {len(fit.shared)} images have other content than when {fit.file} was made; "
            "the splits go by their names"
        )


def _doubt(fit: _Fit, now: _Folder) -> str:
    """Return why it is unclear whether a file keeps the folder's splits, and what to do."""
    if fit.kept.prints and not fit.same:
        name, old = min(fit.renamed.items())
        return (
            f"{now.place}: {len(fit.renamed)} images have changed names since {fit.file} was made ('{name}' was "
            f"'{old}'); give them their old names, or write {now.place / FILE_NAME} yourself"
        )
    known = fit.same if fit.kept.prints else len(fit.shared)
    return (
        f"{now.place}: {known} of its {len(now.prints)} images are in {fit.file}, which names {len(fit.kept.names)}, "
        f"so it may keep this folder's splits or another's; if this folder's, rename that file to "
        f"{now.dataset}{_ENDING}; if another's, write {now.place / FILE_NAME} yourself or choose another output folder"
    )


def _warn_of_kin(fit: _Fit, now: _Folder) -> None:
    """Say which saved splits a new data set does not get, though one may think so."""
    if fit.renamed:
        name, old = min(fit.renamed.items())
        _warn(
            f"{now.place}: a new data set with splits of its own, although {fit.file} has {len(fit.renamed)} of its "
            f"images by other names ('{name}' was '{old}')"
        )
    elif fit.alike:
        _warn(f"{now.place}: a new data set with splits of its own; {fit.file} is about other images")


def _warn(text: str) -> None:
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


def _renew(file: Path, now: _Folder) -> None:
    """Write into a saved file what its images are, if it does not say, and where the folder is."""
    kept = read_split_file(file, set(now.prints))
    prints = {name: text for name, text in now.content.prints.items() if name in kept.names}
    wanted = replace(kept, dataset=now.dataset, folder=str(now.place), prints=prints | dict(kept.prints))
    if wanted != kept:
        with suppress(MedcoreError):  # the splits are read, and a folder that cannot be written is no hindrance
            write_split_file(file, wanted)


def _new_file(now: _Folder, place: Path) -> Path:
    digest = hashlib.sha256(json.dumps(sorted(now.prints.items())).encode()).hexdigest()
    return place / f"{now.dataset}-{digest[:8]}{_ENDING}"


def _folder(folder: Path, samples: Sequence[Sample]) -> _Folder:
    whole = folder.resolve()
    return _Folder(whole, whole.name, {sample.name: _print(sample) for sample in samples})


def _print(sample: Sample) -> str:
    """Return a short hash of an image; empty if its file cannot be read."""
    try:
        about = sample.image.stat()
        text = _file_print(sample.image, about.st_size, about.st_mtime_ns)
    except OSError:
        return ""
    return f"{text}:{sample.index}" if sample.index else text


@lru_cache(maxsize=1 << 17)
def _file_print(path: Path, size: int, _changed: int) -> str:
    """Return a hash of a file's size, and of its bytes at the start, in the middle and at the end."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in sorted({0, max(0, size // 2 - _PIECE // 2), max(0, size - _PIECE)}):
            file.seek(start)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()[:_DIGITS]
