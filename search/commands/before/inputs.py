"""Quick checks of checkpoints, data folders and starting points: names, headers and a few masks, without torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcore.data.kept_splits import folder_splits
from medcore.data.labels import UnclearMask, objects_in
from medcore.data.reader import Listing, Sample, UnreadableFile
from medcore.data.splits import Splits, read_splits
from medcore.errors import CheckpointError, DataError
from medcore.files import not_a_file
from medcore.models.architectures import resolve_architecture, spec_from_json
from medcore.models.masks import masks_without_outputs
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import DECODER, ModelSpec
from search.base.config import Config
from search.base.sections.inputs import ModelConfig
from search.commands.before.checks import Found, Subject
from search.trials.sampling.reach import counts, division, point_count, reachable_starts, share_limits
from search.trials.sampling.sides import other_sides

#: Longest header of a safetensors file that is worth reading.
_LONGEST = 100_000_000
#: Masks of a data folder that are read to see what their values mean.
_MASKS = 3
#: With fewer search images, single images decide which trial is better.
FEW_IMAGES = 20
_OFTEN = {b"version https://git-lfs": "a pointer of Git LFS; fetch it with `git lfs pull`", b"<": "a web page"}


def checkpoints(subject: Subject) -> Found:
    """Find checkpoints that are missing, cut off, or something else, by their first and last bytes."""
    model = subject.config.model
    files = {"model.base": model.base, "model.adapted": model.adapted}
    problems = [f"{key}: {problem}" for key, path in files.items() if (problem := _problem_of(path))]
    names = " and ".join(path.name for path in files.values())
    return Found(names, problems=tuple(problems))


def architecture(subject: Subject) -> Found:
    """Find an architecture that nothing describes; the shapes of the tensors are compared later."""
    start = start_of(subject.config.model)
    if start is None:
        return Found("by the tensors' shapes")
    arch = start.arch
    other_sides(subject.config.search.space, arch)
    pruned = "" if start.is_dense else ", pruned already"
    depth = f"{len(arch.encoder_blocks)} blocks, {arch.decoder.depth} layers in the decoder"
    return Found(f"{arch.name}: {arch.summary}, {depth if DECODER in arch.parts else depth.partition(',')[0]}{pruned}")


def start_of(model: ModelConfig) -> ModelSpec | None:
    """Return the widths of the adapted model, as far as names and descriptions tell; None if only its tensors do.

    Raises:
        MedcoreError: The architecture is unknown, its description is wrong, or `model.side` does not fit it.
    """
    spec = _described(model)
    if spec is None:
        return None
    spec = spec.with_parts(model.parts, str(model.adapted))
    if model.side is not None:
        spec = ModelSpec(arch_at_side(spec.arch, model.side), spec.widths)
    if not model.drop:
        return spec
    masks = masks_without_outputs(spec, model.drop, str(model.adapted))
    return ModelSpec(spec.arch, tuple(int(mask.sum()) for mask in masks))


def _described(model: ModelConfig) -> ModelSpec | None:
    path = model.adapted
    spec = _header(path).get("__metadata__", {}).get("spec") if path.is_file() else None
    if isinstance(spec, str):
        return spec_from_json(spec, f"{path}: spec")
    if model.architecture is not None:
        return ModelSpec.dense(resolve_architecture(model.architecture, folder=path.parent))
    own = path.with_suffix(".json")
    return ModelSpec.dense(resolve_architecture(own)) if own.is_file() and own != path else None


def data(subject: Subject) -> Found:
    """Find folders without images, and images without masks, by the names of the files."""
    notes, counts = [], []
    for folder, listing in subject.listings.items():
        counts.append(f"{len(listing.samples)} in {folder.name}")
        if listing.skipped:
            first = listing.skipped[0]
            notes.append(f"{folder}: {len(listing.skipped)} files left out, the first: {first.path} ({first.reason})")
    return Found(f"images by name: {', '.join(counts)}", tuple(notes))


def parts(subject: Subject) -> Found:
    """Find splits that do not exist or that hold too few images. Nothing is dealt out or saved here."""
    config = subject.config
    section = config.data
    names = [folder.resolve().name for folder in section.folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"data.folders: two folders are called {', '.join(twice)}; rename one")
    wanted = {
        "calibration_split": section.calibration_split,
        "search_split": section.search_split,
        "report_split": section.report_split,
    }
    totals, problems = dict.fromkeys(wanted, 0), []
    known: list[str] = []
    for folder, listing in subject.listings.items():
        splits = splits_of(config, folder, listing)
        there = {sample.name for sample in listing.samples}
        sizes = {split: len(there & set(members)) for split, members in splits.names.items()}
        known.append(f"{folder.name} has {', '.join(f'{split} {size}' for split, size in sizes.items())}")
        for key, split in wanted.items():
            if split not in sizes:
                others = ", ".join(sorted(sizes))
                problems.append(f"data.{key}: {folder} has no split '{split}'; known are {others}")
            totals[key] += sizes.get(split, 0)
    if not problems:
        empty = [f"data.{key} '{wanted[key]}'" for key, total in totals.items() if not total]
        if empty:
            problems.append(
                f"too few images: none is left for {' and '.join(empty)} ({'; '.join(known)}); add images, or name the "
                "splits in a splits.json"
            )
    few = totals["search_split"]
    note = f"only {few} search images: single images decide which trial is better, so add images if you can"
    text = ", ".join(f"{totals[key]} in {split}" for key, split in wanted.items())
    return Found(text, (note,) if 0 < few < FEW_IMAGES else (), tuple(problems))


def masks(subject: Subject) -> Found:
    """Read a few masks, and find label maps of which nothing says what the object is."""
    rules, problems, read = subject.config.data.rules, [], 0
    for listing in subject.listings.values():
        for sample in some_of(listing.samples):
            try:
                objects_in(listing.reader.read(sample), rules)
                read += 1
            except UnclearMask as error:
                problems.append(f"{sample.mask}: {error}")
                break
            except UnreadableFile:  # the check of all images lists it
                continue
    return Found(f"{read} of them read", problems=tuple(problems))


def starting_points(subject: Subject) -> Found:
    """Find starting points that pruning cannot reach, and say how the trials divide up."""
    start = start_of(subject.config.model)
    if start is None:
        return Found("after the model is loaded")
    return starts_found(subject.config, start)


def starts_found(config: Config, start: ModelSpec) -> Found:
    """Return how the trials divide up, which starting points are skipped, and whether sampled trials are equal.

    Raises:
        ConfigError: One that the user wrote is out of reach.
    """
    prices = config.search.prices(start.arch)
    starts, points = reachable_starts(config.search, start, prices), point_count(config.search, start, prices)
    _, sampled, _ = counts(config.search, len(starts.names))
    notes = list(starts.notes)
    if points is not None and points < sampled:
        notes.append(
            f"search.space has {points} point{'s' * (points != 1)} for {sampled} sampled trials, so some are equal: "
            f"give a range of fraction above {share_limits(config.search, start, prices)[0]:.3g}, or fewer trials"
        )
    return Found(division(config.search, starts.names, averages=config.averages), tuple(notes))


def splits_of(config: Config, folder: Path, listing: Listing) -> Splits:
    """Return a folder's splits as a search will have them, without writing any."""
    place, data = config.datasets.splits, config.data
    wanted = {data.calibration_split, data.search_split, data.report_split}
    if any(place.glob("*.splits.json")):
        kept = folder_splits(folder, listing.samples, place, deal=False)
        if wanted <= kept.names.keys():
            return kept
    groups = {sample.name: sample.group for sample in listing.samples if sample.group}
    return read_splits(folder, [sample.name for sample in listing.samples], groups=groups)


