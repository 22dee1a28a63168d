"""The model card (Markdown) of an exported model: where it comes from, what it is, what it can do and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.models.cost import cost
from medcore.models.formats.precision import FLOAT32
from medcore.models.spec import ModelSpec
from medcore.quality.catalogue import shown
from medcore.quality.timing import Timing
from results.pages.file_size import FileSize
from results.pages.markdown import code, plain, table
from results.pages.noise import start_sentence
from results.stats.columns import SINGLE
from results.stats.labels import NOT_RECOVERED, arrow_title, text, title
from results.stats.seed_noise import runs_in, seed_interval
from results.store.fine_tuned import FineTuned
from results.store.held_out import HeldOut, candidates_sentence, interval_text
from results.store.latency import Record
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow

_SPLITS = ("calibration", "search", "report")
_PACKAGES = ("python", "torch", "medcore-search")


@dataclass(frozen=True)
class Export:
    """Content of a card.

    Attributes:
        info: The study, with the metrics of the unpruned model on the search images.
        rule: The rule that chose the trial.
        row: The trial's row.
        spec: Structure of the exported model.
        checked: What the export's own check measured, a sentence.
        files: Meaning of every file by name.
        usage: Markdown on how to run them.
        git: Revision of the code that exported.
        config: The study's resolved configuration as plain values; empty if it is gone.
        images: Metrics of every image of the trial, with `dataset` and `name`; may be empty.
        hashes: SHA-256 by path of the checkpoints that the study began with, as they were at the export.
        held_out: Figures on images that the search has not seen.
        not_held_out: Why there are none.
        tuned: Training after the search, if there was one; `row` and `images` are then those of the trained model.
        latency: Time and memory measured at the export, a record a batch size.
        latency_note: What was not measured, a sentence.
        size: Size of the files, if it is known.
    """

    info: StudyInfo
    rule: str
    row: TrialRow
    spec: ModelSpec
    checked: str
    files: Mapping[str, str]
    usage: str
    git: str = "unknown"
    config: Mapping[str, Any] = field(default_factory=dict)
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    hashes: Mapping[str, str] = field(default_factory=dict)
    held_out: HeldOut | None = None
    not_held_out: str = ""
    tuned: FineTuned | None = None
    latency: Sequence[Record] = ()
    latency_note: str = ""
    size: FileSize | None = None


def model_card(export: Export) -> str:
    """Return the card as Markdown; what is unknown is left out or a dash."""
    share = cost(export.spec).flops / cost(ModelSpec.dense(export.spec.arch)).flops
    parts = [
        f"# {plain(export.info.name)}, trial {plain(export.row.trial_id)}: a pruned {plain(export.spec.arch.name)}",
        "A promptable segmentation model: an image and a box in, the mask of the object in that box out. "
        f"Its image encoder needs {share:.1%} of the dense encoder's FLOPs. **Not a medical device.**",
        "## Origin",
        table(("", ""), _origin(export)),
        "## Data",
        _data(export),
        *(["## Fine-tuning", _tuning(export.tuned)] if export.tuned is not None else []),
        "## Quality",
        *filter(None, [start_sentence(export.info)]),
        _quality(export),
        "## Cost of the image encoder",
        _cost(export.spec),
        "## Time and memory",
        _latency(export),
        *(["## Size on disk", _size(export.size)] if export.size is not None else []),
        "## Structure",
        _structure(export.spec),
        "## Files and use",
        table(("file", ""), [(code(name), plain(meaning)) for name, meaning in export.files.items()]),
        export.usage.strip(),
        f"Checked at the export: {plain(export.checked)}",
        "## Limits",
        _limits(export),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(export: Export) -> list[tuple[str, str]]:
    row, model = export.row, _section(export, "model")
    versions = row.provenance.versions or {}
    seed = export.config.get("seed")
    return [
        ("study, trial", plain(f"{export.info.name}, {row.trial_id}")),
        ("chosen by the rule", code(export.rule)),
        ("budgets from", _known(row.origin)),
        ("general model", _source(export, model.get("base"))),
        ("adapted", _source(export, model.get("adapted"))),
        ("seed of the study, of the trial", f"{_known(seed)}, {_known(row.seed)}"),
        ("trial finished", _known(row.timing.finished)),
        ("code of the trial, of the export", f"{_known(row.provenance.git)}, {plain(export.git)}"),
        ("versions", plain(", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)) or "–"),
    ]


def _known(value: object) -> str:
    return "–" if value is None else plain(value)


def _section(export: Export, name: str) -> Mapping[str, Any]:
    """Return a section of the study's configuration, which may be of any version."""
    section = export.config.get(name)
    return section if isinstance(section, Mapping) else {}


def _source(export: Export, path: Any) -> str:
    if not isinstance(path, str):
        return "–"
    digest = export.hashes.get(path)
    return code(path) + (f" (SHA-256 {digest[:16]}…)" if digest else "")


