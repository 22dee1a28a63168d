"""TinyViT as LiteMedSAM and MobileSAM have it: its dense shape, and what can be pruned as sites (method §2, §9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from medcore.errors import CheckpointError
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.fields import DEEPEST, LARGEST
from medcore.models.sites import Block, Cost, Family, Site
from medcore.models.spec import ENCODER, Architecture, ModelSpec
from medcore.models.tinyvit.places import (
    INTERIORS,
    MBCONV,
    MERGES,
    BlockPlace,
    MBConvPlace,
    MergePlace,
    Place,
    sites_of,
)
from medcore.models.vit.arch import NECK
from medcore.models.vit.families import CHANNELS, HEADS, WHOLE_BLOCKS

if TYPE_CHECKING:
    from medcore.data.frames.frame import Frame
    from medcore.models.tinyvit.encoder import TinyVitEncoder
    from medcore.models.vit.encoder import AttentionMode


@dataclass(frozen=True)
class TinyVit(Architecture):
    """A dense model with a TinyViT encoder.

    The first stage has MBConv blocks, the others have blocks with attention in windows. Tuples hold a number a stage;
    the first numbers of `num_heads` and `window_sizes` mean nothing.

    Attributes:
        stem_stride: stride of both convolutions of the stem. 1: they are 1 × 1 (LiteMedSAM); 2: they are 3 × 3
            (MobileSAM).
        embed_dims: widths of the residual stream.
        depths: blocks.
        num_heads: of a block's attention.
        window_sizes: sides of the windows in tokens, at most the side of the stage.
        merge_strides: strides of the merges between the stages, one number less than stages.
        mlp_ratio: hidden features of an MLP, as a multiple of the stream's width.
        mbconv_expand_ratio: hidden features of an MBConv block, alike.
        padded: whether images keep their proportions and are padded to the square. If not, they fill it.

    Raises:
        MedcoreError: a field has the wrong type or contradicts another one.
    """

    kind: ClassVar[str] = "tiny_vit"
    encoder_families: ClassVar[tuple[Family, ...]] = (WHOLE_BLOCKS, INTERIORS, HEADS, CHANNELS, MBCONV, MERGES)
    # the classifier of MobileSAM's files
    unused: ClassVar[tuple[str, ...]] = tuple(
        f"image_encoder.{layer}.{name}" for layer in ("norm_head", "head") for name in ("weight", "bias")
    )

    name: str
    img_size: int
    stem_stride: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    merge_strides: tuple[int, ...]
    mlp_ratio: float
    mbconv_expand_ratio: float
    out_chans: int
    padded: bool = True
    decoder: DecoderSpec = field(default_factory=DecoderSpec)
    pixel_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    parts: tuple[str, ...] = (ENCODER,)

    def __post_init__(self) -> None:
        super().__post_init__()
        where, stages = f"architecture {self.name}", len(self.embed_dims)
        lists = {name: getattr(self, name) for name in ("embed_dims", "depths", "num_heads", "window_sizes")}
        if stages < 2:
            raise CheckpointError(f"{where}: embed_dims must hold a width for each of two stages or more")
        for name, values in {**lists, "merge_strides": (*self.merge_strides, 1)}.items():
            if len(values) != stages or min(values) < 1:
                raise CheckpointError(f"{where}: {name} must hold a positive number a stage, not {list(values)!r:.40}")
        if self.stem_stride not in (1, 2) or max(self.merge_strides) > 2:
            raise CheckpointError(f"{where}: stem_stride and merge_strides must be 1 or 2")
        if self.img_size % self._shrinks[-1]:
            raise CheckpointError(f"{where}: img_size {self.img_size} is no multiple of all strides together")
        if sum(self.depths) > DEEPEST:
            raise CheckpointError(f"{where}: depths must be at most {DEEPEST} together")
        if self.embed_dims[0] % 2:
            raise CheckpointError(f"{where}: embed_dims must begin with an even width, not {self.embed_dims[0]}")
        for dim, count in zip(self.embed_dims[1:], self.num_heads[1:], strict=True):
            if dim % count:
                raise CheckpointError(f"{where}: embed_dims {dim} is no multiple of num_heads {count}")
        for stage, window in enumerate(self.window_sizes[1:], start=1):
            if window > (side := self.side(stage)):
                raise CheckpointError(f"{where}: window_sizes {window} is more than the stage's {side} tokens")
        hidden = [self.mlp_dim(stage) for stage in range(1, stages)]
        if not isinstance(self.padded, bool):
            raise CheckpointError(f"{where}: padded must be true or false, not {self.padded!r:.40}")
        if self.padded and any(self.pixel_mean):
            raise CheckpointError(f"{where}: pixel_mean must be 0 where images are padded with zeros")
        if not all(1 <= width <= LARGEST for width in (*hidden, self.mbconv_dim)):
            raise CheckpointError(f"{where}: mlp_ratio or mbconv_expand_ratio makes 0 or over {LARGEST} features")

    def mlp_dim(self, stage: int) -> int:
        """Return the hidden features of a dense block's MLP."""
        return int(self.embed_dims[stage] * self.mlp_ratio)

    @property
    def mbconv_dim(self) -> int:
        """Return the hidden features of a dense MBConv block."""
        return int(self.embed_dims[0] * self.mbconv_expand_ratio)

    def side(self, stage: int) -> int:
        """Return the tokens along one side of the image in a stage."""
        return self.img_size // self._shrinks[stage]

    @property
    def frame(self) -> Frame:
        """Return how images come into the model's square."""
        # imported here, so that a front can be read without torch
        from medcore.data.frames.frame import Frame

        return Frame(self.img_size, self.padded)

    @property
    def grid(self) -> int:
        """Return the tokens along one side of the image in the last stage."""
        return self.side(-1)

    @cached_property
    def encoder_blocks(self) -> tuple[Block, ...]:
        """Return the blocks of all stages, each stage followed by its merge."""
        return tuple(place.block for place in self.places)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Return where the blocks and merges are, in the order of the forward pass."""
        return tuple(self._places())

    @cached_property
    def encoder_sites(self) -> tuple[Site, ...]:
        """Return all sites, family by family."""
        return sites_of(self.places, self.encoder_families)

    @property
    def encoder_trunks(self) -> tuple[tuple[str, ...], ...]:
        """Return the chain of all blocks and merges, and the neck."""
        return ((*(block.path for block in self.encoder_blocks), NECK),)

    @property
    def encoder_neck(self) -> Mapping[str, int]:
        """Return both convolutions of the neck."""
        return dict.fromkeys((f"{NECK}.0", f"{NECK}.2"), len(self.encoder_blocks) - 1)

    @cached_property
    def encoder_fixed(self) -> Cost:
        """Return the cost of stem, neck and all else that stays (9.8)."""
        first, last, out = self.embed_dims[0], self.embed_dims[-1], self.out_chans
        half, area = first // 2, 1 if self.stem_stride == 1 else 9
        stem, neck = area * half * (3 + first), out * (last + 9 * out)
        params = stem + 2 * half + 2 * first + neck + 4 * out + sum(2 * dim for dim in self.embed_dims[1:])
        middle = (self.img_size // self.stem_stride) ** 2
        run = 2 * area * half * (3 * middle + first * self.side(0) ** 2)
        return Cost(params, run + 2 * neck * self.grid**2, run)

    @property
    def summary(self) -> str:
        """Return input, widths and depths in a few words."""
        depths, widths = ("-".join(map(str, each)) for each in (self.depths, self.embed_dims))
        return f"{super().summary}, TinyViT with depths {depths} and widths {widths}"

    @property
    def activations(self) -> int:
        """Return roughly how many values one image leaves for a backward pass."""
        stages = zip(self.depths, self.embed_dims, strict=True)
        return sum(20 * depth * dim * self.side(stage) ** 2 for stage, (depth, dim) in enumerate(stages))

    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> TinyVitEncoder:
        """Build the encoder with the widths of `spec`."""
        # imported here, so that a front can be read without torch
        from medcore.models.tinyvit.encoder import TinyVitEncoder

        return TinyVitEncoder(asdict(self), spec.whole_budget, attention)

    @cached_property
    def _shrinks(self) -> tuple[int, ...]:
        """Return the pixels along one side of a token of each stage."""
        return tuple(accumulate(self.merge_strides, lambda one, other: one * other, initial=self.stem_stride**2))

    def _places(self) -> Iterator[Place]:
        number = 0
        for stage, depth in enumerate(self.depths):
            dim, side, path = self.embed_dims[stage], self.side(stage), f"image_encoder.layers.{stage}"
            for index in range(depth):
                inside = f"{path}.blocks.{index}"
                if stage == 0:
                    yield MBConvPlace(number, inside, dim, side, self.mbconv_dim)
                else:
                    num_heads, window = self.num_heads[stage], self.window_sizes[stage]
                    yield BlockPlace(number, inside, dim, side, num_heads, window, self.mlp_dim(stage))
                number += 1
            if stage + 1 < len(self.depths):
                yield MergePlace(
                    number, f"{path}.downsample", self.embed_dims[stage + 1], side, dim, self.merge_strides[stage]
                )
                number += 1
