"""The files that a search writes before its first trial: configuration, hashes of its inputs, and `study.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcore.data.load import ImageSet
from medcore.errors import ConfigError, MedcoreError
from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import file_hash
from medcore.models.formats.precision import file_precision
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.catalogue import metrics
from medcore.quality.time_table import read_time_table, write_time_table
from results.stats.labels import base_name
from results.stats.objectives import names_of
from results.store.files import is_finite, make_folder, write_by_rename
from results.store.study_info import StudyInfo, structure_of, write_study
from search.base.config import Config, load_config
from search.base.logins import hide_login
from search.base.objectives import reference_point
from search.base.provenance import git_revision, machine
from search.base.sections.training import FinetuneConfig
from search.study.identity import Identity, image_rows, read_identity, require_same_images, write_identity
from search.study.inputs import adapted_model, dense_metrics
from search.trials.ledger import all_issued

logger = logging.getLogger(__name__)

#: Settings that may differ when a study is resumed. They change how trials run, not what they mean.
_MAY_CHANGE = {
    "recovery.save_every",
    "search.trials",
    "search.concurrency",
    "search.cpus_per_trial",
    "search.gpus_per_trial",
    "search.memory_per_trial",
    "search.retries",
    "search.keep",
    # where a study and its inputs are; the content of these may not change: see `_require_same_files`, `_keep_times`
    # and `keep_images`
    "study",
    "output",
    "data.folders",
    "search.times",
    "tracking.uri",
    "tracking.models",
    # no trial reads these
    "adapt.workers",
    *(f"finetune.{name}" for name in FinetuneConfig.model_fields),
}

#: Stands for a file in comparisons of configurations.
_FILE = "a file"


def open_study(config: Config, resume: bool) -> None:
    """Create a study's folder, or check that it is the study to resume.

    A new folder gets the resolved configuration, and a copy of the table of measured times if there is one. A study
    and its inputs may have moved; what they hold must be the same.

    Args:
        config: The study's configuration.
        resume: Whether the study may have trials.

    Raises:
        MedcoreError: The study has trials and `resume` is false, its configuration or the content of a model or table
            is another one, or the table does not fit the model.
    """
    path = config.folder / "config.yaml"
    if path.is_file() and all_issued(config.folder):
        if not resume:
            raise ConfigError(
                f"{config.folder}: this study exists; add --resume to continue it, or choose another --name"
            )
        saved = load_config(path, follow=False)
        changed = sorted(_differences(_settings(saved), _settings(config)) - _MAY_CHANGE)
        if changed := changed or _other_folders(config, saved):
            own = f"medcore search {shlex.quote(str(path))} --resume"
            raise ConfigError(
                f"{path}: cannot resume, the configuration has changed in {', '.join(changed)}; "
                f"undo that, take the study's own settings ({own}), or start a new study with --name"
            )
        _require_same_files(config, saved)
        _keep_times(config)
        return
    make_folder(config.folder / "trials")
    _keep_times(config)
    write_identity(config.folder, Identity(_hashes(config)))
    write_by_rename(path, hide_login(config.to_yaml()).encode())


def keep_images(config: Config, images: Mapping[str, ImageSet]) -> None:
    """Record which images a study uses, or check that they are those of its first start.

    The configuration is saved again, because a study that is resumed may have moved.

    Args:
        config: The study's configuration.
        images: Images by purpose.

    Raises:
        MedcoreError: Images were added to those that the study uses, removed, or changed.
    """
    known, folders = read_identity(config.folder), tuple(map(str, config.data.folders))
    files = known.files or _hashes(config)  # `open_study` has compared them
    now = Identity(files, folders, {purpose: image_rows(each) for purpose, each in images.items()})
    if known.images and all_issued(config.folder):
        require_same_images(config.folder, known, now)
        now = dataclasses.replace(now, folders=known.folders, images={**now.images, **known.images})
    if now != known:
        write_identity(config.folder, now)
    write_by_rename(config.folder / "config.yaml", hide_login(config.to_yaml()).encode())


def describe(config: Config, images: ImageSet) -> None:
    """Write `study.json` before the first trial.

    It fixes the hypervolume's reference point.

    Args:
        config: The study's configuration.
        images: The search images. Distances are measured at their original size, so a missed object costs at most the
            largest side among them.

    Raises:
        MedcoreError: An objective is unknown, or no number for the dense model.
    """
    folder = config.folder
    if (folder / "study.json").is_file() and all_issued(folder):
        return
    objectives = config.search.objectives
    dense = dense_metrics(config.model, images, autocast=config.recovery.autocast)
    if unknown := [name for name in names_of(objectives) if name not in dense]:
        known = ", ".join(sorted(name for name in dense if "/" not in name))
        raise ConfigError(
            f"unknown objective {', '.join(unknown)}; known are {known}{_without_spacing(unknown, images)}"
        )
    if undefined := [name for name in names_of(objectives) if not is_finite(dense[name])]:
        raise ConfigError(
            f"objective {', '.join(undefined)} is no number for the dense model on these search images; choose other "
            "objectives or images"
        )
    info = StudyInfo(
        name=config.study,
        objectives=objectives,
        reference=reference_point(objectives, dense, *images.largest_sides),
        dense=dense,
        **structure_of(adapted_model(config.model).spec),
        datasets=list(dict.fromkeys(images.datasets)),
        git=git_revision(),
        machine=machine(),
        precision=file_precision(config.model.adapted),
    )
    write_study(folder, info)


def _without_spacing(unknown: Sequence[str], images: ImageSet) -> str:
    """Say which data sets lack the pixel spacing, if an unknown objective needs it."""
    bases = {base_name(name) for name in unknown}
    if images.is_spaced or not any(metric.needs_spacing and metric.name in bases for metric in metrics()):
        return ""
    lacking = [images.datasets[index] for index in range(len(images)) if images.spacing(index) is None]
    return (
        f" (metrics in mm need the pixel spacing of every search image; {', '.join(dict.fromkeys(lacking))} lacks it)"
    )


def _keep_times(config: Config) -> None:
    """Copy the table of measured times into the study's folder, or check that it is still the study's.

    Raises:
        MedcoreError: The table cannot be read or belongs to another architecture, or the study's trials were priced by
            another one.
    """
    times, kept = config.search.times, config.folder / "times.json"
    if times is None:
        return
    arch = adapted_model(config.model).arch
    table = read_time_table(times, arch)
    if kept.is_file() and all_issued(config.folder) and read_time_table(kept, arch) != table:
        raise ConfigError(
            f"{times}: cannot resume, the study was priced by another table; set search.times to {kept}, or start a "
            "new study with --name"
        )
    write_time_table(kept, table)


def _files(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield the files that trials are computed from, by their keys; `search.times` has a copy in the study."""
    yield "model.base", config.model.base
    yield "model.adapted", config.model.adapted
    budgets = {"budget": config.budget}
    budgets |= {f"schedule.stages.{number}": stage for number, stage in enumerate(config.schedule.stages)}
    yield from ((f"{name}.times", budget.times) for name, budget in budgets.items() if budget.times is not None)