def _data(export: Export) -> str:
    data = _section(export, "data")
    if not data:
        return "The study's configuration was not there at the export; ask its author for the data."
    split = {key: code(data[f"{key}_split"]) if f"{key}_split" in data else "unknown" for key in _SPLITS}
    measured = dict(export.images["dataset"].value_counts()) if len(export.images) else {}
    folders = data.get("folders")
    rows = [
        (plain(Path(folder).name), code(folder), str(measured.get(Path(folder).name, "–")))
        for folder in (folders if isinstance(folders, list) else ())
        if isinstance(folder, str)
    ]
    most = data.get("calibration_per_dataset")
    return "\n\n".join(
        [
            table(("data set", "folder", "images measured"), rows),
            f"Scores and recovery: part {split['calibration']}"
            + (f", at most {plain(most)} images of each data set" if most else "")
            + f". Search: part {split['search']}. Held out for the final figure: part {split['report']}. "
            "What the two checkpoints above were trained on is not part of this study.",
        ]
    )


def _tuning(tuned: FineTuned) -> str:
    head = (f"on {code(tuned.about['search_split'])}", "before", "after", "change, 95 % interval")
    return f"{plain(tuned.summary())}\n\n{table(head, tuned.rows())}"


def _quality(export: Export) -> str:
    names = [name for name in shown() if name in export.row.metrics]
    if not names and export.held_out is None:
        return "The trial's row holds no metric."
    parts = [_held_out(export.held_out)] if export.held_out is not None else []
    if names:
        parts += [_on_search_images(export), _metric_table(names, export.row.metrics, export.images, export.info.dense)]
        parts += [_over_seeds(names, export.row)] if export.tuned is None and runs_in(export.row.metrics) > 1 else []
    if export.held_out is None:
        parts += [
            "The search chose by these images, so an honest figure is lower; on images that took no part it was not "
            f"measured{f' ({plain(export.not_held_out)})' if export.not_held_out else ''}."
        ]
    parts += [
        "Intervals are a bootstrap over images; they say nothing of other hospitals or cameras. "
        "Boxes were exact; boxes drawn by hand give less."
    ]
    return "\n\n".join(parts)


def _held_out(found: HeldOut) -> str:
    """Return the honest figures, with the words that keep them so."""
    own, names = found.model, [name for name in shown() if name in found.model.metrics]
    dense = found.dense.metrics if found.dense is not None else {}
    day, looks = plain(own.measured[:10]), candidates_sentence(found.candidates)
    return (
        f"**Held out**: part {code(own.split)}, {own.images} images that took no part in this study's scoring, "
        f"training or search, measured {day} in float32. {looks}\n\n"
        + _metric_table(names, own.metrics, found.images, dense, found.dense_images)
    )


def _on_search_images(export: Export) -> str:
    split = _section(export, "data").get("search_split")
    part = f"part {code(split)}" if split else "the part that the search saw"
    if export.held_out is None:
        return f"On {part}:"
    by = "The search chose" if export.tuned is None else "The search chose, and fine-tuning ended,"
    return f"**Search images**, for comparison: {part}. {by} by these, so their figures are somewhat too good."


def _over_seeds(names: Sequence[str], row: TrialRow) -> str:
    """Say that the figures are means over runs, and what the exported run has itself."""
    intervals = {name: seed_interval(row.metrics, name) for name in names}
    spread = [f"{title(name)} {ends[0]:.4g} to {ends[1]:.4g}" for name, ends in intervals.items() if ends is not None]
    own = [f"{title(name)} {text(name, row.metrics.get(SINGLE + name))}" for name in names]
    return (
        f"These figures are means over {runs_in(row.metrics)} runs of the trial with different seeds. Their 95 % "
        f"intervals over seeds: {', '.join(spread) or 'unknown'}. The exported model is one of these runs. Its own "
        f"figures: {', '.join(own)}."
    )


def _metric_table(
    names: Sequence[str],
    metrics: Mapping[str, Any],
    images: pd.DataFrame,
    dense: Mapping[str, float | None],
    dense_images: pd.DataFrame | None = None,
) -> str:
    """Return macro means with intervals next to the dense model's.

    The means of each data set follow.
    """
    datasets = sorted({key.partition("/")[2] for key in metrics for name in names if key.startswith(f"{name}/")})
    more = [] if dense_images is None else ["95 % interval"]
    head = ("macro mean", "this model", "95 % interval", NOT_RECOVERED, *more, *map(plain, datasets))
    rows = [
        (
            arrow_title(name),
            text(name, metrics[name]),
            _interval(images, name),
            text(name, dense.get(name)),
            *([_interval(dense_images, name)] if dense_images is not None else []),
            *(text(name, metrics.get(f"{name}/{dataset}")) for dataset in datasets),
        )
        for name in names
    ]
    return table(head, rows)


