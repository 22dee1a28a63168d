"""What made a row: library versions, git revision, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

#: Variable with the revision of code that was sent to a cluster, where there is no checkout.
REVISION = "MEDCORE_GIT_REVISION"
_PACKAGES = ("medcore-search", "torch", "ray", "optuna", "mlflow", "segment-anything")


def versions() -> dict[str, str]:
    """Return the versions of the packages that shape a result.

    `unknown` for one that is not installed.
    """
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


@cache
def git_revision() -> str:
    """Return the commit of the code that runs.

    It ends in `+dirty` if files differ, and is `unknown` outside a checkout.
    """
    return os.environ.get(REVISION) or revision_of(Path(__file__))


def revision_of(file: Path) -> str:
    """Return the revision of the checkout that tracks `file`.

    A copy in another project's virtual environment lies inside that project's repository, which does not track it.
    """
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        revision = _git(file.parent, "rev-parse", "--short=12", "HEAD")
        return revision + ("+dirty" if _git(file.parent, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """Describe the hardware in one line, for published results."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, {device}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=20
    ).stdout.strip()
