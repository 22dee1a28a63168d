"""A finished study's own configuration, and whether its parts keep apart what must not meet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcore.data.load import list_folder, read_splits
from medcore.data.splits import saved_file
from medcore.errors import MedcoreError
from search.base.config import Config, saved_config


def config_of(study: Path, values: Mapping[str, Any], *sections: str) -> Config:
    """Models, data and `sections` of a study, possibly of an older version, with its splits where they lie now.

    values: `config.yaml` as plain values; empty where it is gone. Raises `MedcoreError` if they do not tell enough.
    """
    where = study / "config.yaml"
    if not values:
        raise MedcoreError(f"{where} is missing or corrupt")
    config = saved_config(values, str(where), *sections)
    beside = study.resolve().parent
    return config.model_copy(update={"output": beside}) if (beside / "splits").is_dir() else config


def require_apart(config: Config, one: str, *others: str) -> None:
    """Raise `MedcoreError` if a part shares images with one of the others, or if a data folder is not there."""
    for folder in config.data.folders:
        names = [sample.name for sample in list_folder(folder).samples]
        parts = read_splits(folder, names, save_to=saved_file(folder, config.output / "splits"), deal=False).parts
        for other in others:
            if common := set(parts.get(one, ())) & set(parts.get(other, ())):
                raise MedcoreError(f"{folder}: {len(common)} images of part '{one}' are in '{other}' too")
