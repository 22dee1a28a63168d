"""A study with random weights and synthetic images, for measurements that no weight decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import save
from medcore.models.sam import build
from medcore.models.spec import Architecture, ModelSpec
from medcore.synthetic.write import write_folder
from search.base.config import Config, validate

#: Share of the cost that every trial keeps.
FRACTION = 0.2


def write_inputs(folder: Path, arch: Architecture, count: int) -> None:
    """Write two checkpoints and a folder of images, unless they are there."""
    for seed, name in enumerate(("base", "adapted")):
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            torch.manual_seed(seed)
            save(file, build(ModelSpec.dense(arch)))
    if not (folder / "images").is_dir():
        write_folder(folder / "images", "medical", count, arch.img_size, seed=0)


def config_of(folder: Path, study: str, steps: int, **search: Any) -> Config:
    """Return the configuration of a study on these inputs; `search` holds keys of its section."""
    values = {
        "study": study,
        "output": str(folder / "runs"),
        "model": {"base": str(folder / "base.safetensors"), "adapted": str(folder / "adapted.safetensors")},
        "data": {"folders": [str(folder / "images")], "calibration_per_dataset": 8},
        "recovery": {"steps": steps, "autocast": True, "refit_images": 8},
        "search": {"space": {"fraction": {"low": 0.1, "high": 0.5, "log": True}}, **search},
    }
    return validate(values, study)


def small(arch_name: str, side: int, folder: Path) -> Architecture:
    """Return an architecture at a smaller side, read back from a file as a user's would be."""
    arch = resolve_architecture(arch_name)
    file = folder / f"{arch.name}_{side}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(arch.to_dict() | {"name": file.stem, "img_size": side}))
    return resolve_architecture(str(file))
