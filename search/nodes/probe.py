"""What one node of a cluster sees: versions, plug-ins, data, checkpoints, the study's folder, GPU memory.

Runs on every node before a search, and in every worker process before its first trial. It imports nothing but the
standard library and modules of ours that need nothing else, so that a node that lacks a package can still say so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from medcore.data.readers import reader_of
from medcore.registry import plugin_names

#: Packages whose versions shape a result or a file, or must agree for nodes to talk.
PACKAGES = ("torch", "segment-anything", "numpy", "scipy", "pillow", "safetensors", "pandas", "pyarrow", "ray")
_ABSENT = "absent"
_ROOMS = ("medcore", "search", "results")
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Question:
    """What a node checks.

    Attributes:
        folders: Data folders.
        files: Checkpoints, and files that describe them.
        probe: Folder inside the study's folder, with a file of the driver's.
        name: Name of the file that the node writes there.
        gpus: How many of the node's GPUs Ray hands out.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    probe: Path
    name: str
    gpus: int


@dataclass(frozen=True)
class Seen:
    """What a node sees of a file or data folder.

    Attributes:
        files: Number of files, for messages.
        size: Bytes, for messages.
        digest: Equal for equal content.
        reason: Why it cannot be read; None if it can.
    """

    files: int = 0
    size: int = 0
    digest: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """What a node found.

    Attributes:
        versions: Versions by package.
        code: Digest of our code there.
        seen: What the node sees, by path.
        unread: Why the study's folder cannot be read there; None if it can.
        unwritten: Why it cannot be written there; None if it can.
        gpu_bytes: See `gpu_memory`.
        plugins: Digest of each plug-in's code, by the module's name.
    """

    versions: dict[str, str]
    code: str
    seen: dict[Path, Seen]
    unread: str | None = None
    unwritten: str | None = None
    gpu_bytes: tuple[int, ...] = ()
    plugins: dict[str, str] = field(default_factory=dict)


#: Name of the driver's file in the probe folder.
DRIVER = "driver"


def answer(question: Question) -> Report:
    """Check this node, and write a file next to the driver's."""
    unread, unwritten = _meet(question)
    return replace(
        look(question.folders, question.files),
        unread=unread,
        unwritten=unwritten,
        gpu_bytes=gpu_memory(question.gpus) if question.gpus else (),
    )


def look(folders: Sequence[Path], files: Sequence[Path]) -> Report:
    """Return the part of a report that is compared with the driver's; write nothing."""
    seen = {folder: data_folder(folder) for folder in folders} | {file: checkpoint(file) for file in files}
    plugins = {module: plugin_digest(module) for module in plugin_names()}
    return Report(versions(), code_digest(code_folders()), seen, plugins=plugins)


def differences(driver: Report, node: Report) -> list[str]:
    """Return what differs between a node and the driver.

    The texts go behind the node's name.

    Files that the driver lacks too are not compared, because the code that needs them reports that.
    """
    lines = []
    other = [key for key, here in driver.versions.items() if node.versions.get(key) != here]
    if other:
        text = ", ".join(f"{key} {node.versions.get(key)} (here {driver.versions[key]})" for key in other)
        lines.append(f"{text}; install the versions of constraints.txt there, or submit with --pip")
    if node.code != driver.code:
        lines.append(f"medcore's code is another revision ({node.code}, here {driver.code}); install this one there")
    for module, digest in driver.plugins.items():
        other_digest = node.plugins.get(module, _ABSENT)
        if other_digest != digest:
            lines.append(f"plug-in {module} differs ({other_digest}, here {digest}); install the same one there")
    for path, here in driver.seen.items():
        there = node.seen[path]
        if here.reason is None and there.digest != here.digest:
            lines.append(_other_content(path, here, there))
    return lines


def why_unlike(driver: Report) -> str | None:
    """Return how this node differs from the driver; None if it does not.

    The reason is one line. A node that differs should run no trial.

    Args:
        driver: Report of `look` on the driver, with the files that trials read.
    """
    lines = differences(driver, look((), tuple(driver.seen)))
    return ", also ".join(lines) if lines else None


def versions() -> dict[str, str]:
    """Return the public version of each package.

    `2.13.0+cpu` and `2.13.0+cu130` are one release, and a head often has no GPU.
    """
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def code_folders() -> tuple[Path, ...]:
    """Return the folders from which this process imports our packages.

    In a job each has a folder of its own.
    """
    specs = (find_spec(room) for room in _ROOMS)
    return tuple(Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)


def code_digest(folders: Sequence[Path]) -> str:
    """Return a digest of all code in these packages.

    It tells revisions apart without git.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            name = f"{folder.name}/{file.relative_to(folder)}"
            digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def plugin_digest(module: str) -> str:
    """Return a digest of a module's file, or of all code of a package; `absent` if it cannot be read.

    Nothing is imported, because a plug-in may need packages that this node lacks.
    """
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
        for name in inner:
            # with a dotted name, find_spec would import the packages above
            folders = None if spec is None else spec.submodule_search_locations
            spec = None if folders is None else PathFinder.find_spec(name, list(folders))
        if spec is None:
            return _ABSENT
        if spec.submodule_search_locations is not None:
            return code_digest([Path(folder) for folder in spec.submodule_search_locations])
        if spec.origin is None or not spec.has_location:
            return spec.origin or _ABSENT
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]
    except (ImportError, ValueError, OSError):
        return _ABSENT


def data_folder(folder: Path) -> Seen:
    """Describe a data folder without opening an image.

    Names and sizes of its data files and its `splits.json` count.
    """
    lines = []
    size = 0
    try:
        for file in reader_of(folder).files(folder):
            length = file.stat().st_size
            size += length
            lines.append(f"{file.relative_to(folder)} {length}")
        splits = folder / "splits.json"
        text = splits.read_bytes() if splits.is_file() else b""
    except OSError as error:
        return Seen(reason=error.strerror or str(error))
    digest = hashlib.sha256(os.fsencode("\n".join(sorted(lines))) + b"\0" + text)
    return Seen(len(lines), size, digest.hexdigest())


def checkpoint(file: Path) -> Seen:
    """Describe a file by its size and by samples spread over it.

    Reading gigabytes would take minutes on each node.
    """
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            for sample in range(_SAMPLES):
                handle.seek(sample * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    except OSError as error:
        return Seen(reason=error.strerror or str(error))
    return Seen(1, size, digest.hexdigest())


def gpu_memory(count: int) -> tuple[int, ...]:
    """Return the bytes of the `count` GPUs that Ray hands out here.

    The largest comes first; the result is empty if they are unknown.

    The GPUs' driver reports them, because torch shows no GPU to a task that requests none. If the machine has more than
    `count` GPUs, Ray's are assumed to be the largest, because the others will drive a screen.
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
    """Read the driver's file and write one of the same content.

    Return why reading and writing failed, if they did.
    """
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


#: Returns why this node should run no trial, or None.
Ready = Callable[[], str | None]
