"""Registry of architectures: the kinds that files name, and dense sizes that are known by name."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcore.errors import CheckpointError
from medcore.models.decoder.places import FAMILIES as DECODER_FAMILIES
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.fields import construct, is_number
from medcore.models.hiera.arch import Hiera
from medcore.models.sites import Family
from medcore.models.spec import DEFAULT_KIND, Architecture, ModelSpec
from medcore.models.tinyvit.arch import TinyVit
from medcore.models.vit.arch import SamVit
from medcore.registry import Registry

#: Classes of architecture by the `kind` that files hold.
KINDS: Registry[type[Architecture]] = Registry("kind of architecture")
KINDS.register(SamVit.kind)(SamVit)
KINDS.register(TinyVit.kind)(TinyVit)
KINDS.register(Hiera.kind)(Hiera)


def _vit(name: str, embed_dim: int, depth: int, num_heads: int, global_attn_indexes: tuple[int, ...]) -> SamVit:
    return SamVit(
        name=name,
        img_size=1024,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=4.0,
        out_chans=256,
        window_size=14,
        global_attn_indexes=global_attn_indexes,
    )


def _tiny_vit(name: str, img_size: int, stem_stride: int) -> TinyVit:
    return TinyVit(
        name=name,
        img_size=img_size,
        stem_stride=stem_stride,
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        merge_strides=(2, 2, 1),
        mlp_ratio=4.0,
        mbconv_expand_ratio=4.0,
        out_chans=256,
    )


def _hiera(
    name: str,
    embed_dim: int,
    num_heads: int,
    depths: tuple[int, ...],
    global_attn_indexes: tuple[int, ...],
    img_size: int = 1024,
    window_sizes: tuple[int, ...] = (8, 4, 14, 7),
    pos_embed_size: int = 7,
) -> Hiera:
    return Hiera(
        name=name,
        img_size=img_size,
        embed_dim=embed_dim,
        num_heads=num_heads,
        depths=depths,
        window_sizes=window_sizes,
        global_attn_indexes=global_attn_indexes,
        pos_embed_size=pos_embed_size,
        mlp_ratio=4.0,
        out_chans=256,
    )


ARCHITECTURES: dict[str, Architecture] = {
    arch.name: arch
    for arch in (
        _vit("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        _vit("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        _vit("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
        _tiny_vit("lite_medsam", 256, stem_stride=1),
        _tiny_vit("mobile_sam", 1024, stem_stride=2),
        _hiera("sam2_tiny", 96, 1, (1, 2, 7, 2), (5, 7, 9)),
        _hiera("sam2_small", 96, 1, (1, 2, 11, 2), (7, 10, 13)),
        _hiera("sam2_base_plus", 112, 2, (2, 3, 16, 3), (12, 16, 20), pos_embed_size=14),
        _hiera("sam2_large", 144, 2, (2, 6, 36, 4), (23, 33, 43), window_sizes=(8, 4, 16, 8)),
        _hiera("medsam2", 96, 1, (1, 2, 7, 2), (5, 7, 9), img_size=512),
    )
}


def families() -> dict[str, Family]:
    """Return the families of all registered kinds, and of the mask decoder, by name.

    Settings derive their keys from them.
    """
    kinds = [KINDS[name] for name in KINDS.names()]
    encoders = {family.name: family for kind in kinds for family in kind.encoder_families}
    encoders |= {kind.whole_blocks.name: kind.whole_blocks for kind in kinds if kind.whole_blocks is not None}
    return encoders | {family.name: family for family in DECODER_FAMILIES}


def architecture_from(fields: Mapping[str, Any], where: str = "architecture") -> Architecture:
    """Undo `Architecture.to_dict`.

    Args:
        fields: plain values; `kind` is absent for segment-anything's ViT.
        where: place of the fields, for messages.

    Raises:
        MedcoreError: the kind is not registered; a field is unknown, missing or of the wrong type.
    """
    values = dict(fields)
    name = values.pop("kind", DEFAULT_KIND)
    if name not in KINDS.names():
        raise CheckpointError(f"{where}: unknown kind {name!r:.80}; known are {', '.join(KINDS.names())}")
    kind = KINDS[name]
    decoder = values.pop("decoder", {})
    if not isinstance(decoder, Mapping):
        raise CheckpointError(f"{where}: decoder must be an object, not {type(decoder).__name__}")
    values["decoder"] = construct(DecoderSpec, decoder, f"{where}: decoder")
    hints = typing.get_type_hints(kind)
    tuples = [field for field, hint in hints.items() if typing.get_origin(hint) is tuple]
    return construct(kind, values, where, lists=tuples)


def spec_from(fields: Mapping[str, Any], where: str = "spec") -> ModelSpec:
    """Undo `ModelSpec.to_dict`.

    Args:
        fields: plain values.
        where: place of the fields, for messages.

    Raises:
        MedcoreError: a field is missing or of the wrong type, or the widths do not fit the architecture.
    """
    if "arch" not in fields:
        raise CheckpointError(f"{where}: field 'arch' is missing")
    if not isinstance(fields["arch"], Mapping):
        raise CheckpointError(f"{where}: arch must be an object")
    arch = architecture_from(fields["arch"], where)
    budget = {family.name: fields[family.name] for family in arch.families if family.name in fields}
    for name, widths in budget.items():
        if not (isinstance(widths, list) and all(is_number(width, int) for width in widths)):
            raise CheckpointError(f"{where}: {name} must be a list of whole numbers, not {widths!r:.40}")
    return ModelSpec.of(arch, budget, where)


def spec_from_json(text: str, where: str = "spec") -> ModelSpec:
    """Undo `ModelSpec.to_json`.

    Args:
        text: one JSON object.
        where: place of the text, for messages.

    Raises:
        MedcoreError: the text is no JSON object, or `spec_from` refuses its fields.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not JSON ({error})") from None
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"{where}: expected a JSON object")
    return spec_from(fields, where)


def resolve_architecture(name: str | Path, folder: Path | None = None) -> Architecture:
    """Return the architecture of a name or a JSON file.

    Args:
        name: a known name such as `vit_b`, or the path of a JSON file.
        folder: folder in which to look for `NAME.json` too.

    Raises:
        MedcoreError: none of these exists, or the file does not describe an architecture.
    """
    if str(name) in ARCHITECTURES:
        return ARCHITECTURES[str(name)]
    candidates = [Path(name)] if Path(name).suffix == ".json" else []
    if folder is not None:
        candidates += [folder / name, folder / f"{name}.json"]
    for path in candidates:
        if path.is_file() and path.suffix == ".json":
            return _read_architecture(path)
    known = ", ".join(ARCHITECTURES)
    where = f" or as {name}.json in {folder}" if folder is not None else ""
    raise CheckpointError(f"unknown architecture '{name}': not one of {known}, not a JSON file{where}")


def _read_architecture(path: Path) -> Architecture:
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable architecture file ({error})") from None
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"{path}: expected a JSON object with an architecture's fields")
    return architecture_from(fields, str(path))
