"""The files of a job: the user's folder without data and results, and the resolved configuration."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from medcore.data.readers import is_data_folder
from medcore.errors import ClusterError
from search.base.config import Config

#: Largest upload that Ray's dashboard accepts, bytes (`ray_constants.DASHBOARD_CLIENT_MAX_SIZE`).
UPLOAD_LIMIT = 100 << 20
#: The configuration's name at the top of the package.
CONFIG_NAME = "medcore-job.yaml"
_FOLDERS = {"runs", "mlruns", "mlartifacts", "venv", "__pycache__", "node_modules"}
_ENDINGS = {".pth", ".pt", ".ckpt", ".safetensors", ".onnx", ".npz", ".npy", ".parquet", ".db", ".pyc"}
#: A fixed date, so that equal files make an equal package, which Ray does not upload again.
_DATE = (1980, 1, 1, 0, 0, 0)


def package(folder: Path, config: Config, target: Path, limit: int = UPLOAD_LIMIT) -> int:
    """Write the files that a job needs to a ZIP file, and return their number.

    The package has no data and output folders, checkpoints, tables, environments, hidden files, files that git ignores,
    and files that a link brings in from outside.

    Args:
        folder: The user's folder.
        config: Resolved configuration of the job.
        target: ZIP file to write.
        limit: Largest size of the package in bytes.

    Raises:
        MedcoreError: The package is larger than `limit`; the message names the largest files.
    """
    files = [path for path in listed_files(folder) if not left_out(path.relative_to(folder), folder, config)]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            _add(archive, str(path.relative_to(folder)), path.read_bytes())
        _add(archive, CONFIG_NAME, config.to_yaml().encode())
    if (size := target.stat().st_size) > limit:
        largest = sorted(files, key=lambda path: path.stat().st_size, reverse=True)[:3]
        names = ", ".join(f"{path.relative_to(folder)} ({path.stat().st_size >> 20} MiB)" for path in largest)
        raise ClusterError(
            f"{folder}: the job's files are {size >> 20} MiB and Ray takes {limit >> 20} MiB; the largest are {names}; "
            "submit from a folder that holds only what the search needs, or let .gitignore name them"
        )
    return len(files) + 1


def listed_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder; in a git checkout without those that git ignores."""
    command = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        names: Iterable[str] = os.fsdecode(done.stdout).split("\0")
        yield from (folder / name for name in names if name and (folder / name).is_file())
    except (OSError, subprocess.SubprocessError):
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name not in _FOLDERS and name[0] != "."]
            yield from (path for name in files if (path := Path(place) / name).is_file())


def left_out(path: Path, folder: Path, config: Config) -> bool:
    """Return whether a job goes without a file (relative to `folder`).

    Both ends of a link count.
    """
    top, target = folder.resolve(), (folder / path).resolve()
    if not target.is_relative_to(top):
        return True
    for name in (path, target.relative_to(top)):
        if any(part in _FOLDERS or part[0] == "." for part in name.parts) or name.suffix.lower() in _ENDINGS:
            return True
    away = {place.resolve() for place in (*config.data.folders, config.output)}
    # up to the root, because `folder` may lie in a data or output folder, or be one
    return any(parent in away or is_data_folder(parent) for parent in (*(top / path).parents, *target.parents))


def relative_paths(config: Config) -> list[str]:
    """Return the keys whose paths would have another meaning on another machine."""
    paths = {
        "output": config.output,
        "model.base": config.model.base,
        "model.adapted": config.model.adapted,
        **{f"data.folders.{number}": folder for number, folder in enumerate(config.data.folders)},
    }
    architecture, uri = config.model.architecture, config.tracking.uri
    if architecture is not None and Path(architecture).suffix == ".json":
        paths["model.architecture"] = Path(architecture)
    if uri is not None and uri.startswith("sqlite:///"):
        paths["tracking.uri"] = Path(uri.removeprefix("sqlite:///"))
    return [key for key, path in paths.items() if not path.is_absolute()]


def pinned(constraints: Path, distribution: str = "medcore-search", extra: str = "cluster") -> list[str]:
    """Return what a node has to install.

    These are the distribution's requirements in the versions of `constraints.txt`. pip chooses the packages that the
    file does not name, such as CUDA's, which differ between machines.

    Args:
        constraints: File with a pinned version per line.
        distribution: Name of an installed distribution.
        extra: Name of the extra whose requirements count too.

    Raises:
        MedcoreError: The file or the installed distribution is missing.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in constraints.read_text().splitlines()]
    except OSError as error:
        raise ClusterError(f"{constraints}: {error.strerror}; --pip needs it, give it with --constraints") from None
    pins = {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}
    try:
        wanted = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        raise ClusterError(f"{distribution} is not installed, so what it needs is not known; pip install it") from None
    waiting = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": extra})]
    needed: set[NormalizedName] = set()
    while waiting:
        item = waiting.pop()
        name = canonicalize_name(item.name)
        if name in needed:
            continue
        needed.add(name)
        for text in _needs(item.name):
            inner = Requirement(text)
            chosen = item.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": name}) for name in chosen):
                waiting.append(inner)
    return sorted(pins[name] for name in needed if name in pins)


def _needs(name: str) -> list[str]:
    try:
        version(name)
        return requires(name) or []
    except PackageNotFoundError:  # pip resolves it on the node
        return []


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
