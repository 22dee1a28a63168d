"""Precision of a model's numbers on disk, and the sizes that follow from it. In memory models are float32."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medcore.errors import CheckpointError
from medcore.models.formats.content import read_content
from medcore.models.formats.text import some
from medcore.models.sam import MedSam, build_empty
from medcore.models.spec import ModelSpec

#: Precisions in which a model can be written, by name, the widest first.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOAT32 = "float32"

#: Parts of a model by the beginning of their tensors' names.
_PARTS = (("mask_decoder.", "decoder"), ("prompt_encoder.", "prompt encoder"), ("image_encoder.neck.", "neck"))
_REST = "rest of the encoder"


@dataclass(frozen=True)
class Sizes:
    """Bytes of the tensors of a model in some precision.

    Attributes:
        model: of the model.
        dense: of the dense model of its architecture.
        unpruned: of what no pruning removes, by part; it is in both models.
    """

    model: int
    dense: int
    unpruned: Mapping[str, int]

    @property
    def prunable(self) -> int:
        """Return the bytes of the dense model that pruning can remove."""
        return self.dense - sum(self.unpruned.values())


def sizes(spec: ModelSpec, precision: str = FLOAT32) -> Sizes:
    """Return the sizes of a model and of the dense one; no memory is allocated for either."""
    dense = _bytes(ModelSpec.dense(spec.arch), precision)
    prunable = {part.name for site in spec.arch.sites for part in site.tensors}
    unpruned: Counter[str] = Counter()
    for name, size in dense.items():
        if name not in prunable:
            unpruned[next((title for start, title in _PARTS if name.startswith(start)), _REST)] += size
    return Sizes(sum(_bytes(spec, precision).values()), sum(dense.values()), dict(unpruned))


def file_precision(path: str | Path) -> str:
    """Return the precision of most numbers of a checkpoint, without reading the numbers.

    A double counts as float32, because models are never wider.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint.
    """
    counts: Counter[str] = Counter()
    for tensor in read_content(Path(path)).state.values():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    # the wider one of two equally frequent ones
    return max(PRECISIONS, key=lambda name: counts[name] + (counts["float64"] if name == FLOAT32 else 0))


def in_precision(model: MedSam, precision: str) -> MedSam:
    """Return the model with its numbers rounded to a precision, to be written; `model` itself if it is float32.

    Args:
        model: a float32 model, which stays as it is.
        precision: a name in `PRECISIONS`.

    Raises:
        CheckpointError: a number is beyond the range of the precision.
    """
    if precision == FLOAT32:
        return model
    rounded: MedSam = copy.deepcopy(model).to(PRECISIONS[precision])
    state: dict[str, Tensor] = rounded.state_dict()
    if beyond := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{precision} cannot hold the numbers of {some(beyond)}; take --dtype float32")
    return rounded


def _bytes(spec: ModelSpec, precision: str) -> dict[str, int]:
    """Return the bytes of every tensor of a state dictionary."""
    width = PRECISIONS[precision].itemsize
    state: dict[str, Tensor] = build_empty(spec).state_dict()
    return {
        name: tensor.numel() * (width if tensor.is_floating_point() else tensor.itemsize)
        for name, tensor in state.items()
    }
