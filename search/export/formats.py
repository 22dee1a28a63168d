"""Write a chosen trial's model in one of four forms, check it, and put a model card beside it.

Files are made and checked in a hidden folder beside the target and appear only when all is well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medcore.errors import MedcoreError
from medcore.files import first_line
from medcore.models.checkpoint import file_hash, load, save
from medcore.models.export import DECODER, ENCODER, MODEL, STRUCTURE, require_onnx, write_onnx, write_standalone
from medcore.models.sam import MedSam
from medcore.models.standalone import SCRIPT
from results.pages.model_card import Export, model_card
from results.stats.labels import PREFIX
from results.store.files import make_folder
from results.store.fine_tuned import FineTuned
from results.store.held_out import HeldOut, prefixed
from results.store.latency import Record
from results.store.trials import StudyInfo, checkpoint_file, read_images
from search.base.provenance import git_revision
from search.export.check import check_checkpoint, check_onnx, check_standalone, require_onnxruntime, sample_images
from search.export.pyfunc_export import FILES, USAGE, check_mlflow, write_mlflow
from search.export.timing import export_latency

KINDS = ("checkpoint", "standalone", "onnx", "mlflow")
CARD = "MODEL_CARD.md"

_MEANING = {
    MODEL: "weights, and the structure as JSON in the metadata (`spec`)",
    STRUCTURE: "structure and the trial's row as JSON, for people and other programs",
    SCRIPT.name: "rebuilds and runs the model; needs torch, torchvision and segment_anything",
    ENCODER: "image (1, 3, S, S) float32, of any range -> embedding (1, C, g, g)",
    DECODER: "embedding, boxes (B, 4) float32 XYXY in pixels of the square -> logits (B, 1, low, low)",
    **FILES,
}
#: Files that an export into a folder may write; protocol buffers of more than 2 GiB have a second one.
_NAMES = {
    "standalone": (MODEL, STRUCTURE, SCRIPT.name),
    "onnx": (STRUCTURE, ENCODER, DECODER, f"{ENCODER}.data", f"{DECODER}.data"),
    "mlflow": tuple(FILES),
}
_OURS = (*dict.fromkeys(name for names in _NAMES.values() for name in names), CARD)


def check_target(kind: str, out: Path) -> None:
    """Raises `MedcoreError` for an unknown kind, a wrong target or one with foreign files, and missing packages."""
    if kind not in KINDS:
        raise MedcoreError(f"--format {kind}: unknown; known are {', '.join(KINDS)}")
    if kind == "checkpoint" and out.suffix != ".safetensors":
        raise MedcoreError(f"--out {out}: the file name must end in .safetensors")
    if kind != "checkpoint" and (out.suffix in (".safetensors", ".onnx", ".pth") or out.is_file()):
        raise MedcoreError(f"--out {out}: {kind} writes several files; give a folder")
    if any(parent.name == "trials" and (parent.parent / "study.json").is_file() for parent in out.resolve().parents):
        raise MedcoreError(f"--out {out}: lies among a study's trials, whose files are its own; give another place")
    names = _NAMES.get(kind, ())
    if foreign := sorted(name for name in {*names} - _ours(out) if (out / name).exists()):
        raise MedcoreError(f"--out {out}: it holds {foreign[0]}, which no export wrote; give another folder")
    if kind == "onnx":
        require_onnx()
        require_onnxruntime()


@dataclass(frozen=True)
class Choice:
    """What is exported: a study's folder and description, the rule, the row (without missing values) it chose.

    tuned: its fine-tuned model, if that is to be exported instead. not_held_out: why there is no `held_out`.
    """

    study: Path
    info: StudyInfo
    rule: str
    row: Mapping[str, Any]
    tuned: FineTuned | None = None
    held_out: HeldOut | None = None
    not_held_out: str = ""

    @property
    def source(self) -> Path:
        """The checkpoint of what is exported: the trial's, or that of its fine-tuned model."""
        return checkpoint_file(self.study, self.row) if self.tuned is None else self.tuned.checkpoint

    @property
    def images(self) -> pd.DataFrame:
        """Metrics of every search image of what is exported; may be empty."""
        if self.tuned is not None:
            return self.tuned.after
        return read_images(self.study, {self.row["trial_id"]})

    @property
    def figures(self) -> Mapping[str, Any]:
        """The row of what is exported, with its own held-out metrics; a fine-tuned model has metrics of its own."""
        row = {name: value for name, value in self.row.items() if not name.startswith(PREFIX)}
        if self.tuned is not None:
            about = self.tuned.about
            kept = {name: about[name] for name in ("settings", "search_split", "before", "finished")}
            row |= {**about["after"], "finetune": kept | {"best_epoch": about["log"]["best_epoch"]}}
        return row | (prefixed(self.held_out.model) if self.held_out is not None else {})

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The study's configuration as it was saved, also by an older version; empty where there is none."""
        try:
            values = yaml.safe_load((self.study / "config.yaml").read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return values if isinstance(values, dict) else {}


def exported(out: Path) -> list[str]:
    """Names of the files in the folder `out` that the last export into it wrote."""
    return [name for name in _OURS if (out / name).is_file()]


def _ours(folder: Path) -> set[str]:
    """Names that are an earlier export's: none without its card, an MLflow model's only where all of one lies."""
    if not (folder / CARD).is_file():
        return set()
    return set(_OURS) if (folder / "MLmodel").is_file() else set(_OURS) - FILES.keys()


def write_export(kind: str, out: Path, choice: Choice, time_it: bool = True) -> list[str]:
    """Write the chosen model to `out` (a file for a checkpoint, else a folder), with its card.

    Args:
        time_it: measure time and memory, for the card.

    Returns: what the check and the clock measured, a sentence each.

    Raises: MedcoreError if it cannot be written or does not agree with the trial's model; then nothing has appeared.
    """
    model = load(choice.source)
    place = out.parent if kind == "checkpoint" else out
    make_folder(place)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as temporary:
            staging = Path(temporary)
            checked = _write(kind, staging, out, model, choice)
            files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
            described = _describe(kind, files, out, model, choice, checked)
            if time_it:
                records, note = export_latency(model)
                described = replace(described, latency=records, latency_note=note)
            card = model_card(described)
            card_file = staging / _card_name(kind, out)
            card_file.write_text(card, encoding="utf-8")
            mode = card_file.stat().st_mode
            if kind != "checkpoint":  # what an earlier export left here belongs to another model
                for name in _ours(place) - set(files):
                    (place / name).unlink(missing_ok=True)
            # the card comes last: where it lies, all that it speaks of is there
            for name in [*files, card_file.name]:
                # safetensors makes files that their owner alone may read; an export is made to be handed on
                (staging / name).chmod(mode)
                (place / name).parent.mkdir(exist_ok=True)
                (staging / name).replace(place / name)
    except OSError as error:
        raise MedcoreError(f"{place}: cannot be written ({first_line(error)}); choose another place") from None
    timed = [*map(_time_left, described.latency[:1])] or [described.latency_note]
    return [f"checked: {checked}", *filter(None, timed)]


def _time_left(record: Record) -> str:
    model, dense = record.model.whole.median_ms, record.dense.whole.median_ms
    return (
        f"time: {model / dense:.1%} of the dense model's for {record.flops_fraction:.1%} of the FLOPs "
        f"({model:.4g} ms instead of {dense:.4g} for an image and its box on {record.setup})"
    )


def _write(kind: str, folder: Path, out: Path, model: MedSam, choice: Choice) -> str:
    metadata = {"study": choice.info["name"], "select": choice.rule, "row": json.dumps(choice.figures)}
    if kind == "checkpoint":
        save(folder / out.name, model, metadata)
        return check_checkpoint(folder / out.name, model)
    sample = sample_images(choice.study, choice.config, model.arch.img_size)
    if kind == "standalone":
        write_standalone(folder, model, metadata)
        return check_standalone(folder, model, sample)
    if kind == "mlflow":
        write_mlflow(folder, model, metadata)
        return check_mlflow(folder, model, sample)
    write_onnx(folder, model, metadata)
    return check_onnx(folder, model, sample)


def _card_name(kind: str, out: Path) -> str:
    return f"{out.stem}.card.md" if kind == "checkpoint" else CARD


def _describe(kind: str, files: list[str], out: Path, model: MedSam, choice: Choice, checked: str) -> Export:
    model_config = choice.config.get("model") or {}
    origins = [model_config[key] for key in ("base", "adapted") if isinstance(model_config.get(key), str)]
    meaning = _MEANING | {out.name: _MEANING[MODEL]}
    return Export(
        study=choice.info["name"],
        rule=choice.rule,
        row=choice.figures,
        dense=choice.info["dense"],
        spec=model.spec,
        checked=checked,
        files={name: meaning.get(name, "weights of the graph of that name") for name in files},
        usage=_usage(kind, out, model.arch.img_size),
        git=git_revision(),
        config=choice.config,
        images=choice.images,
        hashes={path: file_hash(path) for path in origins if Path(path).is_file()},
        held_out=choice.held_out,
        not_held_out=choice.not_held_out,
        tuned=choice.tuned,
    )


def _usage(kind: str, out: Path, side: int) -> str:
    if kind == "checkpoint":
        return f"```\nmedcore predict {out.name} image.jpg --box 40,60,200,220 --out mask.png\n```"
    if kind == "mlflow":
        return USAGE
    if kind == "standalone":
        return f"```\npython {SCRIPT.name} {MODEL} image.jpg 40,60,200,220 mask.png\n```"
    return f"""```python
import numpy as np, onnxruntime as ort
from PIL import Image

encoder, decoder = ort.InferenceSession("{ENCODER}"), ort.InferenceSession("{DECODER}")
picture = Image.open("image.jpg").convert("RGB")
square = np.asarray(picture.resize(({side}, {side}), Image.Resampling.BICUBIC), dtype=np.float32)
(embedding,) = encoder.run(None, {{"image": square.transpose(2, 0, 1)[None]}})
boxes = np.array([[40, 60, 200, 220]], dtype=np.float32)         # X0, Y0, X1, Y1 in the picture, one row a box
boxes *= np.tile([{side} / picture.width, {side} / picture.height], 2).astype(np.float32)
(logits,) = decoder.run(None, {{"embedding": embedding, "boxes": boxes}})
full = Image.fromarray(logits[0, 0]).resize(picture.size, Image.Resampling.BILINEAR)
mask = np.asarray(full) > 0
```"""
