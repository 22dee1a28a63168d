"""Find checkpoints and data folders below a folder, and tell the general from the medical checkpoint."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from medcore.data.formats.windows import ReadingRules
from medcore.data.labels import UnclearMask, objects_in
from medcore.data.names import natural_key
from medcore.data.reader import Listing, UnreadableFile
from medcore.data.readers import is_data_folder, list_folder
from medcore.data.split_files import FILE_NAME
from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES, resolve_architecture
from medcore.models.checkpoint import load
from medcore.models.formats.content import is_transformers_folder
from medcore.models.spec import Architecture
from search.base.sections.fields import PathField
from search.commands.before.inputs import some_of

_ENDINGS = {".pth", ".pt", ".ckpt", ".bin", ".safetensors"}
#: Folders in folders that are looked into, and folders in all.
_DEEPEST, _MOST = 4, 5000
#: What the names of files say. A medical name may hold a general one, as in `medsam_vit_b`, so it is looked for first.
_MEDICAL = re.compile(r"med|adapt|fine.?tun|clinic|polyp|lesion", re.IGNORECASE)
_GENERAL = re.compile(r"(^|[^a-z])(sam|general|base|pretrain|original)", re.IGNORECASE)
_PATH: TypeAdapter[Path] = TypeAdapter(PathField)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that loads.

    Attributes:
        path: The file or folder.
        arch: Its dense architecture.
        is_dense: Whether nothing is pruned.
    """

    path: Path
    arch: Architecture
    is_dense: bool


@dataclass(frozen=True)
class DataFolder:
    """A data folder that can be listed.

    Attributes:
        path: The folder.
        images: How many images it has.
        splits: Whether it has a `splits.json`.
        doubt: Why a mask does not say what the object is; empty if all that were read do.
    """

    path: Path
    images: int
    splits: bool
    doubt: str = ""


