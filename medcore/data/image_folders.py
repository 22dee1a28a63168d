"""Data folders with one picture a file: `images/NAME.ext` and `masks/NAME.ext`, and the other usual layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from medcore.data.names import natural_key, readable
from medcore.data.pictures.layouts import HELP, Layout, apart, case_of, files_below, layout_of, pairs, sample_name
from medcore.data.reader import Listing, Reading, Sample, Skipped, UnreadableFile
from medcore.errors import DataError
from medcore.files import not_a_file

_MANIFEST = "splits.json"


class ImageFolders:
    """Reader of PNG, JPEG, BMP, TIFF and WebP files.

    An image and its mask have the same name, or the mask's has an ending such as `_mask`; their extensions may differ.
    A sample in a folder of images has the name FOLDER/NAME, and the folder is its group.
    """

    endings = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

    def holds(self, folder: Path) -> bool:
        """Tell whether images and masks are where they can be found.

        Pictures that lie in the folder itself count only if most of its files are pictures.
        """
        try:
            layout = layout_of(folder)
            if not layout.is_mixed:
                return any(map(self._is_picture, files_below(layout.images, deep=True)))
            files = list(files_below(layout.images, deep=layout.is_deep))
        except OSError:
            return False
        pictures = list(filter(self._is_picture, files))
        return len(pictures) > len(files) / 2 and any(apart(self._name(file, layout.images) for file in pictures)[1])

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield all files where the images and masks lie, hidden files aside.

        Raises:
            OSError: A folder cannot be listed.
        """
        layout = layout_of(folder)
        for place in dict.fromkeys((layout.images, layout.masks)):
            yield from (file for file in files_below(place, deep=layout.is_deep) if not not_a_file(file))

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        """Pair images and masks by their names without the ending.

        Files without a partner are listed as skipped.

        Raises:
            DataError: A folder cannot be listed, several could hold the masks, or no image has a mask.
        """
        skipped: list[Skipped] = []
        try:
            layout = layout_of(folder)
            images, masks = self._images_and_masks(layout, dataset, skipped)
        except OSError as error:
            raise DataError(f"{error.filename or folder}: {error.strerror or error}; {HELP}") from None
        if layout.others:
            places = " or ".join(f"{place.name}/" for place in (layout.masks, *layout.others))
            raise DataError(f"{folder}: the masks may lie in {places}; call the right one masks/")
        found, spare = pairs(images, masks)
        if not found:
            raise DataError(f"{folder}: {_unmatched(images, masks)}{_first(skipped)}")
        used = set(found.values())
        samples = []
        for name, mask in found.items():
            group = name.partition("/")[0] if "/" in name else ""
            called = sample_name(name, mask, images)
            samples.append(Sample(dataset, called, images[name], masks[mask], group=group))
        names = {sample.name for sample in samples}
        for name in images.keys() - found.keys():
            reason = f"another channel of {case_of(name)}" if case_of(name) in names else "image without mask"
            skipped.append(Skipped(dataset, images[name], reason))
        for name in masks.keys() - used:
            reason = f"another mask of {spare[name]}, which has one" if name in spare else "mask without image"
            skipped.append(Skipped(dataset, masks[name], reason))
        samples.sort(key=lambda sample: natural_key(sample.name))
        return Listing(samples, sorted(skipped, key=lambda entry: natural_key(str(entry.path))), layout.images, self)

    def read(self, sample: Sample) -> Reading:
        """Read the two files by the rules of `medcore.data.imagefile`.

        Raises:
            UnreadableFile: One of them cannot be read.
        """
        # imported here because listing a folder must not need Pillow
        from medcore.data.imagefile import IMAGE_ERRORS, read_labels, read_oriented

        try:
            picture, orientation = read_oriented(sample.image)
        except IMAGE_ERRORS as error:
            raise UnreadableFile(sample.image, "image", error) from None
        try:
            return Reading(picture, read_labels(sample.mask, picture.size, orientation))
        except IMAGE_ERRORS as error:
            raise UnreadableFile(sample.mask, "mask", error) from None

    def _images_and_masks(
        self, layout: Layout, dataset: str, skipped: list[Skipped]
    ) -> tuple[dict[str, Path], dict[str, Path]]:
        """Return the picture files by name; all other files are appended to `skipped`.

        Raises:
            OSError: A folder cannot be listed.
        """
        images = self._by_name(layout.images, layout.is_deep, dataset, skipped)
        if not layout.is_mixed:
            return images, self._by_name(layout.masks, layout.is_deep, dataset, skipped)
        each = apart(images)
        return {name: images[name] for name in each[0]}, {name: images[name] for name in each[1]}

    def _by_name(self, folder: Path, deep: bool, dataset: str, skipped: list[Skipped]) -> dict[str, Path]:
        named: dict[str, Path] = {}
        for file in files_below(folder, deep=deep):
            name = self._name(file, folder)
            if file.name == _MANIFEST and file.parent == folder:
                continue
            if not self._is_picture(file):
                skipped.append(Skipped(dataset, file, "not an image file"))
            elif kind := not_a_file(file):
                skipped.append(Skipped(dataset, file, kind))
            elif name in named:
                skipped.append(Skipped(dataset, file, f"same name as {named[name].name}, which is used"))
            else:
                named[name] = file
        return named

    def _is_picture(self, file: Path) -> bool:
        return file.suffix.lower() in self.endings

    @staticmethod
    def _name(file: Path, folder: Path) -> str:
        return readable(file.relative_to(folder).with_suffix("").as_posix())


def _unmatched(images: Iterable[str], masks: Iterable[str]) -> str:
    """Return why no image has a mask, and what to do."""
    if ending := _shared_ending(images, masks):
        return f"the masks are called NAME{ending}, which is no ending of masks; call them NAME or NAME_mask"
    first = [next(iter(names), None) for names in (images, masks)]
    if first[0] is None:
        return f"no images found; {HELP}"
    if first[1] is None:
        return f"images such as {first[0]}, but no masks; {HELP}"
    return f"no image and mask have the same name; the first are {first[0]} and {first[1]}; {HELP}"


def _shared_ending(images: Iterable[str], masks: Iterable[str]) -> str:
    """Return what most masks have behind the name of an image; empty if nothing is shared."""
    names, known = list(masks), set(images)
    found = Counter(
        name[cut:] for name in names for cut in range(1, len(name)) if name[:cut] in known and not name[cut].isalnum()
    )
    (ending, count), *_ = found.most_common(1) or [("", 0)]
    return ending if count > len(names) / 2 else ""


def _first(skipped: list[Skipped]) -> str:
    return f" ({len(skipped)} other files, the first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
