"""Registry of the dense architectures that are known by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medcore.errors import MedcoreError
from medcore.models.spec import Architecture


def _vit(name: str, embed_dim: int, depth: int, num_heads: int, global_attn_indexes: tuple[int, ...]) -> Architecture:
    return Architecture(name, 1024, 16, embed_dim, depth, num_heads, 4.0, 256, 14, global_attn_indexes)


ARCHITECTURES: dict[str, Architecture] = {
    arch.name: arch
    for arch in (
        _vit("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        _vit("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        _vit("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    )
}


def resolve_architecture(name: str | Path, beside: Path | None = None) -> Architecture:
    """Architecture by name (`vit_b`), by path to a JSON file, or as `NAME.json` in the folder `beside`.

    Raises `MedcoreError` if none of these exists or the file does not describe an architecture.
    """
    if str(name) in ARCHITECTURES:
        return ARCHITECTURES[str(name)]
    candidates = [Path(name)] if Path(name).suffix == ".json" else []
    if beside is not None:
        candidates += [beside / name, beside / f"{name}.json"]
    for path in candidates:
        if path.is_file() and path.suffix == ".json":
            try:
                fields = json.loads(path.read_text())
            except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise MedcoreError(f"{path}: not a readable architecture file ({error})") from None
            if not isinstance(fields, Mapping):
                raise MedcoreError(f"{path}: expected a JSON object with an architecture's fields")
            return Architecture.from_dict(fields, str(path))
    known = ", ".join(ARCHITECTURES)
    where = f" or as {name}.json in {beside}" if beside is not None else ""
    raise MedcoreError(f"unknown architecture '{name}': not one of {known}, not a JSON file{where}")
