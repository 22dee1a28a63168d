"""A format of data is one class: once registered, its folders are listed, read, compared and kept out of jobs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcore.data import readers
from medcore.data.image_folders import ImageFolders
from medcore.data.labels import LabelMap
from medcore.data.load import load_image_set
from medcore.data.names import natural_key
from medcore.data.reader import Listing, Reader, Reading, Sample, UnreadableFile
from medcore.data.readers import is_data_folder, list_folder, reader_of, stem
from medcore.errors import DataError
from medcore.registry import Registry
from search.commands.cluster.job_files import left_out
from search.nodes.probe import data_folder
from tests.support.image_files import blob, image_folder, noise


class Volumes:
    """`volumes/NAME.vol.npz` with arrays `slices` and `masks`; each slice is a sample."""

    endings = frozenset({".vol.npz"})

    def holds(self, folder: Path) -> bool:
        return (folder / "volumes").is_dir()

    def files(self, folder: Path) -> Iterator[Path]:
        return (folder / "volumes").iterdir()

    def list_samples(self, folder: Path, dataset: str) -> Listing:
        samples = []
        for file in sorted(self.files(folder), key=lambda file: natural_key(file.name)):
            with np.load(file) as content:
                names = [f"{stem(file.name)}_{index}" for index in range(len(content["masks"]))]
            samples += [Sample(dataset, name, file, file, index) for index, name in enumerate(names)]
        return Listing(samples, [], folder / "volumes", self)

    def read(self, sample: Sample) -> Reading:
        try:
            with np.load(sample.image) as content:
                return Reading(
                    Image.fromarray(content["slices"][sample.index]), LabelMap(content["masks"][sample.index])
                )
        except (OSError, ValueError) as error:
            raise UnreadableFile(sample.image, "image", error) from None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Reader] = Registry("data reader")
    registry.register("image_folders")(ImageFolders())
    registry.register("volumes")(Volumes())
    monkeypatch.setattr(readers, "READERS", registry)


@pytest.fixture
def volumes(tmp_path: Path, registered: None) -> Path:
    root = tmp_path / "set"
    (root / "volumes").mkdir(parents=True)
    for number, count in ((10, 3), (9, 2)):
        slices = np.stack([noise(number + index) for index in range(count)])
        np.savez(root / "volumes" / f"v{number}.vol.npz", slices=slices, masks=np.stack([blob()] * count))
    return root


def test_one_file_may_hold_many_samples(volumes: Path) -> None:
    images, skipped = load_image_set([volumes], "all", 32)
    assert images.names == ["v9_0", "v9_1", "v10_0", "v10_1", "v10_2"] and not skipped
    pictures, _ = load_image_set([volumes], "all", 30)
    expected = Image.fromarray(noise(12)).resize((30, 30), Image.Resampling.BICUBIC)
    assert (pictures.images[4] == np.asarray(expected).transpose(2, 0, 1)).all()
    (volumes / "splits.json").write_text(json.dumps({"val": ["v10_1", "v10_7"]}))
    images, skipped = load_image_set([volumes], "val", 32)
    assert images.names == ["v10_1"]
    assert {entry.path for entry in skipped} >= {volumes / "volumes" / "v10_7"}


def test_what_a_reader_cannot_read_is_listed(volumes: Path) -> None:
    class Torn(Volumes):
        def read(self, sample: Sample) -> Any:
            return super().read(dataclasses.replace(sample, image=sample.image.with_name("gone")))

    readers.READERS._entries["volumes"] = Torn()
    with pytest.raises(DataError, match=r"gone \(unreadable image \(.*No such file"):
        load_image_set([volumes], "all", 32)


def test_a_folder_belongs_to_the_reader_that_knows_its_format(volumes: Path, tmp_path: Path) -> None:
    pictures = image_folder(tmp_path / "pictures", ["a"])
    assert isinstance(reader_of(volumes), Volumes) and isinstance(reader_of(pictures), ImageFolders)
    assert is_data_folder(volumes) and is_data_folder(pictures) and not is_data_folder(tmp_path)
    with pytest.raises(DataError, match=r"no images found.* images/ and masks/"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        *[("a.png", "a"), ("deep/a.b.JPEG", "a.b"), ("v1.vol.npz", "v1"), ("v1.npz", "v1.npz")],
        *[("a.b", "a.b"), (".png", ".png"), ("a", "a"), ("p1/a", "p1/a")],
    ],
)
def test_entries_of_a_manifest_lose_the_endings_of_data_files(entry: str, name: str, registered: None) -> None:
    assert stem(entry) == name


def test_nodes_compare_the_files_that_the_reader_names(volumes: Path, tmp_path: Path) -> None:
    seen = data_folder(volumes)
    assert seen.files == 2 and seen.reason is None
    (volumes / "notes.txt").write_text("no data")
    assert data_folder(volumes) == seen
    (volumes / "volumes" / "v9.vol.npz").write_bytes(b"shorter")
    assert data_folder(volumes).digest != seen.digest
    assert data_folder(tmp_path / "gone").reason == "No such file or directory"


def test_a_job_takes_no_data_along(volumes: Path) -> None:
    config: Any = type("C", (), {"data": type("D", (), {"folders": []}), "output": volumes.parent / "runs"})
    assert left_out(Path("set/notes.txt"), volumes.parent, config)
    assert not left_out(Path("other/notes.txt"), volumes.parent, config)
