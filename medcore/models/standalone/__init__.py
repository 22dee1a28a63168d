"""Loaders that are copied next to an exported model. They do not import medcore, and medcore does not import them."""

from __future__ import annotations

from pathlib import Path

from medcore.errors import ConfigError
from medcore.models.spec import DECODER, DEFAULT_KIND, Architecture

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
    "hiera": {
        SCRIPT.name: _HERE / "load_hiera.py",
        "load_sam.py": SCRIPT,
        "hiera.py": _HERE.parent / "hiera" / "encoder.py",
        "hiera_masks.py": _HERE.parent / "hiera" / "masks.py",
    },
}


#: The mask decoder of unequal widths, for models whose decoder can be pruned.
DECODER_FILES = {"sam_decoder.py": _HERE.parent / "decoder" / "transformer.py"}


def files_of(arch: Architecture) -> dict[str, Path]:
    """Return the files to copy for an architecture, by their names in the exported folder.

    Raises:
        ConfigError: no loader knows its kind.
    """
    if arch.kind not in FILES:
        raise ConfigError(f"the standalone loader rebuilds models of kind {' and '.join(FILES)} only, not {arch.kind}")
    return FILES[arch.kind] | (DECODER_FILES if DECODER in arch.parts else {})