@dataclass
class Found:
    """What lies below a folder.

    Attributes:
        checkpoints: Checkpoints, in order of their names.
        data: Data folders, in order of their names.
        unused: What looks like one of these and cannot be used, with the reason.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    data: list[DataFolder] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """The two checkpoints of a study.

    Attributes:
        general: The general model; None if there is none.
        medical: The medical model; None if there is none.
        reason: Why these were chosen.
    """

    general: Checkpoint | None
    medical: Checkpoint | None
    reason: str


def find(folder: Path, arch: str | None = None) -> Found:
    """Find checkpoints and data folders below a folder. Every checkpoint is loaded to make sure that it loads.

    Args:
        folder: Where to look.
        arch: Name of the architecture of checkpoints that do not tell their own.
    """
    found = Found()
    for place in _folders(folder):
        if is_transformers_folder(place):
            _add_checkpoint(found, place, arch)
            continue
        if is_data_folder(place):
            _add_data(found, place)
        for file in sorted(place.iterdir(), key=lambda path: natural_key(path.name)):
            if file.suffix.lower() in _ENDINGS and file.is_file():
                _add_checkpoint(found, file, arch)
    return found


def choose(checkpoints: Sequence[Checkpoint], folder: Path) -> Pair:
    """Choose the general and the medical checkpoint by their names.

    Both have one architecture. Pruned checkpoints are left out unless there are no others.

    Args:
        checkpoints: All that were found.
        folder: The folder below which they lie; its own name says nothing.
    """
    dense = [each for each in checkpoints if each.is_dense] or list(checkpoints)
    groups = [[each for each in dense if each.arch == arch] for arch in dict.fromkeys(each.arch for each in dense)]
    if not groups:
        return Pair(None, None, "no checkpoint was found")

    def roles(group: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[Checkpoint], list[Checkpoint]]:
        kinds = {each.path: _role(each.path, folder) for each in group}
        medical, general, other = (
            [each for each in group if kinds[each.path] == kind] for kind in ("medical", "general", "")
        )
        return medical, general, other

    best = max(groups, key=lambda group: (min(2, len(group)), sum(map(bool, roles(group)[:2])), len(group)))
    medical, general, other = roles(best)
    if len(best) == 1:
        chosen = best[0]
        return Pair(None, chosen, "the only one") if medical else Pair(chosen, None, "the only one")
    if medical and general:
        return Pair(general[0], medical[0], "by their names")
    if medical:
        rest = other or medical[1:]
        return Pair(rest[0], medical[0], "guessed: one name is medical, the other says nothing")
    rest = other or general[1:]
    if general:
        return Pair(general[0], rest[0], "guessed: one name is general, the other says nothing")
    return Pair(other[0], other[1], "guessed by the order of their names, which say nothing; swap them if wrong")


def architecture_text(checkpoint: Checkpoint) -> str | None:
    """Return what a configuration says about an architecture; None if the checkpoint describes itself."""
    if checkpoint.path.is_dir():
        return None
    if ARCHITECTURES.get(checkpoint.arch.name) == checkpoint.arch:
        return checkpoint.arch.name
    for file in sorted(checkpoint.path.parent.glob("*.json")):
        try:
            if resolve_architecture(file) == checkpoint.arch:
                return str(file)
        except MedcoreError:  # some other JSON file
            continue
    return None


def quoted(path: Path) -> str:
    """Return a path as YAML reads it back, in one printable line."""
    text = json.dumps(str(path), ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def _unwritable(path: Path) -> str:
    """Return why a configuration cannot name a path; empty if it can."""
    try:
        str(path).encode()
        if _PATH.validate_python(str(path)) == path:
            return ""
    except ValueError:
        pass
    return f"{path}: a configuration cannot hold this name, because of a $ or a byte that is no UTF-8; rename it"


def _role(path: Path, folder: Path) -> str:
    """Return `medical` or `general`, or an empty text if neither the file's name nor its folders' say."""
    for text in (path.stem, str(path.parent.relative_to(folder))):
        if _MEDICAL.search(text):
            return "medical"
        if _GENERAL.search(text):
            return "general"
    return ""


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and those below, as far as they are of use.

    Data folders, folders of transformers, studies and hidden folders are not looked into. Links are followed.
    """
    waiting, seen = [(folder, 0)], set[tuple[int, int]]()
    while waiting and len(seen) < _MOST:
        place, depth = waiting.pop(0)
        about = place.stat()
        if (about.st_dev, about.st_ino) in seen or not os.access(place, os.R_OK | os.X_OK):
            continue
        seen.add((about.st_dev, about.st_ino))
        if (place / "trials").is_dir() and (place / "config.yaml").is_file():
            continue
        yield place
        if depth == _DEEPEST or is_transformers_folder(place) or is_data_folder(place):
            continue
        inner = (path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        waiting += [(path, depth + 1) for path in sorted(inner, key=lambda path: natural_key(path.name))]


def _add_checkpoint(found: Found, path: Path, arch: str | None) -> None:
    if reason := _unwritable(path):
        found.unused.append(reason)
        return
    for name in (None,) if arch is None else (None, arch):
        try:
            model = load(path, name)
        except MedcoreError as error:
            reason = str(error)
        else:
            found.checkpoints.append(Checkpoint(path, model.arch, model.spec.is_dense))
            return
    found.unused.append(reason)


def _add_data(found: Found, folder: Path) -> None:
    if reason := _unwritable(folder):
        found.unused.append(reason)
        return
    try:
        listing = list_folder(folder)
    except MedcoreError as error:
        found.unused.append(str(error))
        return
    if folder.resolve().name in {each.path.resolve().name for each in found.data}:
        found.unused.append(f"{folder}: another data folder has the same name; rename one of them to use both")
        return
    doubt = _doubt(listing)
    found.data.append(DataFolder(folder, len(listing.samples), (folder / FILE_NAME).is_file(), doubt))


def _doubt(listing: Listing) -> str:
    """Return why a mask does not say what the object is; empty if all that are read do."""
    for sample in some_of(listing.samples):
        try:
            objects_in(listing.reader.read(sample), ReadingRules())
        except UnclearMask as error:
            return str(error).partition(";")[0]
        except UnreadableFile:
            continue
    return ""
