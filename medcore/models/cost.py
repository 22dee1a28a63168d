"""Parameters and FLOPs of an encoder, from its spec alone (method §9). One multiply-add is two FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medcore.models.spec import Architecture, EncoderSpec


@dataclass(frozen=True)
class Cost:
    """Cost of the image encoder on one image.

    Attributes:
        encoder_params: parameters, relative-position tables of blocks without heads included.
        flops: what segment-anything's operations run, as `torch.utils.flop_counter` counts them: padded
            windows, relative-position products and neck included.
        flops_paper: patch embedding, qkv, attention products over unpadded windows, proj and MLP only.
    """

    encoder_params: int
    flops: int
    flops_paper: int


def cost(spec: EncoderSpec) -> Cost:
    """Cost of an encoder of any widths."""
    arch = spec.arch
    tokens = arch.grid**2
    patch_weights = 3 * arch.patch_size**2 * arch.embed_dim
    neck_weights = arch.out_chans * (arch.embed_dim + 9 * arch.out_chans)
    params = patch_weights + arch.embed_dim * (1 + tokens) + neck_weights + 4 * arch.out_chans
    flops = 2 * tokens * (patch_weights + neck_weights)
    flops_paper = 2 * tokens * patch_weights
    channel_params = 2 * arch.embed_dim + 1
    head_params = 4 * arch.embed_dim * arch.head_dim + 3 * arch.head_dim
    for block, (heads, channels) in enumerate(zip(spec.heads, spec.channels, strict=True)):
        params += heads * head_params + channels * channel_params + _fixed_block_params(arch, block)
        flops += heads * _head_flops(arch, block) + channels * _channel_flops(arch)
        flops_paper += heads * _head_flops_paper(arch, block) + channels * _channel_flops(arch)
    return Cost(encoder_params=params, flops=flops, flops_paper=flops_paper)


def group_flops(arch: Architecture) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`flops_paper` of one head and of one MLP channel of each block: two arrays (L,)."""
    heads = np.array([_head_flops_paper(arch, block) for block in range(arch.depth)], dtype=np.int64)
    channels = np.full(arch.depth, _channel_flops(arch), dtype=np.int64)
    return heads, channels


def _fixed_block_params(arch: Architecture, block: int) -> int:
    """Two normalisations, the output biases of proj and lin2, two relative-position tables."""
    return 6 * arch.embed_dim + 2 * (2 * _side(arch, block) - 1) * arch.head_dim


def _head_flops(arch: Architecture, block: int) -> int:
    side = _side(arch, block)
    # tokens along one side of the grid, padded to whole windows
    padded = -(-arch.grid // side) * side
    # q, k, v and proj; q·k and weights·v; q with both tables
    products = 4 * arch.embed_dim + 2 * side**2 + 2 * side
    return 2 * padded**2 * arch.head_dim * products


def _head_flops_paper(arch: Architecture, block: int) -> int:
    return 2 * arch.grid**2 * arch.head_dim * (4 * arch.embed_dim + 2 * _side(arch, block) ** 2)


def _channel_flops(arch: Architecture) -> int:
    return 4 * arch.grid**2 * arch.embed_dim


def _side(arch: Architecture, block: int) -> int:
    """Tokens along one side of what the block attends to."""
    return arch.window(block) or arch.grid
