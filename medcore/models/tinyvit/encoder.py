"""LiteMedSAM's TinyViT encoder with parts of unequal width (method §2).

This file is copied next to an exported model, so it imports torch alone. Parameters have the names of LiteMedSAM and
MobileSAM. Parts take and return tokens with channels last, (B, h, w, C), so that every linear layer and every 1 × 1
convolution sees its features last. Batch normalisation uses its running statistics, because models stay in evaluation
mode. A part whose groups are all gone adds only its output bias.

`attention="plain"` runs the operations of LiteMedSAM one by one, so that a counter of operations sees what it would see
there. `attention="fast"` gives the same numbers to float tolerance: padding tokens of windows do not pass through the
normalisation, qkv and proj.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """A convolution without bias (`c`) and batch normalisation (`bn`).

    Args:
        inputs: input channels, may be 0.
        outputs: output channels, may be 0.
        kernel: side of the kernel; the zero padding keeps the size.
        stride: of the convolution.
        depthwise: whether each channel has its own kernel; then `inputs` equals `outputs`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> None:
        super().__init__()
        self.c = Kernel(1 if depthwise else inputs, outputs, kernel)
        self.bn = nn.BatchNorm2d(outputs)
        self.stride, self.padding, self.depthwise = stride, kernel // 2, depthwise

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise, (B, h, w, inputs) -> (B, h / stride, w / stride, outputs)."""
        outputs = len(self.c.weight)
        if self.c.weight.numel():
            # a view, which convolutions take as channels last in memory
            maps = x.permute(0, 3, 1, 2)
            groups = outputs if self.depthwise else 1
            maps = F.conv2d(maps, self.c.weight, stride=self.stride, padding=self.padding, groups=groups)
        else:
            maps = x.new_zeros(len(x), outputs, -(-x.shape[1] // self.stride), -(-x.shape[2] // self.stride))
        normed: Tensor = self.bn(maps) if outputs else maps
        return normed.permute(0, 2, 3, 1)

    def linear_map(self) -> tuple[Tensor, Tensor]:
        """Return weight (outputs, inputs) and bias (outputs,) of the linear map that a 1 × 1 convolution is.

        With γ, β, mean μ and variance v of the normalisation they are γ / √(v + ε)·W and β − μ·γ / √(v + ε).
        """
        scale = self.bn.weight * (self.bn.get_buffer("running_var") + self.bn.eps).rsqrt()
        return scale[:, None] * self.c.weight.flatten(1), self.bn.bias - self.bn.get_buffer("running_mean") * scale

    @torch.no_grad()
    def set_linear_map(self, weight: Tensor, bias: Tensor) -> None:
        """Make this the linear map of a weight and a bias, in place.

        The normalisation becomes the addition of the bias: μ = 0 and γ = √(v + ε).
        """
        self.c.weight.copy_(weight.view_as(self.c.weight))
        self.bn.get_buffer("running_mean").zero_()
        self.bn.weight.copy_((self.bn.get_buffer("running_var") + self.bn.eps).sqrt())
        self.bn.bias.copy_(bias)


class Kernel(nn.Module):
    """The weight of a convolution, (outputs, inputs, kernel, kernel), that may have no inputs or no outputs."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        if self.weight.numel():
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))


class Expansion(nn.Module):
    """1 × 1 convolution, depth-wise 3 × 3 convolution, 1 × 1 convolution, with GELU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, depthwise=True)
        self.conv3 = ConvNorm(hidden, outputs)

    def inner(self, x: Tensor) -> Tensor:
        """Return the input of the last convolution, (B, h, w, inputs) -> (B, h / stride, w / stride, hidden)."""
        return F.gelu(self.conv2(F.gelu(self.conv1(x))))


class MBConv(Expansion):
    """A block of the first stage."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolutions to the input, and apply GELU to the sum, (B, h, w, C) -> (B, h, w, C)."""
        return F.gelu(x + self.conv3(self.inner(x)))


