"""Tensors of a file against those of a model, before any memory is allocated for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from medcore.errors import CheckpointError, shown
from medcore.models.formats.text import some

#: Number formats that become float32.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def require_plain(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], size: int) -> None:
    """Check that the tensors hold numbers as a model's tensors do.

    Args:
        path: the file, for messages.
        state: tensors of the file by name, of the shapes of `expected`.
        expected: the model's tensors; only their types are read.
        size: bytes of the file.

    Raises:
        CheckpointError: a tensor has no values, another layout or another type, or is stretched over fewer numbers
            than it has entries.
    """
    for name, tensor in state.items():
        if problem := _problem(tensor, expected[name].dtype):
            raise CheckpointError(f"{path}: {shown(name)} {problem}; save plain float tensors")
    if sum(tensor.nbytes for tensor in state.values()) > size:
        raise CheckpointError(f"{path}: its tensors share their numbers, so they are larger than the file; clone them")


def converted(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors in the model's types.

    Args:
        path: the file, for messages.
        state: tensors that `require_plain` accepts.
        expected: the model's tensors; only their types are read.

    Raises:
        CheckpointError: a number is not finite, or not in the model's type.
    """
    weights, broken = dict[str, Tensor](), list[str]()
    for name, tensor in state.items():
        weights[name] = tensor.to(expected[name].dtype, copy=True).contiguous()
        if not weights[name].isfinite().all():
            broken.append(name)
    if broken:
        raise CheckpointError(f"{path}: weights are not finite (NaN or infinite) in {some(broken)}")
    return weights


def _problem(tensor: Tensor, wanted: torch.dtype) -> str | None:
    """Return what is wrong with a tensor, None if nothing is."""
    if tensor.is_meta:
        return "is on the device meta and has no values"
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        return f"is no plain tensor but a {'nested' if tensor.is_nested else tensor.layout} one"
    if tensor.dtype != wanted and not (wanted in FLOATS and tensor.dtype in FLOATS):
        return f"holds {tensor.dtype} instead of {wanted}"
    entries = zip(tensor.shape, tensor.stride(), strict=True)
    if any(length > 1 and step == 0 for length, step in entries) or tensor.nbytes > tensor.untyped_storage().nbytes():
        return "has more entries than the file holds numbers for it (an expanded tensor)"
    return None
