"""Where image and mask files lie in a data folder, and which of them belong together.

Listing a folder opens no file and needs nothing but the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcore.data.names import natural_key

#: Names of the folders that hold images and masks. The first that exists counts.
IMAGES = ("images", "imagesTr", "image", "imgs", "img")
MASKS = (
    *("masks", "labelsTr", "mask", "labels", "label", "gt", "groundtruth", "ground_truth"),
    *("annotations", "segmentations", "segmentation"),
)
#: Ending of the first channel's name in nnU-Net's folders; the mask goes without.
CHANNEL = "_0000"
#: What a user can do with a folder that has none of these layouts.
HELP = (
    "a data folder holds images/ and masks/ (or labels/, gt/) with files of the same name, also in one folder for each "
    "patient; or imagesTr/ and labelsTr/ as for nnU-Net; or masks called NAME_mask or NAME_segmentation"
)
_MASK_NAME = re.compile(r"(.+?)[_-](?:mask|segmentation|seg|labels?|gt|ground_?truth)(?:[_-]\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Where images and masks lie.

    Attributes:
        images: Folder of the images.
        masks: Folder of the masks; may be the images'.
        is_deep: Whether folders in these folders count.
        others: Further folders that may hold masks.
    """

    images: Path
    masks: Path
    is_deep: bool = True
    others: tuple[Path, ...] = ()

    @property
    def is_mixed(self) -> bool:
        """Whether images and masks lie in one folder."""
        return self.images == self.masks


def layout_of(folder: Path) -> Layout:
    """Return where images and masks lie, as far as the names of folders tell.

    Raises:
        OSError: The folder cannot be listed.
    """
    folders = {path.name.lower(): path for path in sorted(visible(folder), reverse=True) if path.is_dir()}
    images = [folders[name.lower()] for name in IMAGES if name.lower() in folders]
    if not images:
        return Layout(folder, folder, is_deep=False)
    masks = [folders[name.lower()] for name in MASKS if name.lower() in folders]
    if not masks:
        return Layout(images[0], images[0])
    is_usual = masks[0].name.lower() in MASKS[:1] or (images[0].name, masks[0].name) == ("imagesTr", "labelsTr")
    return Layout(images[0], masks[0], others=() if is_usual else tuple(masks[1:]))


def visible(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder, hidden files aside.

    Raises:
        OSError: The folder cannot be listed.
    """
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield what is no folder in a folder, in natural order, hidden files aside.

    Args:
        folder: The folder.
        deep: Look into its folders, too. Links to folders are followed, but not in circles.

    Raises:
        OSError: A folder cannot be listed.
    """
    return _below(folder, deep, frozenset())


def _below(folder: Path, deep: bool, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    place = folder.stat()
    inside = above | {(place.st_dev, place.st_ino)}
    if inside == above:
        return
    for path in sorted(visible(folder), key=lambda path: natural_key(path.name)):
        if not path.is_dir():
            yield path
        elif deep:
            yield from _below(path, deep, inside)


def mask_base(name: str) -> str:
    """Return a mask's name without `_mask` and the like; empty if it does not end so."""
    found = _MASK_NAME.fullmatch(name)
    return found[1] if found else ""


def apart(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Tell the images and the masks of one folder apart.

    Returns:
        Names of images, and of masks: those that are called like an image with an ending such as `_mask`.
    """
    known = list(names)
    everything = set(known)
    masks = {name for name in known if _image_of(mask_base(name), everything)}
    return [name for name in known if name not in masks], [name for name in known if name in masks]


def pairs(images: Mapping[str, object], masks: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the mask of each image.

    Args:
        images: Anything, by names in natural order.
        masks: Anything, by names in natural order.

    Returns:
        The mask's name by the image's; and for each mask that is one too many the name of the image.
    """
    found = {name: name for name in images if name in masks}
    spare: dict[str, str] = {}
    for name in masks:
        if name in found:
            continue
        image = _image_of(name, images) or _image_of(mask_base(name), images)
        if image and image in found:
            spare[name] = image
        elif image:
            found[image] = name
    return found, spare


def sample_name(image: str, mask: str, taken: Container[str]) -> str:
    """Return the name of the sample of an image and its mask.

    It is the image's, without nnU-Net's channel if the mask has none and no other image is called so.
    """
    short = image.removesuffix(CHANNEL)
    return short if short in (mask, mask_base(mask)) and short not in taken else image


def case_of(image: str) -> str:
    """Return the case that an image of nnU-Net is a channel of; empty if its name does not end like a channel's."""
    found = re.fullmatch(r"(.+)_\d{4}", image)
    return found[1] if found else ""


def _image_of(name: str, images: Container[str]) -> str:
    return next((each for each in (name, name + CHANNEL) if name and each in images), "")
