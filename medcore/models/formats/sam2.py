"""SAM 2's names of the tensors of its image path (checkpoints of SAM 2, SAM 2.1 and MedSAM2).

A model of medcore has its parts under segment-anything's names. What SAM 2's mask decoder does once an image, and what
it adds to an image without memory, belongs to the encoder here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What tells a model with such a file from others.
_TRUNK = "image_encoder.trunk."
_RULES = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"^image_encoder\.(conv_s[01])\.", r"sam_mask_decoder.\1."),
        (r"^image_encoder\.(no_mem_embed)$", r"\1"),
        (r"^(mask_decoder|prompt_encoder)\.", r"sam_\1."),
        (r"^(sam_mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin1\.", r"\1.layers.0."),
        (r"^(sam_mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin2\.", r"\1.layers.1."),
    )
)


def sam2_names(names: Iterable[str]) -> dict[str, str]:
    """Return SAM 2's name of each tensor; nothing for a model without SAM 2's encoder."""
    listed = list(names)
    if not any(name.startswith(_TRUNK) for name in listed):
        return {}
    return {name: _sam2_name(name) for name in listed}


def _sam2_name(name: str) -> str:
    for pattern, text in _RULES:
        name = pattern.sub(text, name)
    return name
