"""`medcore export --finetune`: train a chosen model at full length, stop early on the search split, and keep it.

STUDY/trials/ID/finetune/training.state     while it trains: what an interrupted training resumes from
STUDY/trials/ID/finetune/images.parquet     metrics of every search image, before and after
STUDY/trials/ID/finetune/model.safetensors  the trained model; the metadata say what was done to it
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import file_hash, load, read_info, save
from medcore.models.sam import MedSam
from medcore.quality.evaluate import evaluate, summarise
from medcore.training.train import EpochRow
from results.store.files import make_folder, write_by_rename
from results.store.fine_tuned import FineTuned
from search.base.device import best_device
from search.base.provenance import git_revision, versions
from search.base.sections.inputs import Datasets
from search.base.sections.training import FinetuneConfig
from search.study.fit import fit
from search.study.inputs import load_split, search_images
from search.study.saved import require_apart
from search.study.training_job import TrainingJob, train_settings

CHECKPOINT, IMAGES, STATE = "model.safetensors", "images.parquet", "training.state"
#: Entries that differ between fine-tunings of different outcomes.
_IDENTITY = ("source", "settings", "search_split", "seed")


def finetune(
    datasets: Datasets,
    settings: FinetuneConfig,
    checkpoint: Path,
    *,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    ray_address: str | None = None,
) -> FineTuned:
    """Fine-tune a model, or continue from the state in a folder.

    An interrupted training resumes after its last epoch; one that has ended is not run again.

    Args:
        datasets: The study's images.
        settings: How to train.
        checkpoint: The model's file.
        folder: Holds the training's files.
        say: Takes lines on the progress.
        ray_address: Of a running cluster, for `finetune.workers` > 1.

    Returns:
        The model with its figures before and after.

    Raises:
        MedcoreError: The data are missing, the splits share images, nothing was learnt, or the folder holds another
            fine-tuning, which is not overwritten because it may hold hours of work.
    """
    identity = _identity(datasets, settings, checkpoint)
    if (folder / CHECKPOINT).is_file():
        return _ended(folder, identity, say)
    model = load(checkpoint)
    training, validation = _images(datasets, settings.train_split, model.arch.frame)
    make_folder(folder)
    say(f"fine-tuning on {len(training)} images ({settings.train_split}), at most {settings.epochs} epochs")
    job = TrainingJob(
        "finetune",
        train_settings(settings),
        settings.workers,
        training=training,
        validation=validation,
        seed=datasets.seed,
        state=folder / STATE,
        on_epoch=lambda row: say(_epoch(row, settings.epochs)),
        ray_address=ray_address,
    )
    try:
        log = fit(job, model)
    except KeyboardInterrupt:
        say("fine-tuning interrupted; the same command continues after the last completed epoch")
        raise
    rows = {"before": _measured(load(checkpoint), validation), "after": _measured(model, validation)}
    counts = {"train_images": len(training), "search_images": len(validation)}
    _write(folder, model, rows, identity | {"log": dataclasses.asdict(log)} | counts)
    return _read(folder)


def _identity(datasets: Datasets, settings: FinetuneConfig, checkpoint: Path) -> dict[str, Any]:
    """Return the entries of `_IDENTITY`."""
    return {
        "source": file_hash(checkpoint),
        "settings": settings.model_dump(mode="json", exclude={"workers"}),  # which do not change the outcome
        "search_split": datasets.section.search_split,
        "seed": datasets.seed,
    }


def _images(datasets: Datasets, train: str, size: int | Frame) -> tuple[ImageSet, ImageSet]:
    """Return the images to train on and those to validate with.

    Raises:
        MedcoreError: The data are missing, or the splits share images.
    """
    search, report = datasets.section.search_split, datasets.section.report_split
    require_apart(datasets, train, search, report)
    require_apart(datasets, search, report)
    training = load_split(datasets, train, size, deal_splits=False)
    return training, search_images(datasets, size, deal_splits=False)


def _write(folder: Path, model: MedSam, rows: Mapping[str, list[dict[str, Any]]], about: Mapping[str, Any]) -> None:
    """Write figures and model, and delete the training's state.

    Args:
        folder: Holds the training's files.
        model: The trained model; it ends on the CPU.
        rows: Metrics of every search image, `before` and `after`.
        about: What else is known of the training.
    """
    about = {
        **about,
        **{when: summarise(metrics) for when, metrics in rows.items()},
        "finished": datetime.now(UTC).isoformat(),
        "git": git_revision(),
        "versions": versions(),
    }
    table = pd.concat([pd.DataFrame(metrics).assign(when=when) for when, metrics in rows.items()])
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_by_rename(folder / IMAGES, buffer.getvalue())
    save(folder / CHECKPOINT, model.cpu(), {"finetune": json.dumps(about), "git": git_revision()})
    (folder / STATE).unlink(missing_ok=True)  # four times the model's size, and of no more use


def _ended(folder: Path, identity: Mapping[str, Any], say: Callable[[str], None]) -> FineTuned:
    """Return what an earlier fine-tuning has left.

    Raises:
        MedcoreError: It was another one.
    """
    tuned = _read(folder)
    if differing := [name for name in _IDENTITY if tuned.about.get(name) != identity[name]]:
        raise ConfigError(
            f"{folder}: holds another fine-tuning, which differs in {', '.join(differing)}; "
            "delete this folder or move it away to train again"
        )
    say(f"fine-tuned already ({tuned.about['finished']}); to train again delete {folder}")
    return tuned


def _read(folder: Path) -> FineTuned:
    """Read a fine-tuned model's figures.

    Raises:
        CheckpointError: They are missing or corrupt.
    """
    path, advice = folder / CHECKPOINT, f"delete {folder} to train again"
    try:
        about = json.loads(read_info(path)["finetune"])
        if not isinstance(about, dict):
            raise TypeError("expected an object")
        images = pd.read_parquet(io.BytesIO((folder / IMAGES).read_bytes()))
        before, after = (images[images["when"] == when].drop(columns="when") for when in ("before", "after"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path}: no fine-tuned model ({error}); {advice}") from None
    return FineTuned(path, about, before, after)


def _measured(model: MedSam, images: ImageSet) -> list[dict[str, Any]]:
    return evaluate(model.to(best_device()), images)


def _epoch(row: EpochRow, total: int) -> str:
    return f"epoch {row.epoch + 1} of {total}: loss {row.train_loss:.4f}, on the search split {row.val_loss:.4f}"