def some_of(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return a few samples, evenly spread; one if they are slices, because each may take a whole volume to read."""
    count = min(len(samples), 1 if samples and samples[0].volume else _MASKS)
    return [samples[len(samples) * number // count] for number in range(count)]


def _problem_of(path: Path) -> str:
    """Return what is wrong with a checkpoint, as far as a look at the file tells; empty if nothing is."""
    if path.is_dir():
        return ""  # the folder's own files are read with the model
    if not path.exists():
        return f"{path}: no such checkpoint; mend the path"
    if kind := not_a_file(path):
        return f"{path}: {kind}, not a checkpoint; mend the path"
    with path.open("rb") as file:
        head = file.read(64)
    if what := next((words for start, words in _OFTEN.items() if head.startswith(start)), None):
        return f"{path}: not a checkpoint but {what}"
    if head[8:9] == b"{":
        header, size = _header(path), path.stat().st_size
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + int.from_bytes(head[:8], "little") + max(ends, default=0)
        return "" if size >= whole else f"{path}: cut off after {size} of {whole} bytes; copy the file again"
    if head.startswith(b"PK\x03\x04"):
        return "" if zipfile.is_zipfile(path) else f"{path}: cut off; copy the file again"
    return "" if head.startswith(b"\x80") else f"{path}: neither safetensors nor a file of torch.save; mend the path"


def _header(path: Path) -> Mapping[str, Any]:
    """Return the header of a safetensors file; empty for a file of another kind.

    Raises:
        CheckpointError: The header is damaged.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if file.read(1) != b"{" or size > _LONGEST:
            return {}
        text = b"{" + file.read(size - 1)
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if isinstance(header.get("__metadata__", {}), dict) and all(isinstance(end, int) for end in ends):
            return dict(header)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise CheckpointError(f"{path}: damaged header of safetensors; copy the file again")
