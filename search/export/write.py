"""Write a chosen model in some format, check it, and add a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medcore.errors import CheckpointError, StorageError, brief
from medcore.models.checkpoint import file_hash, load
from medcore.models.formats.content import is_checkpoint
from medcore.models.formats.precision import FLOAT32, file_precision, in_precision, sizes
from medcore.models.sam import MedSam
from results.pages.file_size import FileSize
from results.pages.model_card import Export, model_card
from results.store.files import make_folder
from results.store.latency import Record
from search.base.provenance import git_revision
from search.export.candidate import Choice
from search.export.check import CheckImages, check_images
from search.export.format import ExportFormat
from search.export.formats import CARD, earlier_files
from search.export.timing import export_latency

#: Endings of files with weights.
_WEIGHTS = (".safetensors", ".onnx", ".onnx.data")


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        checked: A sentence on what its check measured.
        size: Size of the files.
        timed: A sentence on what the clock measured; empty if it was not used.
        notes: What else is to be known.
    """

    checked: str
    size: FileSize
    timed: str = ""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return all of it for people."""
        said = [f"checked: {self.checked}", *filter(None, [self.timed]), f"size: {self.size.sentence()}"]
        return [*said, *self.notes]


def write_export(
    kind: ExportFormat, out: Path, choice: Choice, time_it: bool = True, precision: str | None = None
) -> Written:
    """Write the chosen model to `out`, with its card.

    Files are made and checked in a hidden folder in the same place, and appear only when all is well.

    Args:
        kind: The format.
        out: File or folder, as the format wants it.
        choice: What is exported.
        time_it: Measure time and memory for the card.
        precision: Of the numbers in the files; None for that of the study's adapted checkpoint.

    Raises:
        MedcoreError: The model cannot be written, or what was written differs from it; then nothing has appeared.
    """
    kind.require_precision(precision)
    model = load(choice.source)
    stored, notes = _precision(kind, choice, precision)
    place = out if kind.is_folder else out.parent
    make_folder(place)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as temporary:
            staging = Path(temporary)
            described = _write(kind, staging, out, model, choice, stored)
            if time_it:
                records, note = export_latency(model, choice.info.unpruned(model.arch))
                described = replace(described, latency=records, latency_note=note)
            card = staging / (CARD if kind.is_folder else f"{out.stem}.card.md")
            card.write_text(model_card(described), encoding="utf-8")
            if kind.is_folder:  # what an earlier export left here belongs to another model
                for name in earlier_files(place) - described.files.keys():
                    (place / name).unlink(missing_ok=True)
            # the card comes last, so that all files that it describes are there
            _publish(staging, place, [*described.files, card.name])
    except OSError as error:
        raise StorageError(f"{place}: cannot be written ({brief(error, first=120)}); choose another place") from None
    (timed,) = [*map(_time_left, described.latency[:1])] or [described.latency_note]
    assert described.size is not None
    return Written(described.checked, described.size, timed, notes)


def _precision(kind: ExportFormat, choice: Choice, wanted: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the precision to write, and what to say about it.

    Without a wish it is that of the adapted checkpoint: as the study recorded it, or else as its file shows.
    """
    if wanted is not None:
        return wanted, ()
    known: str | None = choice.info.precision
    adapted = (choice.config.get("model") or {}).get("adapted")
    if known is None and isinstance(adapted, str) and is_checkpoint(Path(adapted)):
        with suppress(CheckpointError):  # the export does not need this file
            known = file_precision(adapted)
    known = known or FLOAT32
    if known in kind.precisions:
        return known, ()
    return FLOAT32, (
        f"written in {FLOAT32}, not in {known} like the study's checkpoint: {kind.name} holds nothing else",
    )


def _write(kind: ExportFormat, staging: Path, out: Path, model: MedSam, choice: Choice, precision: str) -> Export:
    """Write the model into the staging folder, check it, and describe it for the card."""
    row = {name: value for name, value in choice.figures.to_flat().items() if value is not None}
    info = {"study": choice.info.name, "select": choice.rule, "row": json.dumps(row)}
    target = staging if kind.is_folder else staging / out.name
    kind.write(target, in_precision(model, precision), info)

    def images() -> CheckImages:
        return replace(check_images(choice.study, choice.config, model.arch.frame), precision=precision)

    checked = kind.check(target, model, images)
    names = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    model_config = choice.config.get("model") or {}
    origins = [model_config[key] for key in ("base", "adapted") if isinstance(model_config.get(key), str)]
    return Export(
        info=choice.info,
        rule=choice.rule,
        row=choice.figures,
        spec=model.spec,
        checked=checked,
        files={name: kind.meaning(name) for name in names},
        usage=kind.usage(out.name, model.arch.img_size),
        git=git_revision(),
        config=choice.config,
        images=choice.images,
        hashes={path: file_hash(path) for path in origins if is_checkpoint(Path(path))},
        held_out=choice.held_out,
        not_held_out=choice.not_held_out,
        tuned=choice.tuned,
        library=kind.library,
        given=choice.card,
        size=FileSize(precision, _weight_bytes(staging, names), sizes(model.spec, precision)),
    )


def _weight_bytes(staging: Path, names: Sequence[str]) -> int:
    """Return the bytes of the files with weights; of all files if none has a known ending."""
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    return sum((staging / name).stat().st_size for name in weights or names)


def _publish(staging: Path, place: Path, names: Sequence[str]) -> None:
    """Move files to their place, in this order.

    Give all files the read permissions of the last one.
    """
    mode = (staging / names[-1]).stat().st_mode
    for name in names:
        # safetensors makes files that only their owner may read, but an export is made to be passed on
        (staging / name).chmod(mode)
        (place / name).parent.mkdir(exist_ok=True)
        (staging / name).replace(place / name)


def _time_left(record: Record) -> str:
    model, dense = record.model.whole.median_ms, record.dense.whole.median_ms
    if record.doubt:
        this, other = record.model.whole.cpu_ms, record.dense.whole.cpu_ms
        instead = f"; processor time: {this / other:.1%} of the dense model's" if this and other else ""
        return f"time: not known, because {record.doubt}{instead} for {record.flops_fraction:.1%} of the FLOPs"
    return (
        f"time: {model / dense:.1%} of the dense model's for {record.flops_fraction:.1%} of the FLOPs "
        f"({model:.4g} ms instead of {dense:.4g} for an image and its box on {record.setup})"
    )
