"""Read and write model files: segment-anything's state dictionaries and our own self-describing safetensors.

A file of ours holds the tensors and, in the metadata, the encoder's widths and architecture as JSON. Only plain
tensors are unpickled, so a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medcore.errors import CheckpointError, MedcoreError, brief
from medcore.files import READ_ERRORS, cannot_write, replacing
from medcore.models.architectures import ARCHITECTURES, resolve_architecture, spec_from_json
from medcore.models.encoder import AttentionMode
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.spec import Architecture, ModelSpec

FORMAT = "medcore-1"


def load(
    path: str | Path,
    arch: str | Path | Architecture | None = None,
    attention: AttentionMode = "fast",
) -> MedSam:
    """Load a model: float32, on the CPU, in evaluation mode.

    Args:
        path: `.safetensors` written by `save`, or a state dictionary of segment-anything (`.pth`, any float).
        arch: architecture of a state dictionary, by name, by JSON file or as an object. None: the file `NAME.json` next
            to `NAME.pth`, or else the only architecture file in that folder.
        attention: how the encoder computes attention.

    Raises:
        MedcoreError: the file is missing, damaged, no checkpoint, incomplete, of another architecture, or holds weights
            that are not finite. The message is one line that names the file.
    """
    path = Path(path)
    _require_file(path)
    if path.suffix == ".safetensors":
        spec, state, _ = _read_own(path)
        if arch is not None and (wanted := _resolve(path, arch)) != spec.arch:
            raise CheckpointError(f"{path}: holds a {spec.arch.name} model, not the {wanted.name} asked for")
    else:
        state = _read_official(path)
        spec = ModelSpec.dense(_resolve(path, arch))
    return _fill(path, spec, state, attention)


def save(path: str | Path, model: MedSam, info: Mapping[str, str] | None = None) -> None:
    """Write `model` as safetensors with spec and `info` as metadata.

    An old file stays whole until replaced.

    Args:
        path: file to replace or create; its folder is made if it does not exist.
        model: the model.
        info: further metadata.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(path)
    metadata = {**(info or {}), "format": FORMAT, "spec": model.spec.to_json()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(state, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error, "cannot write the checkpoint") from None


def load_with_info(path: str | Path) -> tuple[MedSam, dict[str, str]]:
    """Return the model and the metadata of a checkpoint that `save` wrote.

    Both come from the same file even if it is replaced meanwhile.

    Args:
        path: the file.

    Raises:
        MedcoreError: as for `load`.
    """
    path = Path(path)
    _require_file(path)
    spec, state, info = _read_own(path)
    return _fill(path, spec, state, "fast"), info


def read_info(path: str | Path) -> dict[str, str]:
    """Return the metadata of a checkpoint that `save` wrote.

    Args:
        path: the file.

    Returns:
        `format`, `spec` (JSON) and whatever was saved with them.

    Raises:
        MedcoreError: the file is missing, damaged or not written by `save`.
    """
    path = Path(path)
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _own_metadata(path, file.metadata())
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal.

    Raises:
        MedcoreError: the file is missing.
    """
    path = Path(path)
    _require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "no such checkpoint"
        raise CheckpointError(f"{path}: {what}; give the path of a .pth or .safetensors file")


def _resolve(path: Path, arch: str | Path | Architecture | None) -> Architecture:
    if isinstance(arch, Architecture):
        return arch
    if arch is not None:
        return resolve_architecture(arch, folder=path.parent)
    if (own := path.with_suffix(".json")).is_file():
        return resolve_architecture(own)
    found = []
    for candidate in sorted(path.parent.glob("*.json")):
        try:
            found.append(resolve_architecture(candidate))
        except MedcoreError:  # some other JSON file
            continue
    if len(found) == 1:
        return found[0]
    reason = f"its folder has {len(found) or 'no'} architecture file{'s' if found else ''}"
    names = ", ".join(ARCHITECTURES)
    raise CheckpointError(f"{path}: {reason}; name the architecture ({names} or a JSON file)")


def _read_own(path: Path) -> tuple[ModelSpec, dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _own_metadata(path, file.metadata())
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    try:
        return spec_from_json(metadata["spec"], f"{path}: spec"), state, metadata
    except (TypeError, ValueError) as error:  # values of another type than the spec's
        raise _damaged(path, error) from None


def _own_metadata(path: Path, metadata: Mapping[str, str] | None) -> dict[str, str]:
    if not metadata or metadata.get("format") != FORMAT or "spec" not in metadata:
        raise CheckpointError(
            f"{path}: safetensors without metadata of format {FORMAT}; give a .pth or a file saved by medcore"
        )
    return dict(metadata)


def _read_official(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path}: refused, it holds pickled objects other than tensors, which can run code; "
                "save the state dictionary alone"
            ) from None
        raise _damaged(path, error) from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]  # MedSAM's training script saves optimiser and epoch together with the model
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state dictionary but a {type(content).__name__}")
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: no state dictionary, {_some(map(str, strange))} are not tensors")
    return dict(content)


def _fill(path: Path, spec: ModelSpec, state: Mapping[str, Tensor], attention: AttentionMode) -> MedSam:
    model = build_empty(spec, attention)
    expected = model.state_dict()
    differing = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if differing:
        raise CheckpointError(f"{path}: no {spec.arch.name} model, {_some(differing)}; name the right architecture")
    if missing := [name for name in expected if name not in state]:
        raise CheckpointError(f"{path}: no complete {spec.arch.name} model, missing {_some(missing)}")
    if extra := [name for name in state if name not in expected]:
        raise CheckpointError(f"{path}: no {spec.arch.name} model, unknown tensors {_some(extra)}")
    weights = {name: tensor.to(expected[name].dtype, copy=True).contiguous() for name, tensor in state.items()}
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path}: weights are not finite (NaN or infinite) in {_some(broken)}")
    return adopt(model, weights)


def _some(items: Iterable[str], most: int = 3) -> str:
    """Return the first few items and how many more there are."""
    listed = list(items)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def _damaged(path: Path, error: BaseException) -> MedcoreError:
    return MedcoreError(f"{path}: not a checkpoint, or truncated ({brief(error, first=120)}); copy the file again")