def _hashes(config: Config) -> dict[str, str]:
    """Return the SHA-256 of each file, and of the architecture, which a file next to the model may describe."""
    hashes = {key: file_hash(path) for key, path in _files(config) if path.exists()}
    return hashes | {"model.architecture": _hash_of(adapted_model(config.model).arch)}


def _architecture_of(saved: Config) -> str:
    """Return the hash of the architecture that a study of an earlier version names; empty if it cannot be read."""
    try:
        name = saved.model.architecture
        return _hash_of(resolve_architecture(name) if name is not None else adapted_model(saved.model).arch)
    except MedcoreError:
        return ""


def _hash_of(arch: Architecture) -> str:
    return hashlib.sha256(ModelSpec.dense(arch).to_json().encode()).hexdigest()


def _require_same_files(config: Config, saved: Config) -> None:
    """Check that the files of a resumed study hold what they held at its start.

    A study of an earlier version has no hashes. Its files count as the same if they have not moved, or if the file in
    the old place is the same; if that is gone, a warning says so.

    Raises:
        MedcoreError: They hold something else, or a file is missing.
    """
    known, now, old = read_identity(config.folder).files, _hashes(config), dict(_files(saved))
    changed: list[str] = []
    for key, path in _files(config):
        was = old.get(key, path)
        before = known.get(key)
        if before is None and was != path:
            if was.is_file():
                before = file_hash(was)
            else:
                logger.warning("%s: %s is gone and the study has no hash of it; %s counts as the same", key, was, path)
        if before is not None and before != now.get(key, before):
            place = str(path) if was == path else f"{was} -> {path}"
            changed.append(f"{key} ({place}: {before[:8]} at the start, {now[key][:8]} now)")
    architecture = known.get("model.architecture")
    if architecture is None:
        same = saved.model.architecture == config.model.architecture
        architecture = now["model.architecture"] if same else _architecture_of(saved)
    if not changed and architecture != now["model.architecture"]:
        changed.append("the architecture of model.adapted")
    if changed:
        raise ConfigError(
            f"{config.folder}: cannot resume, other content than at the study's start in {', '.join(changed)}; "
            "restore that or start a new study with --name"
        )


def _other_folders(config: Config, saved: Config) -> list[str]:
    """Return the key of the data folders if a study of an earlier version, without hashes, had others.

    Folders that have moved count as the same if they keep their names. A warning says so.
    """
    old, new = saved.data.folders, config.data.folders
    if old == new or read_identity(config.folder).images:
        return []
    if [folder.name for folder in old] != [folder.name for folder in new]:
        return ["data.folders"]
    for was, folder in zip(old, new, strict=True):
        if was != folder:
            logger.warning("the study has no hashes of the images in %s; those in %s count as the same", was, folder)
    return []


def _settings(config: Config) -> dict[str, Any]:
    """Return the configuration with one word for each file that is compared by its content."""
    values = config.model_dump()
    values["model"] = dict.fromkeys(values["model"], _FILE)
    for budget in (values["budget"], *values["schedule"]["stages"]):
        if budget["times"] is not None:
            budget["times"] = _FILE
    return values


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys whose values differ."""
    keys: set[str] = set()
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            keys |= _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            keys.add(f"{prefix}{key}")
    return keys
