"""Registry of the terms that a recovery can add to its loss (6.2). It needs no torch, so settings can list the names.

A term has a file of its own and an entry here, or in a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from medcore.registry import Registry

if TYPE_CHECKING:
    from medcore.models.sam import MedSam
    from medcore.training.terms.term import LossTerm

#: Makes the term of one recovery of a model. The model may be read, but not changed.
TermMaker = Callable[["MedSam"], "LossTerm"]

LOSS_TERMS: Registry[TermMaker] = Registry("loss term")
#: Weights of the terms that gain at equal cost (method §6).
RECOMMENDED_TERMS: Mapping[str, float] = MappingProxyType({"lomix": 6.0})


@LOSS_TERMS.register("directional")
def _directional(_model: MedSam) -> LossTerm:
    from medcore.training.terms.directional import Directional

    return Directional()


@LOSS_TERMS.register("lomix")
def _lomix(model: MedSam) -> LossTerm:
    from medcore.training.terms.lomix import LoMix

    return LoMix(model)
