"""segment-anything's ViT image encoder with blocks of unequal width and faster attention.

`attention="plain"` runs the operations of segment-anything one by one, so that a counter of operations sees
what it would see there. `attention="fast"` gives the same numbers to float tolerance:

- The decomposed relative position is folded into longer queries and one-hot keys (q' = [q·s, rel_h, rel_w],
  k' = [k, onehot_h, onehot_w]), which is exact and needs no bias of N x N.
- Padding tokens of windows do not pass through qkv and proj: their q, k and v are the bias.

The widths of attention and MLP differ between blocks and may be 0. Then that half of the block adds only its output
bias (method §2). Parameters have segment-anything's names.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.models.vit.families import CHANNELS, HEADS

if TYPE_CHECKING:
    from medcore.models.vit.arch import SamVit

AttentionMode = Literal["fast", "plain"]

#: On a CPU, up to this many tokens, matrix products and a softmax beat PyTorch's fused kernel (most of all in
#: the backward pass and in bfloat16); beyond it the N x N matrix costs too much memory.
_MOST_TOKENS_UNFUSED = 1024


class ImageEncoder(nn.Module):
    """ViT encoder with blocks of unequal width.

    Args:
        arch: the dense architecture.
        widths: groups that each of the L blocks keeps, by family; `blocks` only where one can go as a whole.
        attention: how attention is computed.

    Raises:
        ValueError: `attention` is unknown.
    """

    def __init__(self, arch: SamVit, widths: Mapping[str, Sequence[int]], attention: AttentionMode = "fast") -> None:
        super().__init__()
        if attention not in ("fast", "plain"):
            raise ValueError(f"attention must be 'fast' or 'plain', not {attention!r}")
        self.img_size = arch.img_size
        self.patch_embed = PatchEmbed(arch.embed_dim, arch.patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, arch.grid, arch.grid, arch.embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        left = widths.get("blocks", [1] * arch.depth)
        pairs = zip(left, widths[HEADS.name], widths[CHANNELS.name], strict=True)
        self.blocks = nn.ModuleList(
            Block(arch, index, num_heads, mlp_dim, attention) if is_left else nn.Identity()
            for index, (is_left, num_heads, mlp_dim) in enumerate(pairs)
        )
        self.neck = Neck(arch.embed_dim, arch.out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised images: (B, 3, S, S) -> embeddings (B, out_chans, g, g)."""
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        embedding: Tensor = self.neck(x)
        return embedding


