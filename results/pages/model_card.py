"""The model card (Markdown) of an exported model: where it comes from, what it is, what it can do and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.catalogue import shown
from results.pages.card_costs import model_cost, size_on_disk, structure, time_and_memory
from results.pages.card_head import yaml_head
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
        library: Name of the library that runs the model.
        given: What the user states for the card's head, by the Hugging Face Hub's keys.
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
    library: str = "medcore"
    given: Mapping[str, str | list[str]] = field(default_factory=dict)


def model_card(export: Export) -> str:
    """Return the card as Markdown; what is unknown is left out or a dash."""
    dense = ModelSpec.dense(export.info.unpruned(export.spec.arch))
    share = cost(export.spec).flops / cost(dense).flops
    parts = [
        f"# {plain(export.info.name)}, trial {plain(export.row.trial_id)}: a pruned {plain(export.spec.arch.name)}",
        "A promptable segmentation model: an image and a box in, the mask of the object in that box out. "
        f"Its image encoder needs {share:.1%} of the dense encoder's FLOPs{_squares(export.spec, dense)}. "
        "**Not a medical device.**",
        "## Origin",
        table(("", ""), _origin(export)),
        "## Data",
        _data(export),
        *(["## Fine-tuning", _tuning(export.tuned)] if export.tuned is not None else []),
        "## Quality",
        *filter(None, [start_sentence(export.info)]),
        _quality(export),
        "## Cost of the image encoder",
        model_cost(export.spec, dense),
        "## Time and memory",
        time_and_memory(export.latency, export.latency_note),
        *(["## Size on disk", size_on_disk(export.size)] if export.size is not None else []),
        "## Structure",
        structure(export.spec),
        "## Files and use",
        table(("file", ""), [(code(name), plain(meaning)) for name, meaning in export.files.items()]),
        export.usage.strip(),
        f"Checked at the export: {plain(export.checked)}",
        "## Limits",
        _limits(export),
    ]
    body = "\n\n".join(parts)
    return f"{_head(export)}\n{body}\n"


def _squares(spec: ModelSpec, dense: ModelSpec) -> str:
    """Name the sides of both models if they differ."""
    sides = spec.arch.img_size, dense.arch.img_size
    return "" if sides[0] == sides[1] else f", on a square of {sides[0]} pixels instead of {sides[1]}"


def _head(export: Export) -> str:
    metrics = export.row.metrics if export.held_out is None else export.held_out.model.metrics
    name = f"{export.info.name}-{export.row.trial_id}{'' if export.tuned is None else '-fine-tuned'}"
    names = [each for each in shown() if each in metrics]
    return yaml_head(name, export.library, names, export.config, export.given, export.held_out)


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


def _limits(export: Export) -> str:
    return "\n".join(
        f"- {line}"
        for line in (
            "Not a medical device: for research, not for diagnosis or treatment.",
            "Tested on the data sets above alone; other organs, cameras, scanners and populations are untested.",
            "It answers every box with a mask, also a box with nothing in it; its own IoU estimate is not calibrated.",
            "Pruning costs thin and ragged boundaries first, which Dice hardly shows: look at Boundary F1 and HD95.",
            f"Images are resized to a square of {export.spec.arch.img_size} pixels: smaller details are lost.",
            "The licences of the two checkpoints and of the data sets apply to this model too.",
        )
    )
