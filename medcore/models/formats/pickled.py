"""Files of `torch.save`, read without running or allocating anything that they ask for.

Torch's own restricted unpickler reads them. Before it does, the file's frame and the names that its pickle imports are
checked, because that unpickler calls some constructors with any size, and expands compressed records.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from medcore.errors import CheckpointError, brief, shown
from medcore.files import READ_ERRORS
from medcore.models.formats.text import some

#: First bytes of a zip archive, and of a pickle of protocol 2 or later.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
#: Pickles before the weights in a file of `torch.save` without an archive: magic, protocol, system, content, storages.
_LEGACY_PICKLES = 5
#: How torch stores numbers of types that came late, such as whole numbers of 64 bits without a sign.
_UNTYPED = "torch.storage.UntypedStorage"
#: What the pickle of a training checkpoint may import: tensors of known kinds and plain containers.
_INERT = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    # refused later, with the tensor's name
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch.serialization._get_layout",
    "torch.device",
    "torch.Size",
    "builtins.set",
    "__builtin__.set",
    "_codecs.encode",
}


def read_pickled(path: Path) -> Any:
    """Return what `torch.save` wrote, with tensors that are mapped from the file where it is an archive.

    Args:
        path: a file that begins with `ZIP` or `PICKLE`.

    Raises:
        CheckpointError: the file is damaged or holds objects other than tensors and plain values.
    """
    with path.open("rb") as file:
        archive = file.read(len(ZIP)) == ZIP
        file.seek(0)
        try:
            imported = set(_of_archive(path, file) if archive else _of_legacy(file))
        except (*READ_ERRORS, zipfile.BadZipFile) as error:
            raise damaged(path, error) from None
    if _UNTYPED in imported:  # called in a pickle, it makes a storage of any size
        raise CheckpointError(f"{path}: refused, its numbers are of a type without a storage ({_UNTYPED}); save floats")
    if foreign := sorted(imported - _INERT - _torch_names()):
        raise CheckpointError(
            f"{path}: refused, it holds pickled objects other than tensors ({some(foreign)}), which can run code; "
            "save the state dictionary alone"
        )
    # torch.load takes the ending's word for safetensors, and maps files by name only
    mapped = archive and path.suffix != ".safetensors"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that are refused
            content: Any = _load(path, mapped)
    except READ_ERRORS as error:
        raise damaged(path, error) from None
    if not mapped and _storage_bytes(content) > path.stat().st_size:
        raise CheckpointError(f"{path}: names tensors that are larger than the file; copy the file again")
    return content


def _load(path: Path, mapped: bool) -> Any:
    if mapped:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def damaged(path: Path, error: object) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    reason = brief(error, first=120)
    if reason.startswith("Weights only"):  # torch's further advice would run the file's code
        reason = "its pickle asks for more than plain values"
    return CheckpointError(f"{path}: not a checkpoint, or truncated ({shown(reason, 120)}); copy the file again")


def _of_archive(path: Path, file: IO[bytes]) -> Iterator[str]:
    """Yield the names that an archive's pickle imports, after a check of the archive's frame."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                f"{path}: refused, it is a TorchScript program, whose code is not run; save its state dictionary"
            )
        size = path.stat().st_size
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > size or len(set(names)) < len(names):
            raise CheckpointError(
                f"{path}: not a file of torch.save, its archive is compressed or names an entry twice; save it with "
                "torch.save"
            )
        for name in names:
            if name.endswith(".pkl"):
                with archive.open(name) as pickled:
                    yield from _imports(pickled)


def _of_legacy(file: IO[bytes]) -> Iterator[str]:
    for _ in range(_LEGACY_PICKLES):
        yield from _imports(file)


def _imports(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names that the next pickle of a stream imports."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield f"by {opcode.name}"  # torch.save writes none of these


def _torch_names() -> set[str]:
    """Return the names of storages and of element types, both of which are only marks in the file."""
    storages = {f"torch.{name}" for name in dir(torch) if name.endswith("Storage")}
    return storages | {str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _storage_bytes(content: Any) -> int:
    """Return the bytes of all storages in nested dictionaries, lists and tuples."""
    storages: dict[int, int] = {}
    waiting, seen = [content], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, Tensor) and item.layout == torch.strided and not item.is_meta:
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = max(storages.get(storage.data_ptr(), 0), storage.nbytes())
    return sum(storages.values())
