"""Data folders that hold `images/NAME.ext` and `masks/NAME.ext`, one picture a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medcore.data.names import natural_key
from medcore.data.reader import Listing, Reading, Sample, Skipped, UnreadableFile
from medcore.errors import DataError

IMAGES, MASKS = "images", "masks"


class ImageFolders:
    """Reader of PNG, JPEG, BMP, TIFF and WebP files.

    An image and its mask have the same name; their extensions may differ.
    """

    endings = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

    def holds(self, folder: Path) -> bool:
        """Tell whether both folders are there."""
        return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield all that lies in the two folders, hidden files aside.

        Raises:
            OSError: A folder cannot be listed.
        """
        for kind in (IMAGES, MASKS):
            yield from _visible(folder / kind)

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """Pair images and masks by their names without the ending.

        Files without a partner are listed as skipped.

        Raises:
            DataError: One of the two folders is missing or cannot be listed.
        """
        skipped: list[Skipped] = []
        images, masks = (self._by_name(folder / kind, dataset, skipped) for kind in (IMAGES, MASKS))
        skipped += [Skipped(dataset, images[name], "image without mask") for name in images if name not in masks]
        skipped += [Skipped(dataset, masks[name], "mask without image") for name in masks if name not in images]
        names = sorted(images.keys() & masks.keys(), key=natural_key)
        samples = [Sample(dataset, name, images[name], masks[name]) for name in names]
        return Listing(samples, skipped, folder / IMAGES, self)

    def read(self, sample: Sample) -> Reading:
        """Read the two files by the rules of `medcore.data.imagefile`.

        Raises:
            UnreadableFile: One of them cannot be read.
        """
        # imported here because listing a folder must not need Pillow
        from medcore.data.imagefile import IMAGE_ERRORS, read_image, read_labels

        try:
            picture = read_image(sample.image)
        except IMAGE_ERRORS as error:
            raise UnreadableFile(sample.image, "image", error) from None
        try:
            return Reading(picture, read_labels(sample.mask))
        except IMAGE_ERRORS as error:
            raise UnreadableFile(sample.mask, "mask", error) from None

    def _by_name(self, folder: Path, dataset: str, skipped: list[Skipped]) -> dict[str, Path]:
        """Return the picture files of a folder by name.

        All other files are appended to `skipped`.

        Raises:
            DataError: The folder cannot be listed.
        """
        try:
            files = sorted(_visible(folder), key=lambda file: natural_key(file.name))
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"{folder}: {reason}; a data folder holds {IMAGES}/ and {MASKS}/") from None
        named: dict[str, Path] = {}
        for file in files:
            if file.suffix.lower() not in self.endings or not file.is_file():
                skipped.append(Skipped(dataset, file, "not an image file"))
            elif file.stem in named:
                skipped.append(Skipped(dataset, file, f"same name as {named[file.stem].name}, which is used"))
            else:
                named[file.stem] = file
        return named


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))
