"""What a data folder holds, before any file is opened: `images/NAME.ext` paired with `masks/NAME.ext`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcore.data.imagefile import EXTENSIONS
from medcore.data.splits import natural_key
from medcore.errors import MedcoreError


@dataclass(frozen=True)
class Sample:
    """An image file with its mask file."""

    dataset: str
    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Skipped:
    """A file, or a manifest's entry, that was left out, and why."""

    dataset: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a data folder holds: pairs in natural name order, and what has no pair."""

    samples: list[Sample]
    skipped: list[Skipped]


def list_folder(root: Path, dataset: str | None = None) -> Listing:
    """Pairs images and masks by the name without its ending. Hidden files are ignored, other oddities listed.

    Args:
        root: folder with `images/` and `masks/`.
        dataset: name of the data set; the folder's name if None.

    Raises:
        MedcoreError: if the folder or one of the two inside it is missing or cannot be read.
    """
    root = Path(root)
    dataset = dataset or root.resolve().name
    skipped: list[Skipped] = []
    images, masks = (_by_stem(root / kind, dataset, skipped) for kind in ("images", "masks"))
    skipped += [Skipped(dataset, images[n], "image without mask") for n in images if n not in masks]
    skipped += [Skipped(dataset, masks[n], "mask without image") for n in masks if n not in images]
    both = sorted(images.keys() & masks.keys(), key=natural_key)
    return Listing([Sample(dataset, name, images[name], masks[name]) for name in both], skipped)


def _by_stem(folder: Path, dataset: str, skipped: list[Skipped]) -> dict[str, Path]:
    try:
        files = sorted((f for f in folder.iterdir() if f.name[0] != "."), key=lambda f: natural_key(f.name))
    except OSError as error:
        reason = error.strerror or str(error)
        raise MedcoreError(f"{folder}: {reason}; a data folder holds images/ and masks/") from None
    found: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() not in EXTENSIONS or not file.is_file():
            skipped.append(Skipped(dataset, file, "not an image file"))
        elif file.stem in found:
            skipped.append(Skipped(dataset, file, f"same name as {found[file.stem].name}, which is used"))
        else:
            found[file.stem] = file
    return found
