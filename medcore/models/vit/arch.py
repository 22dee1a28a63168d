"""segment-anything's ViT encoder: its dense shape, and what can be pruned as sites (method §2, §9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from medcore.errors import CheckpointError
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.fields import LARGEST
from medcore.models.sites import Block, Cost, Family, LinearOutput, Site, TensorSlice, Watch
from medcore.models.spec import BLOCKS, ENCODER, Architecture, ModelSpec
from medcore.models.vit.families import CHANNELS, HEADS, WHOLE_BLOCKS

if TYPE_CHECKING:
    from medcore.models.vit.encoder import AttentionMode, ImageEncoder

NECK = "image_encoder.neck"


@dataclass(frozen=True)
class SamVit(Architecture):
    """A dense SAM-style model.

    Field names are those of segment-anything's `ImageEncoderViT`. `pixel_mean` and `pixel_std` apply after each image
    was min-max scaled to [0, 1] (1.1).

    Raises:
        MedcoreError: a field has the wrong type or contradicts another one.
    """

    kind: ClassVar[str] = "sam_vit"
    encoder_families: ClassVar[tuple[Family, ...]] = (HEADS, CHANNELS)
    whole_blocks: ClassVar[Family | None] = WHOLE_BLOCKS

    name: str
    img_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    out_chans: int
    window_size: int
    global_attn_indexes: tuple[int, ...]
    decoder: DecoderSpec = field(default_factory=DecoderSpec)
    pixel_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    parts: tuple[str, ...] = (ENCODER,)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"architecture {self.name}"
        if self.img_size % self.patch_size:
            raise CheckpointError(f"{where}: img_size {self.img_size} is no multiple of patch_size")
        if self.embed_dim % self.num_heads:
            raise CheckpointError(f"{where}: embed_dim {self.embed_dim} is no multiple of num_heads")
        if not 1 <= self.embed_dim * self.mlp_ratio <= LARGEST:
            raise CheckpointError(f"{where}: mlp_ratio {self.mlp_ratio} makes MLPs of 0 or over {LARGEST} features")
        if not all(0 <= block < self.depth for block in self.global_attn_indexes):
            raise CheckpointError(f"{where}: global_attn_indexes name a block outside 0..{self.depth - 1}")

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head, which pruning never changes."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Return the hidden features of a dense block's MLP."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def grid(self) -> int:
        """Return the patches along one side of the image."""
        return self.img_size // self.patch_size

    def window(self, block: int) -> int:
        """Return the window side of a block in patches; 0 means global attention."""
        return 0 if block in self.global_attn_indexes else self.window_size

    @cached_property
    def encoder_blocks(self) -> tuple[Block, ...]:
        """Return the transformer's blocks."""
        return tuple(
            Block(f"image_encoder.blocks.{number}", window == 0, f"windows of {window}" if window else "whole image")
            for number, window in enumerate(map(self.window, range(self.depth)))
        )

    @cached_property
    def encoder_sites(self) -> tuple[Site, ...]:
        """Return the blocks as a whole if they are a part, the attentions of all blocks, then their MLPs."""
        numbers = range(self.depth)
        whole = map(self._block_site, numbers if BLOCKS in self.parts else ())
        return (*whole, *map(self._head_site, numbers), *map(self._channel_site, numbers))

    @property
    def encoder_trunks(self) -> tuple[tuple[str, ...], ...]:
        """Return the chain of all blocks and the neck."""
        (blocks,) = super().encoder_trunks
        return ((*blocks, NECK),)

    @property
    def encoder_neck(self) -> Mapping[str, int]:
        """Return both convolutions of the neck."""
        return dict.fromkeys((f"{NECK}.0", f"{NECK}.2"), len(self.encoder_blocks) - 1)

    @cached_property
    def encoder_fixed(self) -> Cost:
        """Return the cost of patch embedding, neck and all else that stays (9.3, 9.4)."""
        tokens = self.grid**2
        patch_weights = 3 * self.patch_size**2 * self.embed_dim
        neck_weights = self.out_chans * (self.embed_dim + 9 * self.out_chans)
        params = patch_weights + self.embed_dim * (1 + tokens) + neck_weights + 4 * self.out_chans
        if BLOCKS not in self.parts:
            params += sum(map(self._rest_of_block, range(self.depth)))
        return Cost(params, 2 * tokens * (patch_weights + neck_weights), 2 * tokens * patch_weights)

    @property
    def summary(self) -> str:
        """Return input, patch size and width in a few words."""
        return f"{super().summary}, patches of {self.patch_size}, width {self.embed_dim}"

    @property
    def activations(self) -> int:
        """Return roughly how many values one image leaves for a backward pass."""
        return 20 * self.depth * self.grid**2 * self.embed_dim

    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> ImageEncoder:
        """Build the ViT encoder with the widths of `spec`."""
        # imported here, so that a front can be read without torch
        from medcore.models.vit.encoder import ImageEncoder

        return ImageEncoder(self, spec.whole_budget, attention)

    def _rest_of_block(self, block: int) -> int:
        """Return the parameters of two normalisations, output biases of proj and lin2, relative-position tables."""
        return 6 * self.embed_dim + 2 * (2 * self._side(block) - 1) * self.head_dim

    def _block_site(self, block: int) -> Site:
        """Return all of a block, of which nothing is left without it, not even biases."""
        path = self.encoder_blocks[block].path
        linear = ("attn.qkv", "mlp.lin1", "norm1", "norm2")
        inside = [f"{layer}.{name}" for layer in linear for name in ("weight", "bias")]
        inside += ["attn.rel_pos_h", "attn.rel_pos_w"]
        outputs = [f"{layer}.{name}" for layer in ("attn.proj", "mlp.lin2") for name in ("weight", "bias")]
        tensors = (
            *(TensorSlice(f"{path}.{name}", axis=None) for name in inside),
            *(TensorSlice(f"{path}.{name}", axis=None, output=True) for name in outputs),
        )
        return Site(WHOLE_BLOCKS, block, 1, tensors, Watch(path, "change"), Cost(self._rest_of_block(block), 0, 0))

    def _within(self, block: int) -> str | None:
        """Return the name of the site that holds the other sites of a block."""
        return f"{WHOLE_BLOCKS.name}/{block:02d}" if BLOCKS in self.parts else None

    def _head_site(self, block: int) -> Site:
        """Return the attention of a block: rows of Q, K and V, columns of proj (9.1)."""
        path, width = f"{self.encoder_blocks[block].path}.attn", self.head_dim
        tensors = (
            TensorSlice(f"{path}.qkv.weight", axis=0, outer=3, inner=width),
            TensorSlice(f"{path}.qkv.bias", axis=0, outer=3, inner=width),
            TensorSlice(f"{path}.proj.weight", axis=1, inner=width, output=True),
        )
        side = self._side(block)
        # tokens along one side of the grid, padded to whole windows
        padded = -(-self.grid // side) * side
        # q, k, v and proj; q·k and weights·v; q with both tables
        flops = 2 * padded**2 * width * (4 * self.embed_dim + 2 * side**2 + 2 * side)
        cost = Cost(
            encoder_params=4 * self.embed_dim * width + 3 * width,
            flops=flops,
            flops_paper=2 * self.grid**2 * width * (4 * self.embed_dim + 2 * side**2),
        )
        watch = Watch(f"{path}.proj", inner=width)
        output = LinearOutput(f"{path}.proj", f"{self.encoder_blocks[block].path}.norm1", inner=width)
        return Site(HEADS, block, self.num_heads, tensors, watch, cost, within=self._within(block), output=output)

    def _channel_site(self, block: int) -> Site:
        """Return the MLP of a block: rows of lin1, columns of lin2 (9.2)."""
        path = f"{self.encoder_blocks[block].path}.mlp"
        tensors = (
            TensorSlice(f"{path}.lin1.weight", axis=0),
            TensorSlice(f"{path}.lin1.bias", axis=0),
            TensorSlice(f"{path}.lin2.weight", axis=1, output=True),
        )
        flops = 4 * self.grid**2 * self.embed_dim
        cost = Cost(encoder_params=2 * self.embed_dim + 1, flops=flops, flops_paper=flops)
        output = LinearOutput(f"{path}.lin2", f"{self.encoder_blocks[block].path}.norm2")
        watch, within = Watch(f"{path}.lin2"), self._within(block)
        return Site(CHANNELS, block, self.mlp_dim, tensors, watch, cost, within=within, output=output)

    def _side(self, block: int) -> int:
        """Return the tokens along one side of what the block attends to."""
        return self.window(block) or self.grid
