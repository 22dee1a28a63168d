"""The description of a model whose square has another side. Needs no torch."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from medcore.errors import CheckpointError
from medcore.models.spec import Architecture


def arch_at_side(arch: Architecture, side: int) -> Architecture:
    """Return the architecture with another `img_size`.

    Raises:
        CheckpointError: the architecture allows no such side.
    """
    try:
        return cast(Architecture, dataclasses.replace(cast(Any, arch), img_size=side))
    except CheckpointError as error:
        reason = str(error).removeprefix(f"architecture {arch.name}: ")
        raise CheckpointError(
            f"a square of {side} pixels does not fit {arch.name}, whose own has {arch.img_size}: {reason}"
        ) from None
