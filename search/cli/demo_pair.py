"""The demo's inputs: embedded images of two domains, and a small pair of models trained on them. All are kept."""

from __future__ import annotations

from pathlib import Path

import torch

from medcore.data.load import ImageSet, load_image_set
from medcore.models.checkpoint import load, save
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.synthetic.write import DEMO_ARCH, write_folder
from medcore.training.train import TrainSettings, train
from search.base.provenance import git_revision
from search.study.prepare import Report

#: Images of each domain, and epochs over them: enough for real boundaries, few enough for a minute or two.
GENERAL_IMAGES, MEDICAL_IMAGES = 480, 400
GENERAL_EPOCHS, MEDICAL_EPOCHS = 6, 12


def make_pair(folder: Path, report: Report) -> Path:
    """Write `general.safetensors`, `medical.safetensors` and their images.

    Return the folder of the medical images.

    Args:
        folder: Where the files go.
        report: Called with the name of each job, and its numbers of finished and of all epochs or data sets.
    """
    general, medical = _data(folder, report)
    base = _trained(folder / "general.safetensors", general, report, epochs=GENERAL_EPOCHS, lr=2e-3)
    _trained(folder / "medical.safetensors", medical, report, epochs=MEDICAL_EPOCHS, lr=1e-3, start=base)
    return medical


def _data(folder: Path, report: Report) -> tuple[Path, Path]:
    """Return the folders of the general and the medical domain.

    Those that are missing are written first.
    """
    paths = []
    for domain, count, seed in (("general", GENERAL_IMAGES, 1), ("medical", MEDICAL_IMAGES, 2)):
        path = folder / domain
        if not (path / "splits.json").is_file():
            report(f"drawing {domain} images", 0, 0)
            write_folder(path, domain, count, DEMO_ARCH.img_size, seed)
        paths.append(path)
    return paths[0], paths[1]


def _trained(path: Path, data: Path, report: Report, *, epochs: int, lr: float, start: MedSam | None = None) -> MedSam:
    """Return the checkpoint at `path`.

    If it is missing, train it first, from scratch or from `start`.
    """
    if path.is_file():
        return load(path)
    torch.manual_seed(0)
    model = build(ModelSpec.dense(DEMO_ARCH)) if start is None else start
    # val/report is for the final figures, so it must not choose the epoch whose weights are kept
    training, validation = (_images(data, split) for split in ("train", "val/search"))
    settings = TrainSettings(epochs=epochs, lr=lr, batch_size=8, patience=0, autocast=True, horizontal_flip=True)
    job = f"training the {path.stem} model"
    report(job, 0, epochs)
    train(
        model,
        training,
        validation,
        settings,
        seed=0,
        on_epoch=lambda row: report(job, row.epoch + 1, epochs),
        train_prompt_encoder=start is None,
    )
    save(path, model, {"origin": "medcore demo", "git": git_revision()})
    return load(path)


def _images(folder: Path, split: str) -> ImageSet:
    images, _ = load_image_set([folder], split, DEMO_ARCH.img_size, save_splits=folder.parent / "splits")
    return images