class Merge(Expansion):
    """The end of a stage: other channels, and half the size if the stride is 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the next stage's input, (B, h, w, C) -> (B, h / stride, w / stride, C')."""
        out: Tensor = self.conv3(self.inner(x))
        return out


class Mlp(nn.Module):
    """Layer normalisation and two linear layers with GELU between them."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = linear(dim, mlp_dim)
        self.fc2 = linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (..., C) -> (..., C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class Attention(nn.Module):
    """Layer normalisation and self-attention in windows, with a bias by the distance of two tokens.

    The rows of qkv are those of q, k and v of the first head, then those of the second. Windows are zero-padded right
    and below before the normalisation, so a padding token is the normalisation's bias, and others attend to it.

    Args:
        dim: C, width of the residual stream.
        head_dim: d, width of a head.
        num_heads: H, how many there are.
        window: W, side of a window in tokens.
        mode: how attention is computed.
    """

    def __init__(self, dim: int, head_dim: int, num_heads: int, window: int, mode: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window, self.mode = num_heads, head_dim, window, mode
        self.norm = nn.LayerNorm(dim)
        self.qkv = linear(dim, 3 * num_heads * head_dim)
        self.proj = linear(num_heads * head_dim, dim)
        #: column |Δy|·W + |Δx| of row h is added to the products of two tokens in head h
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window**2))

    def forward(self, x: Tensor) -> Tensor:
        """Attend: tokens (B, h, w, C) -> (B, h, w, C)."""
        height, width = x.shape[1:3]
        if not self.num_heads:
            return self.proj(self.norm(x)[..., :0])  # type: ignore[no-any-return]
        if self.mode == "plain":
            attended: Tensor = self.proj(self._attend(self.qkv(self.norm(self._to_windows(x)))))
            return self._from_windows(attended, height, width)
        normed = self.norm(x)
        if height % self.window or width % self.window:
            # zeros are padded, and what a padding token has in place of zeros is added to all
            padded = self._to_windows(F.linear(normed - self.norm.bias, self.qkv.weight))
            qkv = padded + F.linear(self.norm.bias, self.qkv.weight, self.qkv.bias).to(padded.dtype)
        else:
            qkv = self._to_windows(self.qkv(normed))
        out: Tensor = self.proj(self._from_windows(self._attend(qkv), height, width))
        return out

    def _to_windows(self, x: Tensor) -> Tensor:
        """Cut into windows, zero-padded right and below: (B, h, w, K) -> (B·windows, W², K)."""
        side = self.window
        x = F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))
        batch, height, width, features = x.shape
        # (B, rows, W, columns, W, K) -> (B·rows·columns, W², K)
        x = x.reshape(batch, height // side, side, width // side, side, features)
        return x.transpose(2, 3).reshape(-1, side**2, features)

    def _from_windows(self, x: Tensor, height: int, width: int) -> Tensor:
        """Undo `_to_windows`: (B·windows, W², K) -> (B, height, width, K)."""
        side = self.window
        rows, columns = -(-height // side), -(-width // side)
        # (B, rows, W, columns, W, K) -> (B, rows·W, columns·W, K)
        x = x.reshape(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
        return x.reshape(-1, rows * side, columns * side, x.shape[-1])[:, :height, :width]

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend within windows: (B, N, H·3·d) -> attended values (B, N, H·d)."""
        # (B, N, H, 3·d) -> q, k, v of (B, H, N, d)
        q, k, v = qkv.view(*qkv.shape[:2], self.num_heads, -1).transpose(1, 2).chunk(3, dim=-1)
        bias = self.attention_biases[:, self._distances()].to(q.dtype)
        if self.mode == "plain" or q.device.type == "cpu":
            # on a CPU faster than the fused kernel, which gains nothing in small windows
            weights = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1) + bias).softmax(dim=-1)
            out: Tensor = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1))
        return out.transpose(1, 2).flatten(2)

    def _distances(self) -> Tensor:
        """Return the column of the table for each pair of tokens, |Δy|·W + |Δx|, (N, N)."""
        place = torch.arange(self.window**2, device=self.attention_biases.device)
        rows, columns = place // self.window, place % self.window
        return (rows[:, None] - rows).abs() * self.window + (columns[:, None] - columns).abs()


