"""The same weights on a square of another side: fewer tokens, interpolated position tables (method §16)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medcore.errors import CheckpointError
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import Architecture, ModelSpec


def at_side(model: MedSam, side: int) -> MedSam:
    """Build the model whose square has another side, with the same groups and weights.

    Only tensors whose shapes depend on the side change: the absolute position embedding is interpolated bicubically,
    and tables of relative positions linearly, as segment-anything's `get_rel_pos` does.

    Args:
        model: dense or pruned.
        side: the new `img_size` in pixels.

    Returns:
        A model on the same device, in the same mode, that shares no tensor with `model`. At the model's own side it is
        a copy.

    Raises:
        CheckpointError: the architecture allows no such side, or has a tensor that depends on it in another way.
    """
    spec = ModelSpec(arch_at_side(model.arch, side), model.spec.widths)
    resized = build_empty(spec, model.attention)
    shapes = {name: tensor.shape for name, tensor in resized.state_dict().items()}
    state = {name: _fitted(name, tensor, shapes[name], model.arch) for name, tensor in model.state_dict().items()}
    adopt(resized, state)
    resized.kept = None if model.kept is None else tuple(mask.copy() for mask in model.kept)
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in resized.named_parameters():
        parameter.requires_grad_(trainable[name])
    resized.train(model.training)
    return resized


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate an absolute position embedding bicubically, (1, h, w, C) -> (1, *grid, C).

    Tokens are areas (align_corners=False), so both grids cover the whole image. Positions outside of the old grid
    repeat its edge.
    """
    first = table.permute(0, 3, 1, 2)
    return F.interpolate(first, size=grid, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def resize_relative(table: Tensor, length: int) -> Tensor:
    """Interpolate a table of relative positions linearly, (2·S − 1, d) -> (length, d).

    Rows are areas (align_corners=False). The middle row, the distance 0, stays in the middle.
    """
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)[0].T


#: By the last part of a tensor's name, how the tensor gets a new shape.
_RESIZERS: dict[str, Callable[[Tensor, torch.Size], Tensor]] = {
    "pos_embed": lambda table, shape: resize_positions(table, (shape[1], shape[2])),
    "rel_pos_h": lambda table, shape: resize_relative(table, shape[0]),
    "rel_pos_w": lambda table, shape: resize_relative(table, shape[0]),
}


def _fitted(name: str, tensor: Tensor, shape: torch.Size, arch: Architecture) -> Tensor:
    """Return a copy of a tensor in the shape that it has at the new side."""
    values = tensor.detach()
    if values.shape == shape:
        return values.clone()
    resizer = _RESIZERS.get(name.rpartition(".")[2])
    if resizer is None:
        raise CheckpointError(
            f"architecture {arch.name}: {name} depends on the side of the square, and no rule says how to resize it; "
            "use the model's own side"
        )
    # half precision would round positions between tokens
    return resizer(values.float(), shape).to(values.dtype).contiguous()
