"""A small encoder unlike the ViT in one file: all that a new architecture needs.

A convolution stem with batch normalisation, attention with a table of position biases, blocks of unequal width, and
whole blocks as groups.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.architectures import KINDS
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sites import Block, Cost, Family, LinearOutput, Site, TensorSlice, Watch
from medcore.models.spec import ENCODER, Architecture, ModelSpec
from medcore.models.vit.encoder import AttentionMode

BLOCKS = Family("blocks", "Blocks", "block", stage="blocks", offset=2.0, elective=True)
HEADS = Family("toy_heads", "Toy heads", "toy head", stage="toy_heads", lean=1, least_count=1, sparsity=0.5)
STEM = Family("stem", "Stem channels", "stem channel", stage="stem", least_share=0.25, sparsity=0.4)
HIDDEN = Family(
    "hidden", "Hidden channels", "hidden channel", stage="hidden", lean=-1, least_share=0.05, sparsity=0.7, rounded=True
)


@KINDS.register("toy")
@dataclass(frozen=True)
class Toy(Architecture):
    """A dense toy: a stem of two convolutions, blocks of attention and MLP, and a 1 × 1 convolution.

    Attributes:
        dim: width of the residual stream.
        head_dim: width of one head.
        stem: channels between the two convolutions.
        heads, hidden: heads and MLP channels of each block.

    Raises:
        MedcoreError: a field has the wrong type or contradicts another one.
    """

    kind: ClassVar[str] = "toy"
    encoder_families: ClassVar[tuple[Family, ...]] = (BLOCKS, HEADS, STEM, HIDDEN)

    name: str = "toy"
    img_size: int = 64
    dim: int = 24
    head_dim: int = 6
    stem: int = 10
    heads: tuple[int, ...] = (2, 4, 3)
    hidden: tuple[int, ...] = (24, 48, 16)
    out_chans: int = 32
    decoder: DecoderSpec = field(
        default_factory=lambda: DecoderSpec(depth=1, mlp_dim=32, num_heads=2, iou_head_depth=2, iou_head_hidden_dim=16)
    )
    pixel_mean: tuple[float, ...] = (0.4, 0.5, 0.6)
    pixel_std: tuple[float, ...] = (0.2, 0.3, 0.4)
    parts: tuple[str, ...] = (ENCODER,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.img_size % 8 or len(self.heads) != len(self.hidden):
            raise MedcoreError(f"architecture {self.name}: img_size, heads or hidden do not fit")

    @property
    def grid(self) -> int:
        return self.img_size // 8

    @cached_property
    def encoder_blocks(self) -> tuple[Block, ...]:
        inner = (Block(f"image_encoder.blocks.{number}", attends_globally=True) for number in range(len(self.heads)))
        return (Block("image_encoder.stem"), *inner)

    @cached_property
    def encoder_sites(self) -> tuple[Site, ...]:
        numbers = range(1, len(self.encoder_blocks))
        return (
            *map(self._block_site, numbers),
            *map(self._head_site, numbers),
            self._stem_site(),
            *map(self._hidden_site, numbers),
        )

    @cached_property
    def encoder_fixed(self) -> Cost:
        # bias of the stem's second convolution; neck with bias
        flops = 2 * self.grid**2 * self.dim * self.out_chans
        return Cost(self.dim + (self.dim + 1) * self.out_chans, flops, flops)

    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> ToyEncoder:
        return ToyEncoder(self, spec)

    def _block_site(self, block: int) -> Site:
        """All of a block but what belongs to its heads and channels costs no FLOPs."""
        path = self.encoder_blocks[block].path
        inside = ("norm1.weight", "norm1.bias", "qkv.weight", "qkv.bias", "biases", "norm2.weight", "norm2.bias")
        outputs = ("proj.weight", "proj.bias", "lin2.weight", "lin2.bias")
        tensors = (
            *(TensorSlice(f"{path}.{name}", axis=None) for name in (*inside, "lin1.weight", "lin1.bias")),
            *(TensorSlice(f"{path}.{name}", axis=None, output=True) for name in outputs),
        )
        return Site(BLOCKS, block, 1, tensors, Watch(path, "change"), Cost(6 * self.dim, 0, 0))

    def _head_site(self, block: int) -> Site:
        path, rows, tokens = self.encoder_blocks[block].path, 3 * self.head_dim, self.grid**2
        tensors = (
            TensorSlice(f"{path}.qkv.weight", axis=0, inner=rows),
            TensorSlice(f"{path}.qkv.bias", axis=0, inner=rows),
            TensorSlice(f"{path}.biases", axis=0),
            TensorSlice(f"{path}.proj.weight", axis=1, inner=self.head_dim, output=True),
        )
        flops = 2 * tokens * self.head_dim * (4 * self.dim + 2 * tokens)
        cost = Cost(rows * (self.dim + 1) + tokens + self.dim * self.head_dim, flops, flops)
        return Site(
            HEADS,
            block,
            self.heads[block - 1],
            tensors,
            watch=Watch(f"{path}.proj", inner=self.head_dim),
            cost=cost,
            within=f"{BLOCKS.name}/{block:02d}",
            output=LinearOutput(f"{path}.proj", f"{path}.norm1", inner=self.head_dim),
        )

    def _stem_site(self) -> Site:
        path, tokens = self.encoder_blocks[0].path, self.grid**2
        names = ("conv1.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
        tensors = (
            *(TensorSlice(f"{path}.{name}", axis=0) for name in names),
            TensorSlice(f"{path}.conv2.weight", axis=1, output=True),
        )
        # 4 × 4 inputs of three colours at four positions a token, then 2 × 2 of them a token
        flops = 2 * tokens * (4 * 48 + 4 * self.dim)
        cost = Cost(48 + 2 + 4 * self.dim, flops, flops)
        return Site(STEM, 0, self.stem, tensors, Watch(f"{path}.conv2", axis=1), cost)

    def _hidden_site(self, block: int) -> Site:
        path, tokens = self.encoder_blocks[block].path, self.grid**2
        tensors = (
            TensorSlice(f"{path}.lin1.weight", axis=0),
            TensorSlice(f"{path}.lin1.bias", axis=0),
            TensorSlice(f"{path}.lin2.weight", axis=1, output=True),
        )
        cost = Cost(2 * self.dim + 1, 4 * tokens * self.dim, 4 * tokens * self.dim)
        return Site(
            HIDDEN,
            block,
            self.hidden[block - 1],
            tensors,
            watch=Watch(f"{path}.lin2"),
            cost=cost,
            within=f"{BLOCKS.name}/{block:02d}",
            output=LinearOutput(f"{path}.lin2", f"{path}.norm2"),
        )


class ToyEncoder(nn.Module):
    """Images (B, 3, 8g, 8g) -> embeddings (B, out_chans, g, g)."""

    def __init__(self, arch: Toy, spec: ModelSpec) -> None:
        super().__init__()
        kept = {site.name: width for site, width in zip(arch.sites, spec.widths, strict=True)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.stem = ToyStem(arch.dim, kept["stem/00"])
            self.blocks = nn.ModuleList(
                ToyBlock(arch, kept[f"toy_heads/{number:02d}"], kept[f"hidden/{number:02d}"])
                if kept[f"blocks/{number:02d}"]
                else nn.Identity()
                for number in range(1, len(arch.encoder_blocks))
            )
        self.neck = nn.Conv2d(arch.dim, arch.out_chans, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        # (B, C, g, g) -> (B, g·g, C)
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        embedding: Tensor = self.neck(tokens.transpose(1, 2).reshape(x.shape))
        return embedding


class ToyStem(nn.Module):
    """Images (B, 3, 8g, 8g) -> features (B, C, g, g)."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(3, channels, kernel_size=4, stride=4, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.channels:
            out: Tensor = self.conv2(F.gelu(self.norm(self.conv1(x))))
            return out
        # what is left of it is its output bias
        assert self.conv2.bias is not None
        return self.conv2.bias[None, :, None, None].expand(len(x), -1, x.shape[2] // 8, x.shape[3] // 8)


class ToyBlock(nn.Module):
    """Attention with position biases, and MLP, each added to the residual stream (B, g·g, C)."""

    def __init__(self, arch: Toy, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.hidden, self.side = heads, hidden, arch.grid
        self.norm1 = nn.LayerNorm(arch.dim)
        self.qkv = nn.Linear(arch.dim, 3 * heads * arch.head_dim)
        self.biases = nn.Parameter(torch.zeros(heads, arch.grid**2))
        self.proj = nn.Linear(heads * arch.head_dim, arch.dim)
        self.norm2 = nn.LayerNorm(arch.dim)
        self.lin1 = nn.Linear(arch.dim, hidden)
        self.lin2 = nn.Linear(hidden, arch.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + (self._attend(self.norm1(x)) if self.heads else self.proj.bias)
        return x + (self.lin2(F.gelu(self.lin1(self.norm2(x)))) if self.hidden else self.lin2.bias)

    def _attend(self, x: Tensor) -> Tensor:
        # (B, N, H·3·d) -> q, k, v of (B, H, N, d)
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        weights = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + self.biases[:, self._offsets()]
        attended = weights.softmax(dim=-1) @ v
        # (B, H, N, d) -> (B, N, H·d)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def _offsets(self) -> Tensor:
        """Column of the table for each pair of tokens, by their distance in rows and columns, (N, N)."""
        place = torch.arange(self.side**2, device=self.biases.device)
        rows, columns = place // self.side, place % self.side
        return (rows[:, None] - rows).abs() * self.side + (columns[:, None] - columns).abs()