class Block(nn.Module):
    """Attention and MLP, each added to the stream, with a depth-wise convolution between them that is not added.

    Args:
        dim: C, width of the residual stream.
        attention: None if the block is hollow, so that its convolution alone is left.
        mlp: None for the same blocks.
    """

    def __init__(self, dim: int, attention: Attention | None, mlp: Mlp | None) -> None:
        super().__init__()
        self.attn, self.mlp = attention, mlp
        self.local_conv = ConvNorm(dim, dim, 3, depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (B, h, w, C) -> (B, h, w, C)."""
        if self.attn is not None:
            x = x + self.attn(x)
        x = self.local_conv(x)
        return x if self.mlp is None else x + self.mlp(x)


class Stage(nn.Module):
    """Blocks, and the merge that leads to the next stage; `downsample` is None in the last one."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: Merge | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (B, h, w, C) -> (B, h', w', C')."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Stem(nn.Module):
    """Two convolutions: of 1 × 1, or of 3 × 3 with a stride of 2."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        kernel = 1 if stride == 1 else 3
        first, second = ConvNorm(3, dim // 2, kernel, stride), ConvNorm(dim // 2, dim, kernel, stride)
        self.seq = nn.Sequential(first, nn.GELU(), second)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into tokens (B, h, w, C)."""
        tokens: Tensor = self.seq(x.permute(0, 2, 3, 1))
        return tokens


class TinyVitEncoder(nn.Module):
    """TinyViT with LiteMedSAM's neck.

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
        dims, out = arch["embed_dims"], arch["out_chans"]
        self.patch_embed = Stem(dims[0], arch["stem_stride"])
        left = {family: iter(counts) for family, counts in widths.items()}
        stages = []
        for stage, depth in enumerate(arch["depths"]):
            blocks = [_block(arch, stage, left, attention) for _ in range(depth)]
            merge = None
            if stage + 1 < len(dims):
                merge = Merge(dims[stage], next(left["merges"]), dims[stage + 1], arch["merge_strides"][stage])
            stages.append(Stage(blocks, merge))
        self.layers = nn.ModuleList(stages)
        self.neck = Neck(dims[-1], out)

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised images: (B, 3, S, S) -> embeddings (B, out_chans, g, g)."""
        for part in (self.patch_embed, *self.layers, self.neck):
            x = part(x)
        return x


def _block(arch: Mapping[str, Any], stage: int, left: Mapping[str, Any], mode: str) -> nn.Module:
    """Return the next block, in the widths that are next of each family."""
    dim, whole = arch["embed_dims"][stage], next(left["blocks"])
    if stage == 0:
        hidden = next(left["mbconv"])
        return MBConv(dim, hidden, dim) if whole else nn.Identity()
    interior, num_heads, mlp_dim = (next(left[family]) for family in ("interiors", "heads", "channels"))
    if not whole:
        return nn.Identity()
    if not interior:
        return Block(dim, None, None)
    width = dim // arch["num_heads"][stage]
    return Block(dim, Attention(dim, width, num_heads, arch["window_sizes"][stage], mode), Mlp(dim, mlp_dim))


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
    """Layer normalisation of maps (B, C, h, w) over their features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, h, w) over C."""
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-6).permute(0, 3, 1, 2)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that may have no inputs or no outputs."""
    if inputs and outputs:
        return nn.Linear(inputs, outputs)
    layer = nn.Linear(max(inputs, 1), max(outputs, 1))
    layer.in_features, layer.out_features = inputs, outputs
    layer.weight = nn.Parameter(layer.weight.new_zeros(outputs, inputs))
    layer.bias = nn.Parameter(layer.bias.new_zeros(outputs))
    return layer
