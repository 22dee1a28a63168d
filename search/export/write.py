"""Write a chosen model in some format, check it, and add a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcore.errors import StorageError, brief
from medcore.models.checkpoint import file_hash, load
from medcore.models.formats.content import is_checkpoint
from medcore.models.sam import MedSam
from results.pages.model_card import Export, model_card
from results.store.files import make_folder
from results.store.latency import Record
from search.base.provenance import git_revision
from search.export.candidate import Choice
from search.export.check import check_images
from search.export.format import ExportFormat
from search.export.formats import CARD, earlier_files
from search.export.timing import export_latency


def write_export(kind: ExportFormat, out: Path, choice: Choice, time_it: bool = True) -> list[str]:
    """Write the chosen model to `out`, with its card.

    Files are made and checked in a hidden folder in the same place, and appear only when all is well.

    Args:
        kind: The format.
        out: File or folder, as the format wants it.
        choice: What is exported.
        time_it: Measure time and memory for the card.

    Returns:
        Sentences on what the check and the clock measured.

    Raises:
        MedcoreError: The model cannot be written, or what was written differs from it; then nothing has appeared.
    """
    model = load(choice.source)
    place = out if kind.is_folder else out.parent
    make_folder(place)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as temporary:
            staging = Path(temporary)
            described = _write(kind, staging, out, model, choice)
            if time_it:
                records, note = export_latency(model)
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
    timed = [*map(_time_left, described.latency[:1])] or [described.latency_note]
    return [f"checked: {described.checked}", *filter(None, timed)]


def _write(kind: ExportFormat, staging: Path, out: Path, model: MedSam, choice: Choice) -> Export:
    """Write the model into the staging folder, check it, and describe it for the card."""
    row = {name: value for name, value in choice.figures.to_flat().items() if value is not None}
    info = {"study": choice.info.name, "select": choice.rule, "row": json.dumps(row)}
    target = staging if kind.is_folder else staging / out.name
    kind.write(target, model, info)
    checked = kind.check(target, model, lambda: check_images(choice.study, choice.config, model.arch.img_size))
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
    )


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
