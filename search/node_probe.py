"""What one node of a cluster sees: versions, data, checkpoints, the study's folder, GPU memory.

Runs on every node before a search, so it imports nothing but the standard library: a node that lacks a package can
still say so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

#: Packages whose versions shape a result or must agree for nodes to talk.
PACKAGES = ("torch", "ray", "numpy")
_ROOMS = ("medcore", "search", "results")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Question:
    """What a node is asked. `probe`: folder in the study's folder with the driver's file; `name`: the node's own."""

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    probe: Path
    name: str
    gpu: bool


@dataclass(frozen=True)
class Seen:
    """A file or data folder. `reason` says why it cannot be read; else `digest` is equal where the content is.

    `files` and `size` (bytes) are for messages.
    """

    files: int = 0
    size: int = 0
    digest: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """A node's answer. `unread`, `unwritten`: why the study's folder is not usable there.

    `gpu_bytes`: total memory of each of its GPUs; empty if there is none or nobody can tell.
    """

    versions: dict[str, str]
    code: str
    seen: dict[Path, Seen]
    unread: str | None
    unwritten: str | None
    gpu_bytes: tuple[int, ...]


DRIVER = "driver"


def answer(question: Question) -> Report:
    """Look around on this node, and leave a file beside the driver's."""
    seen = {folder: data_folder(folder) for folder in question.folders}
    seen |= {file: checkpoint(file) for file in question.files}
    unread, unwritten = _meet(question)
    return Report(
        versions(), code_digest(code_folders()), seen, unread, unwritten, gpu_memory() if question.gpu else ()
    )


def versions() -> dict[str, str]:
    """Public versions: `2.13.0+cpu` and `2.13.0+cu130` are one release, and a head often has no GPU."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def code_folders() -> tuple[Path, ...]:
    """Where this process imports medcore, search and results from; a job has each in a folder of its own."""
    found = (find_spec(room) for room in _ROOMS)
    return tuple(Path(spec.origin).parent for spec in found if spec is not None and spec.origin is not None)


def code_digest(folders: Sequence[Path]) -> str:
    """Of all code in these packages; tells revisions apart where there is no git."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            name = f"{folder.name}/{file.relative_to(folder)}"
            digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def data_folder(folder: Path) -> Seen:
    """Names and sizes of a data folder's images and masks, and its `splits.json`; no image is opened."""
    lines = []
    size = 0
    try:
        for kind in ("images", "masks"):
            with os.scandir(folder / kind) as entries:
                for entry in entries:
                    if entry.name[0] != ".":
                        size += entry.stat().st_size
                        lines.append(f"{kind}/{entry.name} {entry.stat().st_size}")
        splits = folder / "splits.json"
        text = splits.read_bytes() if splits.is_file() else b""
    except OSError as error:
        return Seen(reason=error.strerror or str(error))
    digest = hashlib.sha256("\n".join(sorted(lines)).encode() + b"\0" + text)
    return Seen(len(lines), size, digest.hexdigest())


def checkpoint(file: Path) -> Seen:
    """Size of a file and a hash of samples spread over it: gigabytes would take minutes on each node."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            for part in range(_SAMPLES):
                handle.seek(part * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    except OSError as error:
        return Seen(reason=error.strerror or str(error))
    return Seen(1, size, digest.hexdigest())


def gpu_memory() -> tuple[int, ...]:
    """Total bytes of each GPU, as its driver tells: through torch a task that asks for no GPU would see none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return tuple(int(line) << 20 for line in done.stdout.split())  # MiB
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def _meet(question: Question) -> tuple[str | None, str | None]:
    """Read the driver's file and write one of the same content; why the first and the second failed."""
    try:
        token = (question.probe / DRIVER).read_bytes()
    except OSError as error:
        return error.strerror or str(error), None
    try:
        (question.probe / question.name).write_bytes(token)
    except OSError as error:
        return None, error.strerror or str(error)
    return None, None


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "missing"
