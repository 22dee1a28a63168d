"""How strongly heads and MLP channels fire: the forward-only criterion that structured pruning often uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medcore.models.spec import EncoderSpec


class Activations:
    """Filled by every forward pass inside `recording`, for the batch of that pass.

    Attributes:
        heads: block -> (H_l,), L2 norm of a head's output (d values), mean over tokens and images.
        channels: block -> (M_l,), absolute value of a channel behind GELU, mean over tokens and images.
        Blocks without heads (channels) never appear, since nothing of theirs runs.
    """

    def __init__(self) -> None:
        self.heads: dict[int, Tensor] = {}
        self.channels: dict[int, Tensor] = {}


@contextmanager
def recording(encoder: nn.Module, spec: EncoderSpec) -> Iterator[Activations]:
    """Watch what enters the output projections of all blocks of `encoder`."""
    seen = Activations()
    handles = []

    def watch(block: int, heads: int) -> None:
        def on_proj(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # (B, h, w, H·d) -> (tokens, H, d) -> (H,)
            by_head = inputs[0].detach().reshape(-1, heads, spec.arch.head_dim)
            seen.heads[block] = torch.linalg.vector_norm(by_head, dim=-1).mean(dim=0)

        def on_lin2(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.channels[block] = inputs[0].detach().flatten(0, -2).abs().mean(dim=0)

        module = encoder.get_submodule(f"blocks.{block}")
        handles.append(module.get_submodule("attn.proj").register_forward_pre_hook(on_proj))
        handles.append(module.get_submodule("mlp.lin2").register_forward_pre_hook(on_lin2))

    for block, heads in enumerate(spec.heads):
        watch(block, heads)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
