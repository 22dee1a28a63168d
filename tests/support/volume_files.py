"""Data folders of the formats for volumes, written by NumPy, nibabel and pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def scan(seed: int, shape: tuple[int, int, int] = (4, 24, 20)) -> tuple[np.ndarray, np.ndarray]:
    """A volume in Hounsfield units, int16 (D, H, W), with a bright object, and its labels, 0 and 1.

    The object is in all slices but the first.
    """
    chance = np.random.default_rng(seed)
    values = chance.integers(-200, 100, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    top, left = chance.integers(2, 8, 2)
    labels[1:, top : top + 9, left : left + 8] = 1
    values[labels == 1] += 300
    return values, labels


def affine_of(spacing: tuple[float, float, float]) -> np.ndarray:
    """An oblique placement with these voxel sizes: (4, 4)."""
    turn, found = 0.1, np.eye(4)
    found[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    found[:3, :3] = found[:3, :3] @ np.diag(spacing)
    found[:3, 3] = 5, -7, 11
    return found


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    """Write a volume (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def nifti_folder(root: Path, cases: int = 4, spacing: tuple[float, float, float] = (0.7, 1.3, 5.0)) -> Path:
    """Write a folder as nnU-Net has it; returns it."""
    for case in range(cases):
        values, labels = scan(case)
        for kind, array, name in (("imagesTr", values, f"case{case}_0000"), ("labelsTr", labels, f"case{case}")):
            write_nifti(root / kind / f"{name}.nii.gz", array.transpose(2, 1, 0), affine_of(spacing))
    return root


def npz_folder(root: Path, cases: int = 4, spacing: tuple[float, float, float] = (0.7, 1.3, 5.0)) -> Path:
    """Write a folder of the challenge's volumes; returns it."""
    root.mkdir(parents=True)
    for case in range(cases):
        values, labels = scan(case)
        grey = np.clip((values + 160) / 400 * 255, 0, 255).astype(np.uint8)
        name = root / f"3DBox_CT_{case:04}.npz"
        np.savez_compressed(name, imgs=grey, gts=labels, spacing=np.array(spacing), boxes=np.zeros((1, 6)))
    return root


def dicom_file(path: Path, values: np.ndarray, **fields: Any) -> Path:
    """Write grey values (height, width) or (frames, height, width), or RGB if the photometric interpretation says so.

    `fields` are added or replace others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = fields.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientName, data.PatientID = "CT", "Doe^Jane", fields.pop("PatientID", path.parent.name)
    colours = fields.get("PhotometricInterpretation") == "RGB"
    data.Rows, data.Columns = values.shape[:2] if colours else values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 3 if colours else 1, "MONOCHROME2"
    if colours:
        data.PlanarConfiguration = 0
    elif values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    data.save_as(path, enforce_file_format=True)
    return path


def dicom_folder(root: Path, cases: int = 4, spacing: tuple[float, float] = (1.3, 0.7)) -> Path:
    """Write a folder of patients with one file a slice and masks as PNG; returns it."""
    for case in range(cases):
        values, labels = scan(case)
        for index, (picture, mask) in enumerate(zip(values, labels, strict=True)):
            name = f"p{case}/s{index}"
            stored = (picture + 1024).astype(np.uint16)
            dicom_file(
                root / "images" / f"{name}.dcm", stored, PixelSpacing=list(spacing), RescaleSlope=1,
                RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400,
            )  # fmt: skip
            file = root / "masks" / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * 255).save(file)
    return root


def balls(seed: int, shape: tuple[int, int, int] = (9, 40, 52)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grey volume of uint8 with three bright objects, its labels 1, 2 and 5, and their boxes (3, 6).

    The objects have different middle slices.
    """
    chance = np.random.default_rng(seed)
    place = np.indices(shape)
    values, labels = chance.normal(70, 12, shape), np.zeros(shape, np.uint8)
    for label, centre in ((1, (3, 12, 12)), (2, (5, 26, 30)), (5, (6, 12, 40))):
        middle = np.add(centre, chance.uniform(-1, 1, 3))
        distance = (place - middle[:, None, None, None]) * np.array([2, 1, 1])[:, None, None, None]
        inside = np.linalg.norm(distance, axis=0) < 8
        labels[inside] = label
        values[inside] += 60 + 20 * label
    voxels = [np.argwhere(labels == label)[:, ::-1] for label in (1, 2, 5)]
    boxes = [np.concatenate([each.min(axis=0), each.max(axis=0)]) for each in voxels]
    return values.clip(0, 255).astype(np.uint8), labels, np.array(boxes)


def challenge_folder(root: Path) -> Path:
    """Write two CT volumes, an MR volume without boxes and three ultrasound pictures; returns the folder."""
    root.mkdir(parents=True)
    for case, modality in enumerate(("CT", "CT", "MR")):
        grey, labels, boxes = balls(case)
        given = {} if modality == "MR" else {"boxes": boxes}
        name = root / f"3DBox_{modality}_{case:04}.npz"
        np.savez_compressed(name, imgs=grey, gts=labels, spacing=np.array([0.8, 0.9, 2.5]), **given)
    for case in range(3):
        grey, labels, boxes = balls(10 + case)
        picture = np.repeat(grey[5][..., None], 3, axis=-1)
        np.savez_compressed(root / f"2DBox_US_{case:04}.npz", imgs=picture, gts=labels[5], boxes=boxes[:, [0, 1, 3, 4]])
    return root