def _interval(images: pd.DataFrame, name: str) -> str:
    return interval_text(images, name, " to ") or "–"


def _cost(spec: ModelSpec) -> str:
    this, dense = cost(spec), cost(ModelSpec.dense(spec.arch))
    rows = []
    for name in ("encoder_params", "flops", "flops_paper"):
        value, full = getattr(this, name), getattr(dense, name)
        rows.append((title(name), text(name, value), text(name, full), f"{value / full:.1%}"))
    return (
        table(("one image", "this model", "dense model", "left"), rows)
        + "\n\nFLOPs are two for each multiply-add: what runs, padded windows included, and the MedCore paper's count."
    )


def _latency(export: Export) -> str:
    advice = "Other machines differ: `medcore latency` measures a checkpoint on the one that matters."
    if not export.latency:
        reason = plain(export.latency_note) or "Not measured."
        return f"{reason} Fewer FLOPs are not the same share of time. {advice}"
    rows = []
    for record in export.latency:
        images = "one image" if record.batch == 1 else f"{record.batch} images"
        for part, this, dense in (
            ("encoder", record.model.encoder, record.dense.encoder),
            ("whole call", record.model.whole, record.dense.whole),
        ):
            left = f"{this.median_ms / dense.median_ms:.1%}"
            rows.append((f"{part}, {images}", _milliseconds(this), _milliseconds(dense), left))
            if this.cpu_ms is not None and dense.cpu_ms:
                left = f"{this.cpu_ms / dense.cpu_ms:.1%}"
                cells = (f"{this.cpu_ms:.4g} ms", f"{dense.cpu_ms:.4g} ms", left)
                rows.append((f"{part}, {images}, processor time", *cells))
        this_peak, dense_peak = (f"{each.peak_bytes / 1e6:.1f} MB" for each in (record.model, record.dense))
        left = f"{record.model.peak_bytes / record.dense.peak_bytes:.1%}"
        rows.append((f"peak memory, {images}", this_peak, dense_peak, left))
    return "\n\n".join(
        [
            table(("", "this model", "dense model", "left"), rows),
            f"Measured at the export in PyTorch on {plain(export.latency[0].setup)}: medians of repeated calls, in "
            "brackets the interquartile range and the number of calls; the two models took turns. Processor time is "
            "that of all threads, and other programs hardly change it. A whole call is the encoder "
            "and, with a box for each image, the decoder. Memory is that of tensors at the worst moment of a whole "
            f"call, weights included. {advice}",
            *(f"Do not trust the times of batch {one.batch}: {one.doubt}." for one in export.latency if one.doubt),
            *filter(None, [plain(export.latency_note)]),
        ]
    )


def _size(size: FileSize) -> str:
    note = ""
    if size.precision != FLOAT32:
        note = f" The figures above are those of the float32 model; its masks and those of the {size.precision} "
        note += "file were compared at the export."
    return (
        table(("", "this model", f"dense model in {size.precision}", "left"), size.rows())
        + f"\n\nThe numbers are {size.precision} on disk. Loaders of medcore turn them into float32.{note}"
    )


def _milliseconds(timing: Timing) -> str:
    spread = "" if timing.iqr_ms is None else f"{timing.iqr_ms:.2g}; "
    return f"{timing.median_ms:.4g} ms ({spread}{timing.repeats})"


def _structure(spec: ModelSpec) -> str:
    sites, families = list(zip(spec.arch.sites, spec.widths, strict=True)), spec.arch.families
    rows = []
    for number, block in enumerate(spec.arch.blocks):
        own = [(site, kept) for site, kept in sites if site.block == number]
        counts = [[f"{kept} of {site.width}" for site, kept in own if site.family == family] for family in families]
        rows.append((str(number), block.area, *(", ".join(cells) or "–" for cells in counts)))
    empty = [f"{site.family.title} of block {site.block}" for site, kept in sites if not kept]
    note = f"\n\nEmpty, with nothing but the output bias left: {', '.join(empty)}." if empty else ""
    return (
        f"{plain(spec.arch.summary)}.\n\n" + table(("block", "attends to", *(f.title for f in families)), rows) + note
    )


def _limits(export: Export) -> str:
    return "\n".join(
        f"- {line}"
        for line in (
            "Not a medical device: for research, not for diagnosis or treatment.",
            "Tested on the data sets above alone; other organs, cameras, scanners and populations are untested.",
            "It answers every box with a mask, also a box with nothing in it; its own IoU estimate is not calibrated.",
            "Pruning costs thin and ragged boundaries first, which Dice hardly shows: look at Boundary F1 and HD95.",
            f"Images are squeezed into a square of {export.spec.arch.img_size} pixels: smaller details are lost.",
            "The licences of the two checkpoints and of the data sets apply to this model too.",
        )
    )
