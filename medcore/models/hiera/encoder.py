"""SAM 2's image encoder with blocks of unequal width: a Hiera trunk, its neck, and what the mask decoder reads of both.

This file imports torch alone. Parameters of trunk and neck have the names of SAM 2. Parts of the trunk take and return
tokens with channels last, (B, h, w, C).

The encoder returns one tensor of 4·C channels: the embedding, and the two finer maps folded to its side (`fold`). So
the rest of the project carries one embedding an image, as for other models, and the mask decoder unfolds it.

`attention="plain"` runs the operations of SAM 2 one by one, so that a counter of operations sees what it would see
there. `attention="fast"` gives the same numbers to float tolerance: padding tokens of windows do not pass through qkv
and proj. The widths of attention and MLP differ between blocks and may be 0. Then that half of the block adds only its
output bias (method §2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: On a CPU, up to this many tokens, matrix products and a softmax beat PyTorch's fused kernel; beyond it the N x N
#: matrix costs too much memory.
_MOST_TOKENS_UNFUSED = 1024
#: Finer maps that the mask decoder adds, as multiples of the embedding's side, with what divides the width.
_FINER = ((2, 4), (4, 8))


def fold(embedding: Tensor, half: Tensor, full: Tensor) -> Tensor:
    """Return maps of three sides as one tensor.

    Each square of pixels that lies over a place of the embedding becomes channels of that place.

    Args:
        embedding: (B, C, g, g).
        half: (B, C/4, 2g, 2g).
        full: (B, C/8, 4g, 4g).

    Returns:
        (B, 4·C, g, g).
    """
    finer = (F.pixel_unshuffle(each, times) for each, (times, _) in zip((half, full), _FINER, strict=True))
    return torch.cat([embedding, *finer], dim=1)


def unfold(folded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Undo `fold`: (B, 4·C, g, g) -> (B, C, g, g), (B, C/4, 2g, 2g) and (B, C/8, 4g, 4g)."""
    width = folded.shape[1] // 4
    sizes = [times**2 * width // part for times, part in _FINER]
    embedding, *finer = torch.split(folded, [width, *sizes], dim=1)
    half, full = (F.pixel_shuffle(each, times) for each, (times, _) in zip(finer, _FINER, strict=True))
    return embedding, half, full


class HieraEncoder(nn.Module):
    """SAM 2's image encoder, with the parts of its mask decoder that run once an image.

    Args:
        arch: fields of the dense architecture, as its JSON form has them.
        widths: groups that each site keeps, by family, as a `ModelSpec` has them in JSON.
        attention: how attention is computed.

    Raises:
        ValueError: `attention` is unknown.
    """

    def __init__(self, arch: Mapping[str, Any], widths: Mapping[str, Sequence[int]], attention: str = "fast") -> None:
        super().__init__()
        if attention not in ("fast", "plain"):
            raise ValueError(f"attention must be 'fast' or 'plain', not {attention!r}")
        self.img_size = arch["img_size"]
        out = arch["out_chans"]
        self.trunk = Trunk(arch, widths, attention)
        self.neck = Neck([arch["embed_dim"] * 2**stage for stage in range(len(arch["depths"]))], out)
        (_, quarter), (_, eighth) = _FINER
        self.conv_s0 = nn.Conv2d(out, out // eighth, kernel_size=1)
        self.conv_s1 = nn.Conv2d(out, out // quarter, kernel_size=1)
        #: what SAM 2 adds to the embedding of an image that follows no other
        self.no_mem_embed = nn.Parameter(torch.empty(1, 1, out))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised images: (B, 3, S, S) -> folded embeddings (B, 4·out_chans, g, g)."""
        full, half, embedding = self.neck(*self.trunk(x))
        embedding = embedding + self.no_mem_embed.view(1, -1, 1, 1)
        return fold(embedding, self.conv_s1(half), self.conv_s0(full))


class Trunk(nn.Module):
    """Hiera's blocks; arguments are those of `HieraEncoder`."""

    def __init__(self, arch: Mapping[str, Any], widths: Mapping[str, Sequence[int]], attention: str) -> None:
        super().__init__()
        dim, window, background = arch["embed_dim"], arch["window_sizes"][0], arch["pos_embed_size"]
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.empty(1, dim, background, background))
        self.pos_embed_window = nn.Parameter(torch.empty(1, dim, window, window))
        for table in (self.pos_embed, self.pos_embed_window):
            nn.init.trunc_normal_(table, std=0.02)
        left = {family: iter(counts) for family, counts in widths.items()}
        blocks: list[nn.Module] = []
        ends = []
        for stage, depth in enumerate(arch["depths"]):
            for index in range(depth):
                first = stage > 0 and index == 0
                blocks.append(_block(arch, stage, len(blocks), first, left, attention))
            ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        #: numbers of the last blocks of the stages
        self.ends = tuple(ends)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the tokens at the end of each stage, (B, 3, S, S) -> (B, h, w, C) and coarser ones."""
        x = self.patch_embed(x)
        x = x + self._positions(*x.shape[1:3])
        levels = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                levels.append(x)
        return levels

    def _positions(self, height: int, width: int) -> Tensor:
        """Return positions (1, h, w, C): a coarse table, interpolated, and the table of a window, repeated."""
        background = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        rows, columns = (length // self.pos_embed_window.shape[-1] for length in (height, width))
        return (background + self.pos_embed_window.tile(1, 1, rows, columns)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """A convolution whose kernels of 7 × 7 overlap, with a stride of 4."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=7, stride=4, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into tokens (B, S/4, S/4, C)."""
        tokens: Tensor = self.proj(x)
        return tokens.permute(0, 2, 3, 1)


def _block(
    arch: Mapping[str, Any], stage: int, number: int, first: bool, left: Mapping[str, Any], mode: str
) -> nn.Module:
    """Return the next block, in the widths that are next of each family.

    The first block of a stage takes the tokens and the window of the stage before it.
    """
    out = arch["embed_dim"] * 2**stage
    window = 0 if number in arch["global_attn_indexes"] else arch["window_sizes"][stage - first]
    is_left = first or "blocks" not in left or next(left["blocks"])
    num_heads, mlp_dim = next(left["heads"]), next(left["channels"])
    if not is_left:
        return nn.Identity()
    head_dim = arch["embed_dim"] // arch["num_heads"]
    attention = Attention(out // 2 if first else out, out, head_dim, num_heads, window, first, mode)
    return Block(attention, Mlp(out, mlp_dim))


class Block(nn.Module):
    """Attention and MLP, each behind a layer normalisation.

    The first block of a stage halves the sides and doubles the width. Its stream is then a linear map of the normalised
    tokens, of which each square of four keeps the largest values.

    Args:
        attention: knows the widths of both streams.
        mlp: of the width of the second.
    """

    def __init__(self, attention: Attention, mlp: Mlp) -> None:
        super().__init__()
        dim, out = attention.qkv.in_features, attention.proj.out_features
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(out, eps=1e-6)
        self.mlp = mlp
        self.proj = nn.Linear(dim, out) if attention.pools else None
        #: gets the stream to which the attention is added, for those who watch it
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (B, h, w, C) -> (B, h, w, C), or (B, h/2, w/2, 2·C) at the beginning of a stage."""
        normed = self.norm1(x)
        x = self.shortcut(x if self.proj is None else pooled(self.proj(normed)))
        x = x + self.attn(normed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between them and `mlp_dim` hidden features."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(dim, mlp_dim), linear(mlp_dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (..., C) -> (..., C)."""
        out: Tensor = self.layers[1](F.gelu(self.layers[0](x)))
        return out


class Attention(nn.Module):
    """Self-attention in windows or over all tokens. The rows of qkv are those of Q, then of K, then of V.

    Windows are zero-padded right and below, and others attend to the padding tokens.

    Args:
        dim: width of the tokens.
        out: width of the answer.
        head_dim: d, width of a head.
        num_heads: H, how many there are.
        window: W, side of a window in tokens; 0 for all tokens.
        pools: whether each square of four queries becomes one, so that there are a quarter of the answers.
        mode: how attention is computed.
    """

    def __init__(self, dim: int, out: int, head_dim: int, num_heads: int, window: int, pools: bool, mode: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window, self.pools, self.mode = num_heads, head_dim, window, pools, mode
        self.qkv = linear(dim, 3 * num_heads * head_dim)
        self.proj = linear(num_heads * head_dim, out)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: tokens (B, h, w, C) -> (B, h, w, out), of half the sides if queries are pooled."""
        step = 2 if self.pools else 1
        height, width = x.shape[1] // step, x.shape[2] // step
        if not self.num_heads:
            bare: Tensor = self.proj(x[:, ::step, ::step, :0])
            return bare
        if self.mode == "plain":
            attended: Tensor = self.proj(self._attend(self.qkv(self._to_windows(x))))
            return self._from_windows(attended, height, width)
        if self.window and (x.shape[1] % self.window or x.shape[2] % self.window):
            # a padding token is 0 after the normalisation, so its q, k and v are the bias alone
            qkv = self._to_windows(F.linear(x, self.qkv.weight))
            qkv = qkv + self.qkv.bias.to(qkv.dtype)
        else:
            qkv = self._to_windows(self.qkv(x))
        out: Tensor = self.proj(self._from_windows(self._attend(qkv), height, width))
        return out

    def _to_windows(self, x: Tensor) -> Tensor:
        """Cut into windows, (B, h, w, K) -> (B·windows, W, W, K); `x` itself if attention is global."""
        side = self.window
        if not side:
            return x
        x = F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))
        batch, height, width, features = x.shape
        # (B, rows, W, columns, W, K) -> (B·rows·columns, W, W, K)
        x = x.reshape(batch, height // side, side, width // side, side, features)
        return x.transpose(2, 3).flatten(0, 2)

    def _from_windows(self, x: Tensor, height: int, width: int) -> Tensor:
        """Undo `_to_windows` behind the attention, (B·windows, W', W', K) -> (B, height, width, K)."""
        if not self.window:
            return x
        side = x.shape[1]
        rows, columns = -(-height // side), -(-width // side)
        # (B, rows, W', columns, W', K) -> (B, rows·W', columns·W', K)
        x = x.reshape(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend within windows: (B, h, w, 3·H·d) -> attended values (B, h', w', H·d)."""
        q, k, v = qkv.chunk(3, dim=-1)
        if self.pools:
            q = pooled(q)
        shape = q.shape
        # (B, h, w, H·d) -> (B, H, h·w, d)
        q, k, v = (each.reshape(each.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2) for each in (q, k, v))
        if self.mode == "plain" or (q.device.type == "cpu" and k.shape[2] <= _MOST_TOKENS_UNFUSED):
            weights = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
            out: Tensor = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        # (B, H, h·w, d) -> (B, h, w, H·d)
        return out.transpose(1, 2).reshape(shape)


class Neck(nn.Module):
    """A 1 × 1 convolution a stage, and the coarsest map added to the one before it.

    Args:
        dims: widths of the stages.
        out: C, width of the maps.
    """

    def __init__(self, dims: Sequence[int], out: int) -> None:
        super().__init__()
        # SAM 2 lists the coarsest stage first
        self.convs = nn.ModuleList(Lateral(dim, out) for dim in reversed(dims))

    def forward(self, *levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of all stages but the last, (B, h, w, dim) a stage -> (B, C, h, w) a stage."""
        maps = zip(reversed(self.convs), levels, strict=True)
        full, half, embedding, coarsest = (lateral(each.permute(0, 3, 1, 2)) for lateral, each in maps)
        return full, half, embedding + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")


class Lateral(nn.Module):
    """A 1 × 1 convolution, under SAM 2's name."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, (B, dim, h, w) -> (B, out, h, w)."""
        maps: Tensor = self.conv(x)
        return maps


def pooled(x: Tensor) -> Tensor:
    """Keep the largest of four values, (B, h, w, C) -> (B, h/2, w/2, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)


class BiasOnly(nn.Linear):
    """A linear layer without inputs or without outputs. Products of empty matrices have no place in ONNX graphs."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the bias for every token, (..., inputs) -> (..., outputs)."""
        return self.bias.expand(*input.shape[:-1], -1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that may have no inputs or no outputs."""
    if inputs and outputs:
        return nn.Linear(inputs, outputs)
    layer = BiasOnly(max(inputs, 1), max(outputs, 1))
    layer.in_features, layer.out_features = inputs, outputs
    layer.weight = nn.Parameter(layer.weight.new_zeros(outputs, inputs))
    layer.bias = nn.Parameter(layer.bias.new_zeros(outputs))
    return layer
