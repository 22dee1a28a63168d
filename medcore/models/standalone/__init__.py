"""Loaders that are copied next to an exported model. They do not import medcore, and medcore does not import them."""

from __future__ import annotations

from pathlib import Path

from medcore.errors import ConfigError
from medcore.models.spec import DEFAULT_KIND

_HERE = Path(__file__).parent
#: The loader of segment-anything's ViT.
SCRIPT = _HERE / "load_pruned.py"
#: For each kind of architecture the files to copy, by their names in the exported folder. For every kind, run
#: `load_pruned.py`.
FILES = {
    DEFAULT_KIND: {SCRIPT.name: SCRIPT},
    "tiny_vit": {
        SCRIPT.name: _HERE / "load_tiny_vit.py",
        "load_sam.py": SCRIPT,
        "tiny_vit.py": _HERE.parent / "tinyvit" / "encoder.py",
    },
}


def files_of(kind: str) -> dict[str, Path]:
    """Return the files to copy for a kind of architecture, by their names in the exported folder.

    Raises:
        ConfigError: no loader knows the kind.
    """
    if kind not in FILES:
        raise ConfigError(f"the standalone loader rebuilds models of kind {' and '.join(FILES)} only, not {kind}")
    return FILES[kind]
