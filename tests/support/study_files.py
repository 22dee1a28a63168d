"""A tiny study on disk for the tests that go through the command line: real files, real processes, random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from medcore.models.checkpoint import save
from medcore.models.sam import build
from medcore.models.spec import EncoderSpec
from medcore.synthetic.write import write_folder
from tests.support.helpers import TINY


def write_tiny_study(folder: Path, **sections: Any) -> Path:
    """Checkpoint pair, images and a configuration for a study named `tiny`; returns the configuration's path."""
    for seed, name in enumerate(("base", "adapted")):
        torch.manual_seed(seed)
        save(folder / f"{name}.safetensors", build(EncoderSpec.dense(TINY)))
    write_folder(folder / "polyps", "medical", 80, TINY.img_size, seed=3)
    config = {
        "study": "tiny",
        "output": str(folder / "runs"),
        "model": {"base": str(folder / "base.safetensors"), "adapted": str(folder / "adapted.safetensors")},
        "data": {"folders": [str(folder / "polyps")], "calibration_per_dataset": 8},
        "recovery": {"steps": 4, "lr": 1e-3, "batch_size": 2},
        "search": {
            "trials": 6,
            "space": {"fraction": {"low": 0.3, "high": 1.0, "log": True}},
            "warm_starts": {"uniform": [0.5], "rule": [0.6]},
        },
    }
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values if isinstance(values, dict) else values
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def medcore(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "search.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
