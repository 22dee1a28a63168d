"""`medcore export --finetune`: train a chosen model at full length, ended early on the search split, and keep it.

STUDY/trials/ID/finetune/training.state     while it trains: what a training that was stopped goes on from
STUDY/trials/ID/finetune/images.parquet     metrics of every search image, before and after
STUDY/trials/ID/finetune/model.safetensors  its end; what was done to it is in the metadata
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

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import file_hash, load, read_info, save
from medcore.models.sam import MedSam
from medcore.quality.evaluate import evaluate, summarise
from medcore.training.train import EpochRow
from results.store.files import make_folder, write_by_rename
from results.store.fine_tuned import FineTuned
from search.base.config import Config
from search.base.device import best_device
from search.base.provenance import git_revision, versions
from search.study.fit import fit
from search.study.inputs import load_split
from search.study.saved import require_apart

CHECKPOINT, IMAGES, STATE = "model.safetensors", "images.parquet", "training.state"
#: What tells one fine-tuning from another.
_IDENTITY = ("source", "settings", "search_split", "seed")


def finetune(
    config: Config,
    checkpoint: Path,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    ray_address: str | None = None,
) -> FineTuned:
    """Fine-tune the model in `checkpoint` by `config.finetune`, or take up what `folder` holds of that.

    ray_address: of a running cluster, for `finetune.workers` > 1.

    A training that was interrupted goes on after its last epoch; one that has ended is not run again.

    Raises:
        MedcoreError: the data are not at hand, the parts share images, nothing was learnt, or `folder` holds another
            fine-tuning, which is not overwritten: it may hold hours of work.
    """
    settings, search = config.finetune, config.data.search_split
    identity = {
        "source": file_hash(checkpoint),
        "settings": settings.model_dump(mode="json", exclude={"workers"}),  # the outcome is the same
        "search_split": search,
        "seed": config.seed,
    }
    if (folder / CHECKPOINT).is_file():
        return _ended(folder, identity, say)
    model = load(checkpoint)
    size = model.arch.img_size
    require_apart(config, settings.train_split, search, config.data.report_split)
    require_apart(config, search, config.data.report_split)
    training = load_split(config, settings.train_split, size, None, deal_splits=False)
    validation = load_split(config, search, size, config.data.search_per_dataset, deal_splits=False)
    make_folder(folder)
    say(f"fine-tuning on {len(training)} images ({settings.train_split}), at most {settings.epochs} epochs")
    try:
        log = fit(
            "finetune",
            settings,
            model,
            training,
            validation,
            config.seed,
            folder / STATE,
            lambda row: say(_epoch(row, settings.epochs)),
            ray_address,
        )
    except KeyboardInterrupt:
        say("fine-tuning interrupted; the same command goes on after the last epoch that ended")
        raise
    rows = {"before": _measured(load(checkpoint), validation), "after": _measured(model, validation)}
    about = identity | {
        "log": dataclasses.asdict(log),
        "train_images": len(training),
        "search_images": len(validation),
        **{when: summarise(found) for when, found in rows.items()},
        "finished": datetime.now(UTC).isoformat(),
        "git": git_revision(),
        "versions": versions(),
    }
    table = pd.concat([pd.DataFrame(found).assign(when=when) for when, found in rows.items()])
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_by_rename(folder / IMAGES, buffer.getvalue())
    save(folder / CHECKPOINT, model.cpu(), {"finetune": json.dumps(about), "git": git_revision()})
    (folder / STATE).unlink(missing_ok=True)  # four times the model's size, and nobody goes on from it
    return _read(folder)


def _ended(folder: Path, identity: Mapping[str, Any], say: Callable[[str], None]) -> FineTuned:
    """What an earlier fine-tuning has left. Raises `MedcoreError` if it was another one."""
    found = _read(folder)
    if differing := [name for name in _IDENTITY if found.about.get(name) != identity[name]]:
        raise MedcoreError(
            f"{folder}: holds another fine-tuning, which differs in {', '.join(differing)}; "
            "delete this folder or move it away to train anew"
        )
    say(f"fine-tuned already ({found.about['finished']}); to train anew delete {folder}")
    return found


def _read(folder: Path) -> FineTuned:
    path, advice = folder / CHECKPOINT, f"delete {folder} to train anew"
    try:
        about = json.loads(read_info(path)["finetune"])
        if not isinstance(about, dict):
            raise TypeError("expected an object")
        images = pd.read_parquet(io.BytesIO((folder / IMAGES).read_bytes()))
        parts = [images[images["when"] == when].drop(columns="when") for when in ("before", "after")]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MedcoreError(f"{path}: no fine-tuned model ({error}); {advice}") from None
    return FineTuned(path, about, *parts)


def _measured(model: MedSam, images: ImageSet) -> list[dict[str, Any]]:
    return evaluate(model.to(best_device()), images)


def _epoch(row: EpochRow, total: int) -> str:
    return f"epoch {row.epoch + 1} of {total}: loss {row.train_loss:.4f}, on the search split {row.val_loss:.4f}"
