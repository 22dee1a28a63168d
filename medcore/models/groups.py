"""Prunable groups of the image encoder: attention heads and MLP channels (method §2).

Everything per group is held as one array per block, because blocks of a pruned model differ in width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:  # what only ranks groups, as a configuration does, need not wait for torch
    from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PerGroup:
    """One value per group: `heads[l]` has shape (H_l,), `channels[l]` has shape (M_l,). Scores or keep masks."""

    heads: tuple[Array, ...]
    channels: tuple[Array, ...]

    @property
    def depth(self) -> int:
        return len(self.heads)


def head_sums(qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, heads: int) -> Tensor:
    """Sum a per-parameter quantity over each head: its rows of Q, K, V (weight and bias) and its columns of proj.

    Args:
        qkv_weight: (3·H·d, C). qkv_bias: (3·H·d,). proj_weight: (C, H·d). heads: H.

    Returns: (H,)
    """
    if heads == 0:
        return qkv_bias.new_zeros(0)
    # (3·H·d, C) -> (3, H, d·C) -> (H,)
    rows = qkv_weight.reshape(3, heads, -1).sum(dim=(0, 2)) + qkv_bias.reshape(3, heads, -1).sum(dim=(0, 2))
    # (C, H·d) -> (C, H, d) -> (H,)
    return rows + proj_weight.reshape(proj_weight.shape[0], heads, -1).sum(dim=(0, 2))


def channel_sums(lin1_weight: Tensor, lin1_bias: Tensor, lin2_weight: Tensor) -> Tensor:
    """Sum a per-parameter quantity over each MLP channel: its row and bias of lin1 and its column of lin2.

    Args:
        lin1_weight: (M, C). lin1_bias: (M,). lin2_weight: (C, M).

    Returns: (M,)
    """
    return lin1_weight.sum(dim=1) + lin1_bias + lin2_weight.sum(dim=0)
