"""The files that a search writes before its first trial: the configuration and `study.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
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
from search.study.inputs import adapted_model, dense_metrics
from search.trials.ledger import all_issued

#: Settings that may differ when a study is resumed. They change how trials run, not what they mean.
_MAY_CHANGE = {
    "recovery.save_every",
    "search.trials",
    "search.concurrency",
    "search.cpus_per_trial",
    "search.gpus_per_trial",
    "search.memory_per_trial",
    "search.retries",
    # its content may not: see `_keep_times`
    "search.times",
    "tracking.uri",
    # no trial reads these
    "adapt.workers",
    *(f"finetune.{name}" for name in FinetuneConfig.model_fields),
}


def open_study(config: Config, resume: bool) -> None:
    """Create a study's folder, or check that it is the study to resume.

    A new folder gets the resolved configuration, and a copy of the table of measured times if there is one.

    Args:
        config: The study's configuration.
        resume: Whether the study may have trials.

    Raises:
        MedcoreError: The study has trials and `resume` is false, its configuration or the content of its table is
            another one, or the table does not fit the model.
    """
    path = config.folder / "config.yaml"
    if path.is_file() and all_issued(config.folder):
        if not resume:
            raise ConfigError(
                f"{config.folder}: this study exists; add --resume to continue it, or choose another --name"
            )
        saved = load_config(path)
        if changed := sorted(_differences(saved.model_dump(), config.model_dump()) - _MAY_CHANGE):
            raise ConfigError(
                f"{path}: cannot resume, the configuration has changed in {', '.join(changed)}; "
                "undo that or start a new study with --name"
            )
    make_folder(config.folder / "trials")
    _keep_times(config)
    write_by_rename(path, hide_login(config.to_yaml()).encode())


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
