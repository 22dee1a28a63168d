"""Remove heads and MLP channels: physically (`prune`), or by silence (`mask_model`); the two must agree."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from medcore.models.groups import Array, PerGroup
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.spec import EncoderSpec


def prune(model: MedSam, masks: PerGroup) -> MedSam:
    """A new, physically smaller model that keeps the groups whose mask is True; `model` is left as it is.

    Args:
        masks: bool, one for each head and channel that `model` has now (its current widths, not the dense).

    Returns: a model on the same device, in the same mode, sharing no tensor with `model`. Output biases,
        relative positions and all else stay, also in a block that loses all heads or channels (method §2).

    Raises: ValueError if the masks do not fit the model's widths or are not boolean.
    """
    _check(model, masks)
    spec = EncoderSpec(
        model.arch,
        tuple(int(keep.sum()) for keep in masks.heads),
        tuple(int(keep.sum()) for keep in masks.channels),
    )
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for block, heads, channels in _kept(model, masks):
        _cut_heads(state, f"image_encoder.blocks.{block}.attn.", heads, model.arch.head_dim)
        _cut_channels(state, f"image_encoder.blocks.{block}.mlp.", channels)
    smaller = adopt(build_empty(spec, model.attention), state)
    for new, old in zip(smaller.parameters(), model.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    smaller.train(model.training)
    return smaller


def mask_model(model: MedSam, masks: PerGroup) -> MedSam:
    """A copy of the same widths in which the output of every group whose mask is False is multiplied by 0.

    Args and Raises: as `prune`.
    """
    _check(model, masks)
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        for index, heads, channels in _kept(silenced, masks):
            block = silenced.image_encoder.blocks[index]
            width = heads.repeat_interleave(model.arch.head_dim)
            # columns of the output projections: (C, H·d) and (C, M)
            block.attn.proj.weight[:, ~width] = 0  # type: ignore[union-attr, operator]
            block.mlp.lin2.weight[:, ~channels] = 0  # type: ignore[union-attr, operator]
    return silenced


def _check(model: MedSam, masks: PerGroup) -> None:
    for family, widths, keep in (
        ("heads", model.spec.heads, masks.heads),
        ("channels", model.spec.channels, masks.channels),
    ):
        shapes = tuple(mask.shape for mask in keep)
        if shapes != tuple((width,) for width in widths):
            raise ValueError(f"masks of {family} have shapes {shapes}, the model has widths {widths}")
        if any(mask.dtype != bool for mask in keep):
            raise ValueError(f"masks of {family} must be boolean")


def _kept(model: MedSam, masks: PerGroup) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Block index, bool (H,) and bool (M,), on the model's device."""

    def tensor(mask: Array) -> Tensor:
        return torch.tensor(mask, device=model.device)

    for block, (heads, channels) in enumerate(zip(masks.heads, masks.channels, strict=True)):
        yield block, tensor(heads), tensor(channels)


def _cut_heads(state: dict[str, Tensor], prefix: str, keep: Tensor, head_dim: int) -> None:
    # (H,) -> (H·d,) -> the same for q, k and v
    columns = keep.repeat_interleave(head_dim)
    rows = columns.repeat(3)
    state[f"{prefix}qkv.weight"] = state[f"{prefix}qkv.weight"][rows]
    state[f"{prefix}qkv.bias"] = state[f"{prefix}qkv.bias"][rows]
    state[f"{prefix}proj.weight"] = state[f"{prefix}proj.weight"][:, columns].contiguous()


def _cut_channels(state: dict[str, Tensor], prefix: str, keep: Tensor) -> None:
    state[f"{prefix}lin1.weight"] = state[f"{prefix}lin1.weight"][keep]
    state[f"{prefix}lin1.bias"] = state[f"{prefix}lin1.bias"][keep]
    state[f"{prefix}lin2.weight"] = state[f"{prefix}lin2.weight"][:, keep].contiguous()
