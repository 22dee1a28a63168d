"""Random volumes by NumPy, nibabel and pydicom are read back equal, and damaged files never end in a traceback."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcore.data.formats.intensities import Intensities
from medcore.data.formats.windows import ReadingRules
from medcore.data.load import load_image_set
from medcore.data.reader import Listing
from medcore.data.readers import list_folder
from medcore.errors import MedcoreError
from tests.support.volume_files import affine_of, dicom_file

KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4", "f2", "c8", "b1"]
LABEL_KINDS = ["u1", "i1", "u2", "i2", "i4", "i8", "f4", "b1", ">u2"]


@dataclass(frozen=True)
class Case:
    """A volume to write (slices, rows, columns), its labels and its spacing, and places to damage."""

    values: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]
    damage: list[tuple[float, int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 9)))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, label_kind = draw(st.sampled_from(KINDS)), draw(st.sampled_from(LABEL_KINDS))
    scale = draw(st.sampled_from([1.0, 100.0, 30000.0]))
    values = (chance.standard_normal(shape) * scale).astype(kind)
    if values.dtype.kind in "fc" and draw(st.integers(0, 5)) == 0:
        values.flat[0] = np.nan
    labels = chance.integers(0, draw(st.sampled_from([2, 4, 40])), shape).astype(label_kind)
    side = st.floats(0.015625, 20.0, width=32)
    damage = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
    return Case(values, labels, draw(st.tuples(side, side, side)), damage)


def write_npz(root: Path, case: Case) -> list[Path]:
    np.savez_compressed(root / "3DBox_CT_a.npz", imgs=case.values, gts=case.labels, spacing=np.array(case.spacing))
    return [root / "3DBox_CT_a.npz"]


def write_nifti(root: Path, case: Case) -> list[Path]:
    files = [root / "images" / "a.nii.gz", root / "masks" / "a.nii.gz"]
    for file, array in zip(files, (case.values, case.labels), strict=True):
        file.parent.mkdir()
        # nibabel writes no booleans and no floats of 16 bits, and warns of integers of 64
        kind = {"b1": "u1", "f2": "f4"}.get(array.dtype.str[1:], array.dtype)
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(kind), affine_of(case.spacing), dtype=kind)
        nibabel.save(image, file)
    return files


def integers(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; what is no integer becomes one of 8 bits."""
    if array.dtype.kind in "iu":
        return array.astype(array.dtype.newbyteorder("="))
    return np.clip(np.nan_to_num(array.real.astype(float)), 0, 255).astype("u1")


def write_dicom(root: Path, case: Case) -> list[Path]:
    files = [root / kind / "a.dcm" for kind in ("images", "masks")]
    for file, array in zip(files, (case.values, case.labels), strict=True):
        dicom_file(file, integers(array), PixelSpacing=[float(side) for side in case.spacing[1::-1]])
    return files


def as_read(case: Case, listing: Listing) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels as they should be read, for the slices of a listing."""
    if listing.samples[0].image.suffix == ".dcm":
        values, labels = integers(case.values), integers(case.labels)
    else:
        values, labels = case.values, case.labels
    axis = 0
    if listing.samples[0].image.suffix == ".gz":
        longest = int(np.argmax(case.spacing))
        others = [side for place, side in enumerate(case.spacing) if place != longest]
        axis = 2 - longest if case.spacing[longest] > 1.05 * max(others) else 0
    return [(values.take(index, axis), labels.take(index, axis)) for index in range(values.shape[axis])]


def check(write: Callable[[Path, Case], list[Path]], case: Case) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "s"
        root.mkdir()
        files = write(root, case)
        listing = list_folder(root)
        expected = as_read(case, listing) if listing.samples else []
        assert len(listing.samples) == len(expected) and bool(listing.samples) != bool(listing.skipped)
        for sample, (values, labels) in zip(listing.samples, expected, strict=True):
            try:
                found = listing.reader.read(sample)
            except MedcoreError as error:
                assert values.dtype.kind == "c" or not np.isfinite(case.values).all(), error
                continue
            image = found.image.values if isinstance(found.image, Intensities) else np.asarray(found.image)[..., 0]
            np.testing.assert_array_equal(image.astype(float), values.astype(float))
            np.testing.assert_array_equal(found.labels.values.astype(float), labels.astype(float))
            assert found.spacing is not None and min(found.spacing) > 0
        for file, (share, byte) in zip(itertools.cycle(files), case.damage, strict=False):
            data = bytearray(file.read_bytes())
            data[int(share * len(data))] = byte
            file.write_bytes(data)
        try:
            load_image_set([root], "all", 16, rules=ReadingRules(labels="any"))
        except MedcoreError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("write", [write_npz, write_nifti, write_dicom])
@settings(max_examples=67, derandomize=True, deadline=None, database=None)
@given(case=cases())
def test_some(write: Callable[[Path, Case], list[Path]], case: Case) -> None:
    check(write, case)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("write", [write_npz, write_nifti, write_dicom])
@settings(max_examples=2000, deadline=None, database=None)
@given(case=cases())
def test_many(write: Callable[[Path, Case], list[Path]], case: Case) -> None:
    check(write, case)