class PatchEmbed(nn.Module):
    """Linear embedding of patches."""

    def __init__(self, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into tokens (B, g, g, C), one per patch."""
        patches: Tensor = self.proj(x)
        return patches.permute(0, 2, 3, 1)


class Neck(nn.Sequential):
    """Two convolutions, each with a normalisation behind it."""

    def __init__(self, dim: int, out: int) -> None:
        first = nn.Conv2d(dim, out, kernel_size=1, bias=False)
        second = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        super().__init__(first, ChannelNorm(out), second, ChannelNorm(out))

    def forward(self, x: Tensor) -> Tensor:
        """Turn tokens (B, g, g, dim) into the embedding (B, out, g, g)."""
        x = x.permute(0, 3, 1, 2)
        for layer in self:
            x = layer(x)
        return x


class ChannelNorm(nn.Module):
    """Layer normalisation of maps over their features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C."""
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, eps=1e-6).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention and MLP, each behind a layer normalisation."""

    def __init__(self, arch: SamVit, index: int, num_heads: int, mlp_dim: int, attention: AttentionMode) -> None:
        super().__init__()
        dim, window = arch.embed_dim, arch.window(index)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, arch.head_dim, num_heads, window or arch.grid, windowed=window > 0, mode=attention)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add attention and MLP to the residual stream, (B, g, g, C) -> (B, g, g, C)."""
        x = x + (self.attn(self.norm1(x)) if self.attn.num_heads else self.attn.proj.bias)
        return x + (self.mlp(self.norm2(x)) if self.mlp.mlp_dim else self.mlp.lin2.bias)


class Mlp(nn.Module):
    """Two linear layers with GELU between them and `mlp_dim` hidden features."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.mlp_dim = mlp_dim
        self.lin1 = _linear(dim, mlp_dim)
        self.lin2 = _linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (..., C) -> (..., C)."""
        out: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return out


class Attention(nn.Module):
    """Self-attention with decomposed relative positions, in windows or over the grid.

    Args:
        dim: C, width of the residual stream.
        head_dim: d, width of a head.
        num_heads: H, how many there are.
        side: S, tokens along one side of what is attended to (window or grid); tables have 2·S - 1 rows.
        windowed: whether the grid is cut into windows, zero-padded right and below to a multiple of S.
        mode: how attention is computed.
    """

    def __init__(self, dim: int, head_dim: int, num_heads: int, side: int, windowed: bool, mode: AttentionMode) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.side = num_heads, head_dim, side
        self.windowed, self.mode = windowed, mode
        self.scale = head_dim**-0.5
        self.qkv = _linear(dim, 3 * num_heads * head_dim)
        self.proj = _linear(num_heads * head_dim, dim)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, head_dim))
        nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
        nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: tokens (B, h, w, C) -> (B, h, w, C)."""
        height, width = x.shape[1:3]
        if self.mode == "plain":
            attended = self.proj(self._attend(self.qkv(self._to_windows(x))))
            return self._from_windows(attended, height, width)
        if self._padding(height) or self._padding(width):
            # a padding token is 0 after the normalisation, so its q, k and v are the bias alone
            qkv = self._to_windows(F.linear(x, self.qkv.weight))
            qkv = qkv + self.qkv.bias.to(qkv.dtype)
        else:
            qkv = self._to_windows(self.qkv(x))
        out: Tensor = self.proj(self._from_windows(self._attend(qkv), height, width))
        return out

    def _padding(self, length: int) -> int:
        return -length % self.side

    def _to_windows(self, x: Tensor) -> Tensor:
        """Cut into windows: (B, h, w, K) -> (B·windows, S, S, K).

        The right and lower windows are zero-padded. The result is `x` itself if attention is global.
        """
        if not self.windowed:
            return x
        x = F.pad(x, (0, 0, 0, self._padding(x.shape[2]), 0, self._padding(x.shape[1])))
        batch, height, width, features = x.shape
        # (B, rows, S, columns, S, K) -> (B·rows·columns, S, S, K)
        x = x.view(batch, height // self.side, self.side, width // self.side, self.side, features)
        return x.transpose(2, 3).flatten(0, 2)

    def _from_windows(self, x: Tensor, height: int, width: int) -> Tensor:
        """Undo `_to_windows`: (B·windows, S, S, K) -> (B, height, width, K)."""
        if not self.windowed:
            return x
        rows = (height + self._padding(height)) // self.side
        columns = (width + self._padding(width)) // self.side
        # (B, rows, S, columns, S, K) -> (B, rows·S, columns·S, K)
        x = x.view(-1, rows, columns, self.side, self.side, x.shape[-1]).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend within windows: (B, S, S, 3·H·d) -> attended values (B, S, S, H·d)."""
        # (B, S, S, 3·H·d) -> q, k, v of (B, H, S, S, d)
        split = qkv.view(*qkv.shape[:3], 3, self.num_heads, self.head_dim)
        q, k, v = split.permute(3, 0, 4, 1, 2, 5).unbind(0)
        # position of the key relative to each query position, (S, S, d): row = query, column = key
        offsets = torch.arange(self.side, device=qkv.device)
        offsets = offsets[:, None] - offsets[None, :] + self.side - 1
        along_h = torch.einsum("bnhwc,hkc->bnhwk", q, self.rel_pos_h[offsets])
        along_w = torch.einsum("bnhwc,wkc->bnhwk", q, self.rel_pos_w[offsets])
        if self.mode == "plain":
            out = self._plain(q, k, v, along_h, along_w)
        else:
            out = self._folded(q, k, v, along_h, along_w)
        # (B, H, S·S, d) -> (B, S, S, H·d)
        return out.transpose(1, 2).reshape(-1, self.side, self.side, self.num_heads * self.head_dim)

    def _plain(self, q: Tensor, k: Tensor, v: Tensor, along_h: Tensor, along_w: Tensor) -> Tensor:
        weights = (q.flatten(2, 3) * self.scale) @ k.flatten(2, 3).transpose(-2, -1)
        bias = along_h[..., :, None] + along_w[..., None, :]
        # (B, H, S, S, S, S) -> (B, H, S·S, S·S)
        weights = weights + bias.flatten(4, 5).flatten(2, 3)
        out: Tensor = weights.softmax(dim=-1) @ v.flatten(2, 3)
        return out

    def _folded(self, q: Tensor, k: Tensor, v: Tensor, along_h: Tensor, along_w: Tensor) -> Tensor:
        """Attend with relative positions inside queries and keys.

        The one-hot part of a key picks the entries of its row and its column, so q'·k' = s·q·k + rel_h + rel_w.
        """
        side = self.side
        axis = torch.eye(side, dtype=k.dtype, device=k.device)
        # one-hot of each key's row and column, (S, S, S) -> (B, H, S, S, S)
        rows = axis[:, None, :].expand(*k.shape[:2], side, side, side)
        columns = axis[None, :, :].expand(*k.shape[:2], side, side, side)
        query = torch.cat([q * self.scale, along_h, along_w], dim=-1).flatten(2, 3)
        key = torch.cat([k, rows, columns], dim=-1).flatten(2, 3)
        value = v.flatten(2, 3)
        if query.device.type == "cpu" and query.shape[2] <= _MOST_TOKENS_UNFUSED:
            return (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        # fused kernels need one width for queries, keys and values
        value = F.pad(value, (0, query.shape[-1] - self.head_dim))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., : self.head_dim]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that may have no inputs or no outputs."""
    if inputs and outputs:
        return nn.Linear(inputs, outputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(inputs, outputs)
