"""What passes from module to module: one tensor, or several together, such as tokens and image of a mask decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

#: The tensors that a module takes or returns.
Flow = tuple[Tensor, ...]


def flow_of(output: Any) -> Flow:
    """Return the tensors of a module's output."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def like_output(output: Any, flow: Iterable[Tensor]) -> Any:
    """Return tensors in the form of a module's output."""
    if isinstance(output, Tensor):
        (single,) = flow
        return single
    return type(output)(*flow)
