"""The challenge's archives: pictures and volumes as they were written, and archives that are refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcore.data.formats import volume
from medcore.data.formats.intensities import Intensities
from medcore.data.formats.npz import NpzFolders, modality_of
from medcore.data.formats.windows import ReadingRules
from medcore.data.load import load_image_set, to_square
from medcore.data.readers import is_data_folder, list_folder, reader_of
from medcore.errors import DataError
from tests.support.image_files import noise
from tests.support.volume_files import npz_folder, scan


def write(folder: Path, name: str = "2DBox_US_0001", **arrays: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def spot(height: int = 40, width: int = 30, value: int = 1) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[5:20, 8:19] = value
    return labels


def test_a_picture_is_a_sample_and_knows_its_modality(tmp_path: Path) -> None:
    write(tmp_path / "s", imgs=noise(0), gts=spot(), boxes=np.array([[8, 5, 18, 19]]))
    listing = list_folder(tmp_path / "s")
    (sample,) = listing.samples
    assert (sample.name, sample.modality, sample.group, sample.volume) == ("2DBox_US_0001", "US", "", "")
    found = listing.reader.read(sample)
    assert (np.asarray(found.image) == noise(0)).all() and (found.labels.values == spot()).all()
    assert found.spacing is None
    images, skipped = load_image_set([tmp_path / "s"], "all", 30)
    assert (images.truths[0] == spot().astype(bool)).all() and not skipped and not images.is_spaced
    assert [modality_of(name) for name in ("3DBox_CT_x_1", "CT_Abd_1", "MR_1", "case", "2D_X-Ray_1")] == [
        *["CT", "CT", "MR", "", "X-Ray"]
    ]


def test_a_volume_is_its_slices_with_the_spacing_of_rows_and_columns(tmp_path: Path) -> None:
    folder = npz_folder(tmp_path / "s", cases=2)
    listing = list_folder(folder)
    assert [sample.name for sample in listing.samples][3:5] == ["3DBox_CT_0000_z003", "3DBox_CT_0001_z000"]
    assert {sample.group for sample in listing.samples} == {"3DBox_CT_0000", "3DBox_CT_0001"}
    labels = scan(1)[1]
    found = listing.reader.read(listing.samples[4 + 2])
    assert (found.labels.values == labels[2]).all() and found.spacing == (1.3, 0.7)
    images, skipped = load_image_set([folder], "all", 32)
    assert len(images) == 6 and images.is_spaced
    (entry,) = skipped
    assert "without foreground" in entry.reason and "2 slices of 2 volumes" in entry.reason


def test_a_spacing_that_looks_reversed_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_image_set([npz_folder(tmp_path / "usual", cases=2)], "all", 32)
    assert not caplog.messages
    images, _ = load_image_set([npz_folder(tmp_path / "s", cases=2, spacing=(5.0, 0.7, 0.7))], "all", 32)
    assert len(caplog.messages) == 1 and "(z, y, x)" in caplog.messages[0] and images.spacing(0) == (0.7, 5.0)


def test_numbers_of_more_than_8_bits_are_measured_values(tmp_path: Path) -> None:
    values, labels = scan(3)
    write(tmp_path / "s", "3DBox_CT_1", imgs=values, gts=labels)
    listing = list_folder(tmp_path / "s")
    image = listing.reader.read(listing.samples[1]).image
    assert isinstance(image, Intensities) and (image.values == values[1]).all()
    assert image.limits() == tuple(np.percentile(values[values != 0], [0.5, 99.5]))
    bright, _ = load_image_set([tmp_path / "s"], "all", 20, rules=ReadingRules(windows=(0.0, 2.0)))
    steps = np.select([values[1] < 0, values[1] == 0], [0, 128], 255).astype(np.uint8)
    assert (bright.images[0] == to_square(Image.fromarray(steps).convert("RGB"), 20)).all()


def test_labels_of_a_volume_are_judged_together(tmp_path: Path) -> None:
    """A slice that has only one of two labels is no mask of two values."""
    values, labels = scan(4)
    labels[3] *= 2
    write(tmp_path / "s", "3DBox_CT_1", imgs=values, gts=labels)
    with pytest.raises(DataError, match=r"0, 1, 2.*data\.labels"):
        load_image_set([tmp_path / "s"], "all", 20)
    images, _ = load_image_set([tmp_path / "s"], "all", 20, rules=ReadingRules(labels=(2,)))
    assert images.names == ["3DBox_CT_1_z003"]
    images, _ = load_image_set([tmp_path / "s"], "all", 20, rules=ReadingRules(objects="labels"))
    assert images.names == ["3DBox_CT_1_z001#1", "3DBox_CT_1_z002#1", "3DBox_CT_1_z003#2"]


def test_images_and_labels_may_lie_in_two_folders(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root / "imgs", imgs=noise(1), boxes=np.zeros((1, 4)))
    write(root / "gts", gts=spot())
    write(root / "imgs", "2DBox_US_0002", imgs=noise(2))
    listing = list_folder(root)
    assert isinstance(listing.reader, NpzFolders) and len(list(listing.reader.files(root))) == 3
    assert [sample.name for sample in listing.samples] == ["2DBox_US_0001"]
    assert [entry.path.name for entry in listing.skipped] == ["2DBox_US_0002.npz"]
    assert (listing.reader.read(listing.samples[0]).labels.values == spot()).all()


def test_only_the_challenges_archives_make_a_data_folder(tmp_path: Path) -> None:
    write(tmp_path / "code", "weights", w=np.zeros(3))
    (tmp_path / "code" / "run.py").write_text("")
    assert not is_data_folder(tmp_path / "code")
    write(tmp_path / "own", "case1", imgs=noise(0), gts=spot())
    assert isinstance(reader_of(tmp_path / "own"), NpzFolders)


def rezipped(path: Path, **members: bytes) -> None:
    """Replace an archive by one of these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def npy(array: np.ndarray, shape: str | None = None) -> bytes:
    """A `.npy` file, whose header may lie about the shape."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    data = file.getvalue()
    if shape is None:
        return data
    text = str(array.shape).encode()
    return data.replace(text, shape.encode().ljust(len(text)), 1)


PICKLED = np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"gts": spot()}, "imgs"),
        ({"imgs": noise(0)}, "gts"),
        ({"imgs": noise(0), "gts": spot(39)}, "shape"),
        ({"imgs": noise(0), "gts": spot().astype(float)}, "integers"),
        ({"imgs": noise(0).astype(np.uint16), "gts": spot()}, "8 bits"),
        ({"imgs": np.zeros((40, 30), bool), "gts": spot()}, "booleans"),
        ({"imgs": np.zeros((40, 30), complex), "gts": spot()}, "numbers"),
        ({"imgs": np.zeros((0, 3, 4)), "gts": np.zeros((0, 3, 4), int)}, "shape"),
        ({"imgs": noise(0)[None], "gts": np.zeros((1, 1, 40, 30), int)}, "shape"),
        ({"imgs": noise(0), "gts": PICKLED}, "numbers"),
        ({"imgs": noise(0), "gts": spot(), "boxes": PICKLED}, "numbers"),
    ],
)
def test_archives_that_do_not_fit_are_listed(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "s", **arrays)
    listing = list_folder(tmp_path / "s")
    (entry,) = listing.skipped
    assert not listing.samples and words in entry.reason and "\n" not in entry.reason


def test_headers_that_lie_and_bombs_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, lie = npy(noise(0)), npy(np.zeros(12, np.uint8), "(1<<40,)")
    path = write(tmp_path / "s", imgs=noise(0), gts=spot())
    for members in (
        {"imgs": good, "gts": lie},
        {"imgs": good, "gts": npy(np.zeros(12345, np.uint8), "(99999,)")},
        {"imgs": good, "gts": npy(spot())[:-7]},
        {"imgs": good, "gts": b"\x93NUMPY\x01\x00" + (60_000).to_bytes(2, "little") + b"(" * 60_000},
        {"imgs": good, "gts": b"\x93NUMPY\x01\x00" + (9_000).to_bytes(2, "little") + b"(" * 9_000},
        {"imgs": good, "gts": b""},
    ):
        rezipped(path, **members)
        assert not list_folder(tmp_path / "s").samples, members["gts"][:80]
    # a table of contents that claims more compressed bytes than the file has
    rezipped(path, imgs=good, gts=npy(np.zeros((4000, 4000), np.uint8)))
    archive = bytearray(path.read_bytes())
    entry = archive.rindex(b"PK\x01\x02")
    archive[entry + 20 : entry + 24] = (16_000_000).to_bytes(4, "little")
    path.write_bytes(bytes(archive))
    assert not list_folder(tmp_path / "s").samples
    monkeypatch.setattr(volume, "LARGEST_BYTES", 100_000)
    rezipped(path, imgs=npy(np.zeros((300, 400), np.uint8)), gts=npy(np.zeros((300, 400), np.uint8)))
    (entry,) = list_folder(tmp_path / "s").skipped
    assert "120128 bytes" in entry.reason and "100000" in entry.reason
    path.write_bytes(b"PK\x03\x04 torn")
    assert "npz" in list_folder(tmp_path / "s").skipped[0].reason
