"""Files of the MedCore paper's released code (method §14).

They are dictionaries with `format_version` 1, `model_type`, `state_dict`, `head_mask`, `neuron_mask` and `metadata`.
Masks are flat, in block order, with 1 for a kept group. Files of its compact models have no masks but
`compact_manifest`, whose `blocks` hold `num_heads` and `mlp_hidden_dim` of each block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcore.errors import CheckpointError, shown
from medcore.models.architectures import ARCHITECTURES
from medcore.models.fields import LARGEST, is_number
from medcore.models.masks import keep_all
from medcore.models.sites import Array, PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.models.vit.families import CHANNELS, HEADS

VERSION = 1
_MASKS = {"head_mask": HEADS.name, "neuron_mask": CHANNELS.name}
_COUNTS = {HEADS.name: "num_heads", CHANNELS.name: "mlp_hidden_dim"}


def is_released(outer: Mapping[Any, Any]) -> bool:
    """Tell whether a file's dictionary is one of the released code."""
    return "state_dict" in outer and "format_version" in outer and bool({*_MASKS, "compact_manifest"} & outer.keys())


def released_architecture(outer: Mapping[Any, Any]) -> Architecture | None:
    """Return the architecture that the file names; None if it names none that is known."""
    kind = outer.get("model_type")
    return ARCHITECTURES.get(kind) if isinstance(kind, str) else None


def released_structure(path: Path, outer: Mapping[Any, Any], arch: Architecture) -> tuple[ModelSpec, PerSite]:
    """Return the widths of the file's tensors, and the masks to cut them with.

    Args:
        path: the file, for messages.
        outer: the file's dictionary.
        arch: the dense architecture.

    Returns:
        The spec, dense unless the file is compact; bool masks in its widths, one array a site.

    Raises:
        CheckpointError: the version is unknown, or masks or manifest do not fit the architecture.
    """
    if not isinstance(arch, SamVit):
        raise CheckpointError(f"{path}: the released MedCore code has no {arch.kind} models; name another architecture")
    if (version := outer["format_version"]) != VERSION:
        raise CheckpointError(f"{path}: format_version {shown(version)} of MedCore's code; known is {VERSION}")
    masks = {family: outer.get(key) for key, family in _MASKS.items()}
    manifest = outer.get("compact_manifest")
    if manifest is not None:
        if any(mask is not None for mask in masks.values()):
            raise CheckpointError(f"{path}: holds both masks and compact_manifest, of which one must be wrong")
        spec = ModelSpec.of(arch, _compact_widths(path, manifest, arch), f"{path}: compact_manifest")
        return spec, keep_all(spec)
    keep: list[Array] = []
    for key, family in _MASKS.items():
        widths = [site.width for site in arch.sites if site.family.name == family]
        keep += np.split(_mask(path, key, masks[family], sum(widths)), np.cumsum(widths)[:-1])
    return ModelSpec.dense(arch), tuple(keep)


def _mask(path: Path, key: str, mask: Any, groups: int) -> Array:
    """Return a mask as bool (groups,); all True if the file has none."""
    if mask is None:
        return np.ones(groups, dtype=bool)
    plain = isinstance(mask, Tensor) and not mask.is_meta and mask.layout == torch.strided and not mask.is_complex()
    if not plain or mask.numel() != groups:
        what = f"{mask.numel()} entries" if plain else f"a {type(mask).__name__}"
        raise CheckpointError(f"{path}: {key} has {what}, expected a plain tensor of {groups}, one a group")
    flat = mask.detach().flatten()
    if not ((flat == 0) | (flat == 1)).all():
        raise CheckpointError(f"{path}: {key} must hold 0 for a removed group and 1 for a kept one")
    kept: Array = (flat == 1).numpy()
    return kept


def _compact_widths(path: Path, manifest: Any, arch: SamVit) -> dict[str, Sequence[int]]:
    where = f"{path}: compact_manifest"
    blocks = manifest.get("blocks") if isinstance(manifest, Mapping) else None
    if not isinstance(blocks, list) or len(blocks) != arch.depth:
        raise CheckpointError(f"{where}: blocks must be a list of {arch.depth} objects, one a block of {arch.name}")
    dense = {
        "original_num_heads": arch.num_heads,
        "original_mlp_hidden_dim": arch.mlp_dim,
        "embed_dim": arch.embed_dim,
        "head_dim": arch.head_dim,
    }
    widths: dict[str, list[int]] = {family: [] for family in _COUNTS}
    for number, block in enumerate(blocks):
        if not isinstance(block, Mapping):
            raise CheckpointError(f"{where}: block {number} must be an object")
        for key, wanted in dense.items():
            if (value := block.get(key, wanted)) != wanted:
                raise CheckpointError(f"{where}: {key} of block {number} is {shown(value)}; {arch.name} has {wanted}")
        for family, key in _COUNTS.items():
            count: Any = block.get(key)
            if not is_number(count, int) or not 0 <= count <= LARGEST:
                raise CheckpointError(f"{where}: {key} of block {number} must be a whole number, not {shown(count)}")
            widths[family].append(count)
    return dict(widths)
