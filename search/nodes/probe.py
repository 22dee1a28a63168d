"""What one node of a cluster sees: versions, data, checkpoints, the study's folder, GPU memory.

Runs on every node before a search, and in every worker process before its first trial, so it imports nothing but the
standard library: a node that lacks a package can still say so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

#: Packages whose versions shape a result or a file, or must agree for nodes to talk.
PACKAGES = ("torch", "segment-anything", "numpy", "scipy", "pillow", "safetensors", "pandas", "pyarrow", "ray")
_ROOMS = ("medcore", "search", "results")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Question:
    """What a node is asked. `probe`: folder in the study's folder with the driver's file; `name`: the node's own.

    `gpus`: how many of its GPUs Ray hands out.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    probe: Path
    name: str
    gpus: int


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

    `gpu_bytes`: see `gpu_memory`.
    """

    versions: dict[str, str]
    code: str
    seen: dict[Path, Seen]
    unread: str | None = None
    unwritten: str | None = None
    gpu_bytes: tuple[int, ...] = ()


DRIVER = "driver"


def answer(question: Question) -> Report:
    """Look around on this node, and leave a file beside the driver's."""
    unread, unwritten = _meet(question)
    return replace(
        look(question.folders, question.files),
        unread=unread,
        unwritten=unwritten,
        gpu_bytes=gpu_memory(question.gpus) if question.gpus else (),
    )


def look(folders: Sequence[Path], files: Sequence[Path]) -> Report:
    """The part of a report that is compared with the driver's; writes nothing."""
    seen = {folder: data_folder(folder) for folder in folders} | {file: checkpoint(file) for file in files}
    return Report(versions(), code_digest(code_folders()), seen)


def differences(driver: Report, node: Report) -> list[str]:
    """What a node has other than the driver, as text to put behind the node's name.

    Files that the driver lacks too are not compared: what needs them says so itself.
    """
    lines = []
    other = [key for key, here in driver.versions.items() if node.versions.get(key) != here]
    if other:
        text = ", ".join(f"{key} {node.versions.get(key)} (here {driver.versions[key]})" for key in other)
        lines.append(f"{text}; install the versions of constraints.txt there, or submit with --pip")
    if node.code != driver.code:
        lines.append(f"medcore's code is another revision ({node.code}, here {driver.code}); install this one there")
    for path, here in driver.seen.items():
        there = node.seen[path]
        if here.reason is None and there.digest != here.digest:
            lines.append(_other_content(path, here, there))
    return lines


def why_unlike(driver: Report) -> str | None:
    """Why no trial should run on this node, in one line: all that it has other than the driver.

    Args:
        driver: of `look`, with the files that trials read.
    """
    found = differences(driver, look((), tuple(driver.seen)))
    return ", also ".join(found) if found else None


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


def gpu_memory(count: int) -> tuple[int, ...]:
    """Total bytes of the `count` GPUs that Ray hands out here, the largest first; empty if nobody can tell.

    As their driver tells, since through torch a task that asks for no GPU would see none. Where the machine has more
    than `count`, Ray's are taken to be the largest, as the others will drive a screen.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        sizes = [int(line) << 20 for line in done.stdout.split()]  # MiB
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    return tuple(sorted(sizes, reverse=True)[:count])


def _other_content(path: Path, here: Seen, there: Seen) -> str:
    if there.reason is not None:
        return f"{path} is not visible ({there.reason}); put it on storage that all nodes mount at this path"
    amounts = f"{there.files} files, {there.size} bytes; here {here.files} files, {here.size} bytes"
    return f"{path} has another content ({amounts}); give all nodes the same"


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


#: `ready() -> reason`: why this node should run no trial, or None.
Ready = Callable[[], str | None]
