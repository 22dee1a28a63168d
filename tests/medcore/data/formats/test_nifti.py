"""NIfTI volumes by nibabel: layouts, planes, spacings, scaling, and files that are refused."""

from __future__ import annotations

import gzip
import importlib
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medcore.data.formats import volume
from medcore.data.formats.intensities import Intensities
from medcore.data.formats.nifti import NiftiFolders
from medcore.data.formats.nifti_header import read_header
from medcore.data.load import load_image_set
from medcore.data.readers import list_folder, reader_of, stem
from medcore.errors import DataError
from tests.support.image_files import image_folder
from tests.support.volume_files import affine_of, nifti_folder, scan, write_nifti


def pair(root: Path, values: np.ndarray, labels: np.ndarray, affine: np.ndarray, ending: str = ".nii") -> Path:
    """Write one volume with its labels into `images/` and `masks/`."""
    write_nifti(root / "images" / f"v{ending}", values, affine)
    write_nifti(root / "masks" / f"v{ending}", labels, affine)
    return root


def test_nnunets_cases_are_paired_and_other_channels_are_named(tmp_path: Path) -> None:
    folder = nifti_folder(tmp_path / "s", cases=2)
    write_nifti(folder / "imagesTr" / "case1_0001.nii.gz", scan(1)[0].T, np.eye(4))
    write_nifti(folder / "imagesTr" / "lone_0000.nii.gz", scan(1)[0].T, np.eye(4))
    (folder / "labelsTr" / "notes.txt").write_text("")
    listing = list_folder(folder)
    assert isinstance(listing.reader, NiftiFolders)
    assert [sample.name for sample in listing.samples][2:5] == ["case0_z002", "case0_z003", "case1_z000"]
    reasons = {entry.path.name: entry.reason for entry in listing.skipped}
    assert reasons.keys() == {"case1_0001.nii.gz", "lone_0000.nii.gz", "notes.txt"}
    assert "channel" in reasons["case1_0001.nii.gz"] and "without mask" in reasons["lone_0000.nii.gz"]
    values, labels = scan(1)
    found = listing.reader.read(listing.samples[6])
    assert isinstance(found.image, Intensities) and (found.image.values == values[2]).all()
    assert (found.labels.values == labels[2]).all()
    assert found.spacing == pytest.approx((1.3, 0.7)) and stem("case0.nii.gz") == "case0"


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((5.0, 0.7, 0.8), 0), ((0.7, 5.0, 0.8), 1), ((0.7, 0.8, 5.0), 2), ((5, 5, 1), 2), ((1, 1, 1), 2)],
)
def test_slices_lie_across_the_longest_voxels(spacing: tuple[float, float, float], axis: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 999, (6, 7, 8)).astype(np.int16)
    folder = pair(tmp_path / "s", values, (values > 500).astype(np.uint8), affine_of(spacing))
    listing = list_folder(folder)
    assert len(listing.samples) == values.shape[axis]
    found = listing.reader.read(listing.samples[3])
    assert (found.image.values == values.take(3, axis).T).all()
    first, second = (side for index, side in enumerate(spacing) if index != axis)
    assert found.spacing == pytest.approx((second, first))


def test_patients_may_have_folders_and_are_groups(tmp_path: Path) -> None:
    values, labels = (array.T for array in scan(0))
    for case in ("p1/early", "p1/late", "p2/early"):
        write_nifti(tmp_path / "s" / "images" / f"{case}.nii.gz", values, np.eye(4))
        write_nifti(tmp_path / "s" / "labels" / f"{case}.nii.gz", labels, np.eye(4))
    samples = list_folder(tmp_path / "s").samples
    assert {(sample.volume, sample.group) for sample in samples} == {
        *[("p1_early", "p1"), ("p1_late", "p1"), ("p2_early", "p2")]
    }


def test_units_scaling_versions_and_byte_orders(tmp_path: Path) -> None:
    values, labels = (np.ascontiguousarray(array.T) for array in scan(2))
    for kind, order in ((nibabel.Nifti1Image, "<"), (nibabel.Nifti1Image, ">"), (nibabel.Nifti2Image, ">")):
        header = kind.header_class(endianness=order)
        image = kind(values.astype(order + "i2"), affine_of((700, 1300, 5000)), header)
        image.header.set_xyzt_units("micron")
        image.header.set_slope_inter(2.0, -30.0)
        for place, picture in (("images", image), ("masks", kind(labels, affine_of((700, 1300, 5000))))):
            (tmp_path / "s" / place).mkdir(parents=True, exist_ok=True)
            nibabel.save(picture, tmp_path / "s" / place / "v.nii")
        written = nibabel.load(tmp_path / "s" / "images" / "v.nii")
        listing = list_folder(tmp_path / "s")
        found = listing.reader.read(listing.samples[1])
        np.testing.assert_array_equal(found.image.values, np.asarray(written.dataobj)[:, :, 1].T)
        assert found.spacing == pytest.approx((1.3, 0.7))
        whole = np.asarray(written.dataobj)
        assert found.image.limits() == pytest.approx(tuple(np.percentile(whole[whole != 0], [0.5, 99.5])))


