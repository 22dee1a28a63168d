"""What lies at a path, told by its content: safetensors, a file of `torch.save`, or a folder of transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from medcore.errors import CheckpointError, shown
from medcore.models.formats.huggingface import CONFIG, INDEX, OLD_WEIGHTS, WEIGHTS
from medcore.models.formats.names import unwrap
from medcore.models.formats.pickled import PICKLE, ZIP, damaged, read_pickled

#: What safetensors raises for a file that is damaged or has types that torch lacks.
_SAFE_ERRORS = (
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)
#: First bytes of files that are often in a checkpoint's place.
_OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<": "a web page; download the file again",
    b"\x89HDF": "an HDF5 file of another framework; give weights of PyTorch",
}


@dataclass(frozen=True)
class Content:
    """Tensors and text of a checkpoint, nothing of which is checked against a model yet.

    Attributes:
        state: the state dictionary. Tensors of files are mapped, not read.
        size: bytes of the files.
        metadata: texts of safetensors.
        outer: what a file of `torch.save` holds around the state dictionary.
        folder: a folder of transformers, whose configuration describes the model.
    """

    state: Mapping[str, Tensor]
    size: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[Any, Any] = field(default_factory=dict)
    folder: Path | None = None


def read_content(path: Path) -> Content:
    """Read a checkpoint without taking its word for anything.

    Args:
        path: a file of any name, or a folder of transformers.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds no tensors.
    """
    files = weight_files(path)
    if path.is_dir():
        state = {name: tensor for file in files for name, tensor in _read(file).state.items()}
        return Content(state, sum(file.stat().st_size for file in files), folder=path)
    return _read(path)


def is_checkpoint(path: Path) -> bool:
    """Tell whether a path is a checkpoint's, by its kind; a file may still turn out to be damaged."""
    return is_transformers_folder(path) if path.is_dir() else path.is_file() and path.suffix not in _TEXTS


#: Endings of files that describe something and hold no weights.
_TEXTS = (".json", ".yaml", ".yml")


def is_transformers_folder(path: Path) -> bool:
    """Tell whether a folder was written by `save_pretrained`."""
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in (WEIGHTS, INDEX, OLD_WEIGHTS))


def all_files(path: Path) -> list[Path]:
    """Return all files of a checkpoint: itself, or those of a folder of transformers that are read.

    Raises:
        CheckpointError: there is none.
    """
    return [path / CONFIG, *weight_files(path)] if path.is_dir() else weight_files(path)


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights.

    Raises:
        CheckpointError: there are none, or a folder's index names files elsewhere.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        what = "is no regular file" if path.exists() else "no such checkpoint"
        raise CheckpointError(f"{path}: {what}; give the path of a checkpoint")
    if not is_transformers_folder(path):
        raise CheckpointError(
            f"{path}: is a folder, not a checkpoint; give a file, or a folder with {CONFIG} and {WEIGHTS}"
        )
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    return _shards(path / INDEX) if (path / INDEX).is_file() else [path / OLD_WEIGHTS]


def _shards(index: Path) -> list[Path]:
    try:
        fields = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(fields["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not a readable index ({shown(error)}); copy the folder again") from None
    for name in names:
        # a name of another folder would read a file that is none of this checkpoint's
        if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
            raise CheckpointError(f"{index}: {shown(name)} is no file of its folder; copy the folder again")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: {shown(name)} is missing; copy the folder again")
    if not names:
        raise CheckpointError(f"{index}: names no file; copy the folder again")
    return [index.parent / name for name in names]


def _read(path: Path) -> Content:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise damaged(path, error) from None
    # first, because the length of a header may begin with the byte of a pickle
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size:
        state, metadata = _read_safe(path)
        return Content(state, size, metadata)
    if head.startswith((ZIP, PICKLE)):
        outer = read_pickled(path)
        return Content(unwrap(path, outer), size, outer=outer)
    found = next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
    raise damaged(path, f"it is {found}" if found else "neither safetensors nor a file of torch.save")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of safetensors, empty if the file has none.

    Raises:
        CheckpointError: the file is damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except _SAFE_ERRORS as error:
        raise damaged(path, error) from None


def _read_safe(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except _SAFE_ERRORS as error:
        raise damaged(path, error) from None
