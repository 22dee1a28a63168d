"""The configuration of a finished study, and a check that its splits share no images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcore.data.kept_splits import folder_splits
from medcore.data.readers import list_folder
from medcore.errors import ConfigError, DataError
from search.base.config import Config, at_home, saved_config
from search.base.sections.fields import Section
from search.base.sections.inputs import Datasets, ModelConfig
from search.base.sections.training import FinetuneConfig
from search.base.sections.yaml_file import read_yaml

FOLDER_WANTED = "give the folder that a search wrote"


@dataclass(frozen=True)
class SavedStudy:
    """The checkpoints and the images of a study."""

    model: ModelConfig
    datasets: Datasets


def saved_values(study: Path) -> dict[str, Any]:
    """Return a study's `config.yaml` as plain values, possibly of another version.

    Raises:
        MedcoreError: The file is missing or corrupt, or a section of it is something else.
    """
    path = study / "config.yaml"
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; {FOLDER_WANTED}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections; {FOLDER_WANTED}")
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    sections = {name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}
    values = {name: value for name, value in values.items() if value is not None or name not in sections}
    if wrong := [name for name in sorted(sections & values.keys()) if not isinstance(values[name], Mapping)]:
        raise ConfigError(f"{path}: {wrong[0]}: expected keys with values; {FOLDER_WANTED}")
    return values


def saved_study(study: Path, values: Mapping[str, Any]) -> SavedStudy:
    """Return the checkpoints and the images of a study, possibly of an older version.

    Args:
        study: The study's folder. It may have moved: the splits are looked for next to it first.
        values: `config.yaml` as plain values; empty if the file is gone.

    Raises:
        MedcoreError: The values are missing or insufficient.
    """
    config = _config(study, values)
    splits = study.resolve().parent / "splits"
    return SavedStudy(config.model, replace(config.datasets, splits=splits) if splits.is_dir() else config.datasets)


def values_here(study: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's saved configuration with paths that follow a study which has moved.

    The arguments are those of `saved_study`.
    """
    here = at_home(values, study)
    if "study" in values:  # the name that the study was given; a copy's folder may have one that no search would take
        here["study"] = values["study"]
    return here


def saved_finetune(study: Path, values: Mapping[str, Any]) -> FinetuneConfig:
    """Return a study's settings of a training at full length.

    The arguments are those of `saved_study`.

    Raises:
        MedcoreError: The values are missing or insufficient.
    """
    return _config(study, values, "finetune").finetune


def _config(study: Path, values: Mapping[str, Any], *sections: str) -> Config:
    where = study / "config.yaml"
    if not values:
        raise ConfigError(f"{where} is missing or corrupt")
    return saved_config(values_here(study, values), str(where), *sections)


def require_apart(datasets: Datasets, split: str, *others: str) -> None:
    """Check that a split shares no image with the others.

    Raises:
        MedcoreError: It does, or a data folder is missing.
    """
    for folder in datasets.section.folders:
        parts = folder_splits(folder, list_folder(folder).samples, datasets.splits, deal=False).names
        for other in others:
            if common := set(parts.get(split, ())) & set(parts.get(other, ())):
                raise DataError(f"{folder}: {len(common)} images of split '{split}' are in '{other}' too")
