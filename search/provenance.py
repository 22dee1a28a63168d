"""Where a row came from: library versions, git revision, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("medcore-search", "torch", "ray", "optuna", "mlflow", "segment-anything")


def versions() -> dict[str, str]:
    """Versions of the packages that shape a result."""
    return {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES}


@cache
def git_revision() -> str:
    """Commit of the code that runs, `+dirty` if files differ from it, or `unknown` outside a checkout."""
    folder = Path(__file__).parent
    try:
        revision = _git(folder, "rev-parse", "--short=12", "HEAD")
        return revision + ("+dirty" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """One line on the hardware, for published results."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, {device}"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=20
    ).stdout.strip()
