"""Whole cases of the challenge: objects, boxes and spacings as they were written, and archives that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.data.formats import npz_case
from medcore.data.formats.npz_case import Case, read_case, whole_cases
from medcore.data.reader import UnreadableFile
from medcore.data.readers import list_folder
from tests.medcore.data.formats.test_npz import npy, rezipped, spot, write
from tests.support.image_files import noise
from tests.support.volume_files import balls, challenge_folder


def only_case(folder: Path) -> Case:
    listing = list_folder(folder)
    (sample,), skipped = whole_cases(listing, listing.samples)
    assert not skipped
    return read_case(sample)


def test_a_folder_has_one_case_an_archive(tmp_path: Path) -> None:
    listing = list_folder(challenge_folder(tmp_path / "s"))
    cases, skipped = whole_cases(listing, listing.samples)
    assert [(case.name, case.modality, case.dataset) for case in cases] == [
        *((f"2DBox_US_{number:04}", "US", "s") for number in range(3)),
        *((f"3DBox_{kind}", kind[:2], "s") for kind in ("CT_0000", "CT_0001", "MR_0002")),
    ]
    assert not skipped
    kept = [sample for sample in listing.samples if sample.name not in ("2DBox_US_0001", "3DBox_CT_0001_z003")]
    cases, (entry,) = whole_cases(listing, kept)
    assert [case.name[-7:] for case in cases] == ["US_0000", "US_0002", "CT_0000", "MR_0002"]
    assert entry.path.name == "3DBox_CT_0001.npz" and entry.reason == "only 8 of its 9 slices are in the split"


@pytest.mark.parametrize("name", ["3DBox_CT_0000", "3DBox_MR_0002"])
def test_a_volume_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    """The MR volume has no boxes, so it gets the exact ones, which are those that the CT volumes have."""
    listing = list_folder(challenge_folder(tmp_path / "s"))
    case = read_case(next(each for each in whole_cases(listing, listing.samples)[0] if each.name == name))
    grey, labels, boxes = balls(int(name[-1]))
    assert (np.asarray(case.image(4).convert("L")) == grey[4]).all() and case.shape == grey.shape
    assert all((case.truth == number).tobytes() == (labels == label).tobytes() for number, label in ((1, 1), (3, 5)))
    assert (case.boxes == boxes).all() and case.exact == (name == "3DBox_MR_0002") and not case.flat
    assert (case.volume.thickness, case.volume.spacing) == (2.5, (0.9, 0.8))


def test_a_picture_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    write(tmp_path / "s", imgs=noise(0), gts=3 * spot(), boxes=np.array([[7.5, 5, 19, 20.25]]))
    case = only_case(tmp_path / "s")
    assert case.flat and case.shape == (1, 40, 30) and not case.exact
    assert (case.truth[0] == spot()).all() and case.truth.dtype == np.uint16
    assert case.boxes.tolist() == [[7.5, 5, 0, 19, 20.25, 0]]


VOLUME: dict[str, Any] = {
    "imgs": np.stack([noise(number)[..., 0] for number in range(4)]),
    "gts": np.stack([spot(), spot(), spot(), 2 * spot()]),
    "spacing": np.ones(3),
    "boxes": np.array([[8, 5, 0, 18, 19, 2], [8, 5, 3, 18, 19, 3]]),
}


def with_box(*corners: float) -> dict[str, Any]:
    return {"boxes": np.array([corners, (8, 5, 3, 18, 19, 3)], float)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"gts": 0 * VOLUME["gts"]}, "no object"),
        ({"spacing": None}, "spacing"),
        ({"spacing": np.ones(2)}, "spacing"),
        ({"spacing": np.array([1, 1, np.nan])}, "spacing"),
        ({"boxes": VOLUME["boxes"][:1]}, "1 boxes for 2 labels"),
        ({"boxes": VOLUME["boxes"][:, :4]}, r"shape \(2, 4\).*6"),
        ({"boxes": VOLUME["boxes"].ravel()}, r"shape \(12,\)"),
        (with_box(8, 5, 0, np.inf, 19, 2), "not finite"),
        (with_box(8, 5, 0, 18, 19, 4), r"box 1 \(8, 5, 0, 18, 19, 4\).*30x40x4"),
        (with_box(8, 5, 0, 31, 19, 2), "does not lie in the image"),
        (with_box(-1, 5, 0, 18, 19, 2), "does not lie in the image"),
        (with_box(18, 5, 0, 8, 19, 2), "does not lie in the image"),
        (with_box(8, 5, 0.5, 18, 19, 2), "between slices"),
    ],
)
def test_cases_that_do_not_fit_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {name: array for name, array in {**VOLUME, **arrays}.items() if array is not None}
    write(tmp_path / "s", "3DBox_CT_1", **given)
    with pytest.raises(UnreadableFile, match=words):
        only_case(tmp_path / "s")
    write(tmp_path / "s", "3DBox_CT_1", **VOLUME)
    assert len(only_case(tmp_path / "s").boxes) == 2


def test_boxes_that_the_file_cannot_hold_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "s", imgs=noise(0), gts=spot(), boxes=np.zeros((1, 4)))
    listing = list_folder(tmp_path / "s")
    (sample,), _ = whole_cases(listing, listing.samples)
    lie = npy(np.zeros(12, np.uint8), "(1<<40,4)")
    rezipped(path, imgs=npy(noise(0)), gts=npy(spot()), boxes=lie)
    with pytest.raises(UnreadableFile):
        read_case(sample)
    rezipped(path, imgs=npy(noise(0)), gts=npy(spot()), boxes=npy(np.zeros(12345), "(99999,)"))
    with pytest.raises(UnreadableFile, match="describes"):
        read_case(sample)


def test_a_case_has_no_more_objects_than_can_be_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", imgs=noise(0), gts=np.arange(1200).reshape(40, 30))
    assert len(only_case(tmp_path / "s").boxes) == 1199
    monkeypatch.setattr(npz_case, "MOST_OBJECTS", 1000)
    with pytest.raises(UnreadableFile, match="1199 labels"):
        only_case(tmp_path / "s")


def test_a_value_that_is_not_finite_names_the_file(tmp_path: Path) -> None:
    values = VOLUME["imgs"].astype(np.float32)
    values[2, 0, 0] = np.nan
    path = write(tmp_path / "s", "3DBox_MR_1", **{**VOLUME, "imgs": values})
    case = only_case(tmp_path / "s")
    case.image(1)
    with pytest.raises(UnreadableFile, match=path.name):
        case.image(2)
