"""A tiny study on disk for the tests that go through the command line: real files, random weights."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml


@functools.cache
def _template() -> TemporaryDirectory[str]:
    """A checkpoint pair and images, made once a process. They last until the process ends.

    Imports are in here, because programs that make no study need no torch.
    """
    import torch

    from medcore.models.checkpoint import save
    from medcore.models.sam import build
    from medcore.models.spec import ModelSpec
    from medcore.synthetic.write import write_folder
    from tests.support.helpers import TINY

    made = TemporaryDirectory(prefix="medcore-tiny-")
    folder = Path(made.name)
    for seed, name in enumerate(("base", "adapted")):
        torch.manual_seed(seed)
        save(folder / f"{name}.safetensors", build(ModelSpec.dense(TINY)))
    write_folder(folder / "polyps", "medical", 80, TINY.img_size, seed=3)
    return made


def link_polyps(folder: Path) -> Path:
    """Link `folder/polyps` to the images and masks of the tiny study, which tests leave as they are."""
    link = folder / "polyps"
    if not link.exists():
        link.symlink_to(Path(_template().name) / "polyps", target_is_directory=True)
    return link


def own_polyps(folder: Path) -> Path:
    """Put a copy in the place of the link, for a test that changes it."""
    link = folder / "polyps"
    link.unlink()
    return Path(shutil.copytree(Path(_template().name) / "polyps", link))


def write_tiny_study(folder: Path, **sections: Any) -> Path:
    """Write a checkpoint pair, images and a configuration for a study named `tiny`.

    Args:
        folder: where the files go; the study's own folder will be `folder/runs/tiny`.
        sections: values that replace the default ones of a section.

    Returns:
        The configuration's path.
    """
    link_polyps(folder)
    for name in ("base", "adapted"):
        shutil.copyfile(Path(_template().name) / f"{name}.safetensors", folder / f"{name}.safetensors")
    config = {
        "study": "tiny",
        "output": str(folder / "runs"),
        "model": {"base": str(folder / "base.safetensors"), "adapted": str(folder / "adapted.safetensors")},
        "data": {"folders": [str(folder / "polyps")], "calibration_per_dataset": 8},
        "scoring": {"part_size": 64},  # each job is one shard: on Ray, a second worker's imports would take longest
        "recovery": {"steps": 4, "lr": 1e-3, "batch_size": 2},
        "search": {
            "trials": 6,
            "space": {"fraction": {"low": 0.3, "high": 1.0, "log": True}},
            "warm_starts": {"knapsack": [0.6], "uniform": [0.5]},
        },
    }
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values if isinstance(values, dict) else values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def command(*arguments: str | Path) -> list[str]:
    """The command line as a program of its own."""
    return [sys.executable, "-m", "search.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Variables of a program that a test starts."""
    root = Path(__file__).resolve().parents[3]
    return os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
