"""Read and write model files: our own self-describing safetensors, and those of other programs.

A file of ours holds the tensors and, in the metadata, the encoder's widths and architecture as JSON. A pruned model's
file also says which groups of the dense model it has kept, so that the general model can be cut alike. What a file is
follows from its content, never from its name. A checkpoint cannot run code, and nothing that it declares is allocated
before structure, shapes, types and sizes are checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from medcore.errors import CheckpointError
from medcore.files import cannot_write, replacing
from medcore.models.architectures import ARCHITECTURES, spec_from_json
from medcore.models.cut import prune
from medcore.models.formats.content import Content, all_files, read_content, read_metadata, weight_files
from medcore.models.formats.names import match, missing
from medcore.models.formats.pickled import damaged
from medcore.models.formats.released import is_released, released_structure
from medcore.models.formats.structure import fitting, resolve
from medcore.models.formats.tensors import converted, require_plain
from medcore.models.formats.text import some
from medcore.models.masks import pack_kept, unpack_kept
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.spec import Architecture, ModelSpec
from medcore.models.vit.encoder import AttentionMode

FORMAT = "medcore-1"
#: Key of the metadata that says which groups of the dense model a pruned one has kept.
KEPT = "kept_groups"
#: Beginning of the format of all versions.
_OURS = "medcore-"


def load(
    path: str | Path,
    arch: str | Path | Architecture | None = None,
    attention: AttentionMode = "fast",
) -> MedSam:
    """Load a model: float32, on the CPU, in evaluation mode.

    Args:
        path: a file of any name, or a folder: what `save` wrote; a state dictionary of segment-anything in a file of
            `torch.save` or safetensors, of any float type, plain or as a training script keeps it; a file of the
            released MedCore code; a SamModel of transformers.
        arch: architecture of a file that does not describe itself, by name, by JSON file or as an object. None: the
            file `NAME.json` next to `NAME.pth`, or else the only architecture file in that folder, or else the known
            architecture whose shapes fit.
        attention: how the encoder computes attention.

    Raises:
        MedcoreError: the file is missing, damaged, no checkpoint, incomplete, of another architecture, or holds weights
            that are not finite. The message is one line that names the file.
    """
    path = Path(path)
    content = read_content(path)
    if content.metadata.get("format", "").startswith(_OURS):
        spec = _own_spec(path, _own_metadata(path, content.metadata))
        # a name of one's own needs no description, because the file has one
        known = isinstance(arch, str) and arch == spec.arch.name and arch not in ARCHITECTURES
        wanted = spec.arch if arch is None or known else resolve(path, content, arch)
        # what of it can be pruned is the file's own
        if wanted.to_dict() | {"parts": None} != spec.arch.to_dict() | {"parts": None}:
            raise CheckpointError(f"{path}: holds a {spec.arch.name} model, not the {wanted.name} asked for")
        return _with_record(path, _fill(path, spec, content, attention), content.metadata)
    dense = resolve(path, content, arch)
    if not is_released(content.outer):
        return _fill(path, ModelSpec.dense(dense), content, attention)
    spec, masks = released_structure(path, content.outer, dense)
    model = _fill(path, spec, content, attention)
    return model if all(mask.all() for mask in masks) else prune(model, masks)


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
    if model.kept is not None and not model.spec.is_dense:
        metadata[KEPT] = pack_kept(model.arch, model.kept)
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
    content = read_content(path)
    info = _own_metadata(path, content.metadata)
    return _with_record(path, _fill(path, _own_spec(path, info), content, "fast"), info), info


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
    weight_files(path)
    return _own_metadata(path, read_metadata(path))


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal.

    Of a folder of transformers, return that of the files that are read, with their names.

    Raises:
        MedcoreError: the file is missing.
    """
    path = Path(path)
    files = all_files(path)
    digest = hashlib.sha256()
    for place in files:
        if len(files) > 1:
            digest.update(f"{place.name} {place.stat().st_size} ".encode())
        with place.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def _own_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        raise CheckpointError(f"{path}: safetensors without metadata of format {FORMAT}; give a file saved by medcore")
    return dict(metadata)


def _own_spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    try:
        return spec_from_json(metadata["spec"], f"{path}: spec")
    except (TypeError, ValueError) as error:  # values of another type than the spec's
        raise damaged(path, error) from None


def _fill(path: Path, spec: ModelSpec, content: Content, attention: AttentionMode) -> MedSam:
    """Build the model of `spec` and give it the file's tensors, after all checks."""
    model = build_empty(spec, attention)
    expected: dict[str, Tensor] = model.state_dict()
    found = match(path, list(content.state), list(expected))
    state = {name: content.state[found.found[name]] for name in expected if name in found.found}
    differing = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in state
        if state[name].shape != expected[name].shape
    ]
    if differing:
        advice = fitting(state, spec.arch)
        raise CheckpointError(f"{path}: no {spec.arch.name} model, {some(differing)}; {advice}")
    if absent := [name for name in expected if name not in state]:
        raise CheckpointError(f"{path}: no complete {spec.arch.name} model, missing {missing(absent, found.extra)}")
    if extra := [name for name in found.extra if not name.removeprefix(found.prefix).startswith(spec.arch.unused)]:
        raise CheckpointError(f"{path}: no {spec.arch.name} model, unknown tensors {some(extra)}")
    require_plain(path, state, expected, content.size)
    for name, copy in found.copies:
        second = {name: content.state[copy]}
        require_plain(path, second, expected, content.size)
        if not torch.equal(second[name], state[name]):
            raise CheckpointError(f"{path}: {copy} and {found.found[name]} differ, but are one tensor of the model")
    return adopt(model, converted(path, state, expected))


def _with_record(path: Path, model: MedSam, info: Mapping[str, str]) -> MedSam:
    """Give a model the file's record of the groups that it has kept. Earlier versions wrote none."""
    if KEPT in info:
        model.kept = unpack_kept(model.spec, info[KEPT], str(path))
    return model