def test_a_mask_of_another_place_or_size_is_listed(tmp_path: Path) -> None:
    values, labels = (array.T for array in scan(0))
    folder = pair(tmp_path / "s", values, labels, affine_of((1, 1, 5)))
    flipped = affine_of((1, 1, 5)) @ np.diag([-1, 1, 1, 1])
    write_nifti(folder / "masks" / "v.nii", labels, flipped)
    with pytest.raises(DataError, match="orientation"):
        load_image_set([folder], "all", 20)
    write_nifti(folder / "masks" / "v.nii", labels[:, :, :2], affine_of((1, 1, 5)))
    (entry,) = list_folder(folder).skipped
    assert "another size" in entry.reason and entry.path.parent.name == "masks"


def test_a_matrix_that_contradicts_the_voxel_sizes_is_refused(tmp_path: Path) -> None:
    values, labels = (array.T for array in scan(0))
    folder = pair(tmp_path / "s", values, labels, np.diag([1.0, 1.0, 5.0, 1.0]))
    data = bytearray((folder / "images" / "v.nii").read_bytes())
    data[80:84] = struct.pack("<f", 0.5)
    (folder / "images" / "v.nii").write_bytes(data)
    with pytest.raises(DataError, match="pixdim"):
        load_image_set([folder], "all", 20)


def edited(data: bytes, place: int, kind: str, *values: float) -> bytes:
    return data[:place] + struct.pack(kind, *values) + data[place + struct.calcsize(kind) :]


def test_headers_that_lie_are_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, labels = (array.T for array in scan(0))
    folder = pair(tmp_path / "s", values, labels, np.eye(4))
    path = folder / "images" / "v.nii"
    good = path.read_bytes()
    for data, words in (
        (edited(good, 40, "<4h", 3, 30000, 30000, 2), "bytes"),
        (edited(good, 40, "<4h", 3, 30000, 30000, 30000), "split the file"),
        (edited(good, 40, "<4h", 3, -5, 20, 4), "shape"),
        (edited(good, 40, "<6h", 4, 20, 24, 1, 4, 1), "three dimensions"),
        (edited(good, 40, "<h", 77), "dimensions"),
        (edited(good, 70, "<h", 128), "type 128"),
        (edited(good, 108, "<f", float("nan")), "header"),
        (edited(good, 108, "<f", 1e30), "bytes"),
        (edited(good, 344, "4s", b"ni1\0"), "pairs"),
        (good[:-1], "bytes"),
        (good[:100], "short"),
        (b"", "short"),
        (b"x" * 500, "NIfTI"),
        (gzip.compress(good), "ending"),
    ):
        path.write_bytes(data)
        (entry,) = list_folder(folder).skipped
        assert words in entry.reason and entry.path == path, entry
    path.unlink()
    zipped = path.with_suffix(".nii.gz")
    zipped.write_bytes(gzip.compress(edited(good, 40, "<4h", 3, 3000, 3000, 2)))
    with pytest.raises(ValueError, match="36000000 bytes"):
        read_header(zipped)
    zipped.write_bytes(gzip.compress(good)[:-900])
    listing = list_folder(folder)
    with pytest.raises(DataError, match="unreadable image"):
        load_image_set([folder], "all", 20)
    assert len(listing.samples) == 4
    monkeypatch.setattr(volume, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match="1000"):
        read_header(zipped)


def test_a_missing_package_is_one_line_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nifti_folder(tmp_path / "s", cases=1)

    def absent(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(DataError, match=r"nibabel.*medcore-search\[volumes\]") as caught:
        load_image_set([folder], "all", 20)
    assert "\n" not in str(caught.value)


def test_pictures_beside_no_volume_stay_pictures(tmp_path: Path) -> None:
    assert not isinstance(reader_of(image_folder(tmp_path / "s", ["a"])), NiftiFolders)


def test_a_scan_that_was_left_among_pictures_changes_nothing(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "s", [f"a{number}" for number in range(5)])
    before = list_folder(folder).samples
    for stray in ("stray.nii.gz", "stray.dcm", "2D_features.npz"):
        (folder / "images" / stray).write_bytes(b"x")
    (folder / "2D_features.npz").write_bytes(b"x")
    listing = list_folder(folder)
    assert listing.samples == before and len(listing.skipped) == 3
