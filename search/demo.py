"""`medcore demo`: the whole path on embedded data, in minutes on a laptop.

Everything made on the way is kept, so a second run only searches again.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from medcore.checkpoint import load, save
from medcore.data import ImageSet, load_image_set
from medcore.sam import MedSam, build
from medcore.spec import EncoderSpec
from medcore.synthetic import DEMO_ARCH, write_folder
from medcore.train import TrainSettings, train
from results.plots import save_front_png
from results.trials import read_study, read_study_info
from search import commands
from search.choose import export, front
from search.config import load_config
from search.experiment import search
from search.provenance import git_revision
from search.study import make_folder
from search.tables import evaluation_table, front_table

#: Images of each domain, and epochs over them: enough for real boundaries, little enough for two minutes of training.
GENERAL_IMAGES, MEDICAL_IMAGES = 640, 480
GENERAL_EPOCHS, MEDICAL_EPOCHS = 12, 8


def demo(folder: Path, console: Console) -> None:
    """Make data, train the pair, search, show the front, export its knee, compare it with the dense model."""
    make_folder(folder)
    folder = folder.resolve()
    torch.set_num_threads(max(1, os.cpu_count() or 1))
    console.rule("1. embedded data and a small model pair")
    general, medical = _data(folder)
    base = _trained(folder / "general.safetensors", None, general, GENERAL_EPOCHS, 1e-3, console)
    _trained(folder / "medical.safetensors", base, medical, MEDICAL_EPOCHS, 5e-4, console)
    console.rule("2. search")
    os.environ["MEDCORE_DEMO"] = str(folder)
    config = load_config(Path(str(files("search") / "configs" / "demo.yaml")))
    resume = (config.folder / "config.yaml").is_file()
    study = search(config, resume=resume, command="medcore demo", say=console.print)
    result = front(str(study))
    console.print(front_table(result))
    picture = folder / "front.png"
    save_front_png(read_study(study), read_study_info(study)["objectives"], picture)
    console.rule("3. the knee of the front, exported")
    out = folder / "knee.safetensors"
    row = export(str(study), "knee", out)
    console.print(f"trial {row['trial_id']}, {100 * row['flops_paper_fraction']:.0f} % of the FLOPs -> {out}")
    console.print("on images that the search did not use:")
    held_out = [folder / "medical"]
    dense = commands.evaluate(folder / "medical.safetensors", held_out, "val/report")
    pruned = commands.evaluate(out, held_out, "val/report")
    console.print(evaluation_table({"dense": dense, "exported": pruned}))
    console.print(
        f"front picture: {picture}\n"
        f"trials in MLflow: .venv/bin/mlflow ui --backend-store-uri sqlite:///{study}/mlflow.db\n"
        f"the front again: .venv/bin/medcore front {study}\n"
        "your own checkpoints and images: copy search/configs/polyps.yaml and run .venv/bin/medcore search MINE.yaml"
    )


def _data(folder: Path) -> tuple[Path, Path]:
    """Folders with the general and the medical domain, written once."""
    paths = []
    for domain, count, seed in (("general", GENERAL_IMAGES, 1), ("medical", MEDICAL_IMAGES, 2)):
        path = folder / domain
        if not (path / "splits.json").is_file():
            write_folder(path, domain, count, DEMO_ARCH.img_size, seed)
        paths.append(path)
    return paths[0], paths[1]


def _trained(
    path: Path, start: MedSam | None, data: Path, epochs: int, lr: float, console: Console
) -> MedSam:
    """The checkpoint at `path`, trained first if it is not there: from scratch, or from `start`."""
    if path.is_file():
        return load(path)
    torch.manual_seed(0)
    model = build(EncoderSpec.dense(DEMO_ARCH)) if start is None else start
    training, validation = (_images(data, split) for split in ("train", "val"))
    settings = TrainSettings(epochs=epochs, lr=lr, batch_size=8, patience=0, autocast=True, horizontal_flip=True)
    with Progress(console=console) as progress:
        task = progress.add_task(f"training {path.stem} model", total=epochs)
        train(
            model,
            training,
            validation,
            settings,
            seed=0,
            on_epoch=lambda _: progress.advance(task),
            train_prompt_encoder=start is None,
        )
    save(path, model, {"origin": "medcore demo", "git": git_revision()})
    return load(path)


def _images(folder: Path, split: str) -> ImageSet:
    images, _ = load_image_set([folder], split, DEMO_ARCH.img_size)
    return images
