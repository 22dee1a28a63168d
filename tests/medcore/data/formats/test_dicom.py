"""DICOM files by pydicom: values, windows, colours, frames, patients, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from medcore.data.formats.dicom import DicomFolders
from medcore.data.formats.dicom_header import read_header
from medcore.data.formats.intensities import Intensities, picture
from medcore.data.formats.windows import ReadingRules
from medcore.data.load import load_image_set
from medcore.data.readers import list_folder, reader_of
from medcore.errors import DataError
from tests.support.image_files import noise
from tests.support.volume_files import dicom_file, dicom_folder, scan


def spot(shape: tuple[int, ...] = (24, 20)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[..., 4:15, 3:12] = 1
    return labels


def one(root: Path, values: np.ndarray, labels: np.ndarray | None = None, **fields: object) -> Path:
    """Write `images/a.dcm` and its mask `masks/a.dcm`; returns the folder."""
    dicom_file(root / "images" / "a.dcm", values, **fields)
    dicom_file(root / "masks" / "a.dcm", spot(values.shape[:2]) if labels is None else labels)
    return root


def grey(image: object, window: object = None) -> np.ndarray:
    return np.asarray(picture(image, window))[..., 0]  # type: ignore[arg-type]


def test_slices_are_measured_values_with_the_spacing_and_window_of_the_file(tmp_path: Path) -> None:
    folder = dicom_folder(tmp_path / "s", cases=2)
    listing = list_folder(folder)
    assert isinstance(listing.reader, DicomFolders) and not listing.skipped
    sample = listing.samples[6]
    assert (sample.name, sample.volume, sample.modality) == ("p1_s2", "p1", "CT")
    found = listing.reader.read(sample)
    values, labels = scan(1)
    assert isinstance(found.image, Intensities) and (found.image.values == values[2]).all()
    assert found.spacing == (1.3, 0.7) and (found.labels.values == labels[2] * 255).all()
    # the formula of DICOM's standard for a window of 40 and 400: black at 39.5 - 199.5
    share = np.clip((values[2] - (39.5 - 199.5)) / 399, 0, 1)
    assert (grey(found.image) == np.rint(255 * share)).all()
    assert (grey(found.image, (0.0, 2.0)) == np.select([values[2] < 0, values[2] == 0], [0, 128], 255)).all()


def test_without_a_window_percentiles_count_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (24, 20)).astype(np.uint16)
    found = list_folder(one(tmp_path / "a", values)).reader
    plain = found.read(list_folder(tmp_path / "a").samples[0])
    assert plain.image.limits() == pytest.approx(tuple(np.percentile(values[values > 0], [0.5, 99.5])))
    assert plain.spacing is None
    one(tmp_path / "b", values, PhotometricInterpretation="MONOCHROME1", PixelSpacing=[0.0, 1.0])
    inverted = found.read(list_folder(tmp_path / "b").samples[0])
    assert (grey(inverted.image) == 255 - grey(plain.image)).all() and inverted.spacing is None


def test_colours_frames_and_signed_values(tmp_path: Path) -> None:
    folder = one(tmp_path / "rgb", noise(0, 24, 20), spot(), PhotometricInterpretation="RGB")
    listing = list_folder(folder)
    assert (np.asarray(listing.reader.read(listing.samples[0]).image) == noise(0, 24, 20)).all()
    values, labels = scan(5)
    listing = list_folder(one(tmp_path / "frames", values, labels))
    assert [sample.name for sample in listing.samples] == [f"a_z{index:03}" for index in range(4)]
    found = listing.reader.read(listing.samples[2])
    assert (found.image.values == values[2]).all() and (found.labels.values == labels[2]).all()
    one(tmp_path / "frames", values, labels[:3])
    assert "frames" in list_folder(tmp_path / "frames").skipped[0].reason


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_other_encodings_are_read(syntax: str, tmp_path: Path) -> None:
    values = scan(6)[0][1].astype(np.uint16)
    folder = one(tmp_path / "s", values, PatientID="p")
    path = folder / "images" / "a.dcm"
    data = pydicom.dcmread(path)
    data.ReferencedStudySequence = Sequence([Dataset()])
    data.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.3"
    data["ReferencedStudySequence"].is_undefined_length = True
    if syntax == RLELossless:
        data.compress(RLELossless)
    else:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = values.astype(">u2").tobytes()
    pydicom.dcmwrite(path, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    assert (read_header(path).patient, read_header(path).frames) == ("p", 1)
    listing = list_folder(folder)
    assert (listing.reader.read(listing.samples[0]).image.values == values).all()


def test_a_patients_files_are_one_group_wherever_they_lie(tmp_path: Path) -> None:
    def groups(name: str, files: dict[str, str]) -> dict[str, str]:
        for file, patient in files.items():
            for kind in ("images", "masks"):
                dicom_file(tmp_path / name / kind / f"{file}.dcm", spot(), PatientID=patient)
        return {sample.name: sample.group for sample in list_folder(tmp_path / name).samples}

    flat = groups("flat", {"a": "x", "b": "y", "c": "x"})
    assert flat["a"] == flat["c"] != flat["b"] and not {"x", "y"} & set(flat.values())
    nested = groups("nested", {"1/a": "x", "2/a": "x", "3/a": "y"})
    assert nested["1_a"] == nested["2_a"] != nested["3_a"]
    anonymous = groups("anonymous", {"1/a": "anon", "1/b": "anon", "2/a": "anon"})
    assert anonymous["1_a"] == anonymous["1_b"] != anonymous["2_a"]
    nameless = groups("nameless", {"a": "", "b": ""})
    assert nameless["a"] != nameless["b"]


def test_files_without_an_ending_are_known_by_content(tmp_path: Path) -> None:
    dicom_file(tmp_path / "s" / "images" / "IM0001", spot().astype(np.uint16) * 90)
    dicom_file(tmp_path / "s" / "images" / "1.2.840.7", spot())
    (tmp_path / "s" / "images" / "DICOMDIR.txt").write_text("")
    (tmp_path / "s" / "masks").mkdir()
    for name in ("IM0001", "1.2.840.7"):
        Image.fromarray(spot() * 255).save(tmp_path / "s" / "masks" / f"{name}.png")
    assert isinstance(reader_of(tmp_path / "s"), DicomFolders)
    images, skipped = load_image_set([tmp_path / "s"], "all", 24)
    assert images.names == ["1.2.840.7", "IM0001"] and [entry.path.name for entry in skipped] == ["DICOMDIR.txt"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    values = scan(7)[0][1].astype(np.uint16)
    path = one(tmp_path / "s", values, SOPClassUID=SegmentationStorage) / "images" / "a.dcm"
    assert "segmentation object" in list_folder(tmp_path / "s").skipped[0].reason

    def refusal(**changes: object) -> str:
        one(tmp_path / "s", values)
        data = pydicom.dcmread(path)
        for name, value in changes.items():
            if name == "syntax":
                data.file_meta.TransferSyntaxUID = value
            elif value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.save_as(path)
        with pytest.raises(DataError) as caught:
            load_image_set([tmp_path / "s"], "all", 20)
        assert "\n" not in str(caught.value) and "Doe" not in str(caught.value)
        return str(caught.value)

    assert "decoder" in refusal(syntax=JPEGLSLossless, PixelData=pydicom.encaps.encapsulate([b"\0" * 40]))
    assert "deflated" in refusal(syntax=DeflatedExplicitVRLittleEndian)
    assert "without pixels" in refusal(PixelData=None)
    assert "bytes" in refusal(Rows=60_000, Columns=60_000)
    assert "frames" in refusal(NumberOfFrames=50)
    assert "enhanced" in refusal(SharedFunctionalGroupsSequence=Sequence([Dataset()]))
    assert "XYZ" in refusal(PhotometricInterpretation="XYZ")
    one(tmp_path / "s", values)
    for data in (path.read_bytes()[:200], b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI\xff\xff", b"", b"x" * 500):
        path.write_bytes(data)
        assert list_folder(tmp_path / "s").skipped, data[-10:]


def test_labels_beyond_two_values_need_rules(tmp_path: Path) -> None:
    values = scan(8)[0][1].astype(np.uint16)
    folder = one(tmp_path / "s", values, spot() * 3 + (np.arange(20) == 0).astype(np.uint8))
    with pytest.raises(DataError, match=r"0, 1, 3.*data\.labels"):
        load_image_set([folder], "all", 24)
    images, _ = load_image_set([folder], "all", 24, rules=ReadingRules(labels=(3,)))
    assert (images.truths[0] == spot().astype(bool)).all()
