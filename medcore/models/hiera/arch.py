"""SAM 2's image model with a Hiera encoder: its dense shape, and what can be pruned as sites (method §2, §9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from medcore.errors import CheckpointError
from medcore.models.decoder.places import DecoderPlaces
from medcore.models.decoder.spec import BOX_TOKENS, MASK_TOKENS, OWN_TOKENS, DecoderSpec
from medcore.models.fields import DEEPEST, LARGEST
from medcore.models.hiera.places import BlockPlace, sites_of
from medcore.models.sites import Block, Cost, Family, Site
from medcore.models.spec import BLOCKS, DECODER, ENCODER, Architecture, ModelSpec
from medcore.models.vit.families import CHANNELS, HEADS, WHOLE_BLOCKS

if TYPE_CHECKING:
    from medcore.models.hiera.decoder import HieraMaskDecoder, HieraPromptEncoder
    from medcore.models.hiera.encoder import HieraEncoder
    from medcore.models.vit.encoder import AttentionMode

NECK = "image_encoder.neck"
#: Stages of the trunk: the mask decoder reads the first two, and the neck adds the last to the third.
STAGES = 4
#: Pixels along one side of a token of the first stage.
STRIDE = 4


@dataclass(frozen=True)
class Hiera(Architecture):
    """A dense model of SAM 2's image path.

    Widths and sides of the tokens double from stage to stage. Tuples hold a number a stage.

    Attributes:
        embed_dim: width of the residual stream in the first stage.
        num_heads: of a block's attention there.
        depths: blocks.
        window_sizes: sides of the windows in tokens. The first block of a stage has the window of the stage before.
        global_attn_indexes: numbers of the blocks that attend to the whole image.
        pos_embed_size: side of the coarse table of positions.
        mlp_ratio: hidden features of an MLP, as a multiple of the stream's width.
        stable_mask: whether a box is answered by mask 0 only where that is stable, and otherwise by the mask with the
            highest predicted IoU, as SAM 2 does. If so, the mask decoder cannot be pruned, because all of its outputs
            have a part in the answer.

    Raises:
        MedcoreError: a field has the wrong type or contradicts another one.
    """

    kind: ClassVar[str] = "hiera"
    encoder_families: ClassVar[tuple[Family, ...]] = (HEADS, CHANNELS)
    whole_blocks: ClassVar[Family | None] = WHOLE_BLOCKS
    # what SAM 2 needs for the frames of a video that follow another one
    unused: ClassVar[tuple[str, ...]] = (
        *("memory_attention.", "memory_encoder.", "mask_downsample.", "maskmem_tpos_enc", "no_mem_pos_enc"),
        *("obj_ptr_proj.", "obj_ptr_tpos_proj.", "no_obj_ptr", "no_obj_embed_spatial"),
        "sam_mask_decoder.pred_obj_score_head.",
    )

    name: str
    img_size: int
    embed_dim: int
    num_heads: int
    depths: tuple[int, ...]
    window_sizes: tuple[int, ...]
    global_attn_indexes: tuple[int, ...]
    pos_embed_size: int
    mlp_ratio: float
    out_chans: int
    stable_mask: bool = True
    decoder: DecoderSpec = field(default_factory=DecoderSpec)
    pixel_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    parts: tuple[str, ...] = (ENCODER,)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"architecture {self.name}"
        for name in ("depths", "window_sizes"):
            if len(values := getattr(self, name)) != STAGES or min(values) < 1:
                raise CheckpointError(
                    f"{where}: {name} must hold a positive number for each of {STAGES} stages, not {list(values)!r:.40}"
                )
        if sum(self.depths) > DEEPEST:
            raise CheckpointError(f"{where}: depths must be at most {DEEPEST} together")
        if self.embed_dim % self.num_heads:
            raise CheckpointError(f"{where}: embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}")
        if not (self.mlp_dim(0) >= 1 and self.mlp_dim(STAGES - 1) <= LARGEST and self.dim(STAGES - 1) <= LARGEST):
            raise CheckpointError(f"{where}: embed_dim or mlp_ratio makes 0 or over {LARGEST} features")
        if not all(0 <= block < sum(self.depths) for block in self.global_attn_indexes):
            raise CheckpointError(f"{where}: global_attn_indexes name a block outside 0..{sum(self.depths) - 1}")
        if not isinstance(self.stable_mask, bool):
            raise CheckpointError(f"{where}: stable_mask must be true or false, not {self.stable_mask!r:.40}")
        if self.stable_mask and DECODER in self.parts:
            reason = "because otherwise all masks have a part in the answer"
            raise CheckpointError(
                f"{where}: parts: {DECODER} needs stable_mask false in an architecture file, {reason}"
            )
        self._check_sides(where)

    def _check_sides(self, where: str) -> None:
        if self.img_size % (shrink := STRIDE * 2 ** (STAGES - 1)):
            raise CheckpointError(f"{where}: img_size {self.img_size} is no multiple of {shrink}")
        if self.pos_embed_size > self.side(0):
            raise CheckpointError(f"{where}: pos_embed_size {self.pos_embed_size} is more than {self.side(0)} tokens")
        for stage, window in enumerate(self.window_sizes):
            if window > (side := self.side(stage)):
                raise CheckpointError(f"{where}: window_sizes {window} is more than the stage's {side} tokens")
        if self.side(0) % self.window_sizes[0]:
            raise CheckpointError(f"{where}: window_sizes {self.window_sizes[0]} does not divide {self.side(0)} tokens")
        if any(place.pools and place.window % 2 for place in self.places):
            raise CheckpointError(f"{where}: window_sizes must be even where a stage follows, because it halves them")

    def dim(self, stage: int) -> int:
        """Return the width of the residual stream in a stage."""
        return self.embed_dim * int(2**stage)

    def mlp_dim(self, stage: int) -> int:
        """Return the hidden features of a dense block's MLP."""
        return int(self.dim(stage) * self.mlp_ratio)

    def side(self, stage: int) -> int:
        """Return the tokens along one side of the image in a stage."""
        return self.img_size // (STRIDE * int(2**stage))

    @property
    def grid(self) -> int:
        """Return the side of the image embedding, which has the third stage's tokens."""
        return self.side(STAGES - 2)

    @property
    def embedding_chans(self) -> int:
        """Return the features of the embedding and of two finer maps folded to its side."""
        return 4 * self.out_chans

    @cached_property
    def places(self) -> tuple[BlockPlace, ...]:
        """Return where the blocks are, in the order of the forward pass."""
        starts = tuple(accumulate(self.depths, initial=0))
        places = []
        for stage, depth in enumerate(self.depths):
            for number in range(starts[stage], starts[stage] + depth):
                before = stage - 1 if stage and number == starts[stage] else stage
                places.append(
                    BlockPlace(
                        number,
                        dim=self.dim(before),
                        out=self.dim(stage),
                        side=self.side(before),
                        num_heads=self.num_heads * 2**stage,
                        window=0 if number in self.global_attn_indexes else self.window_sizes[before],
                        hidden=self.mlp_dim(stage),
                    )
                )
        return tuple(places)

    @cached_property
    def encoder_blocks(self) -> tuple[Block, ...]:
        """Return the blocks of all stages."""
        return tuple(place.block for place in self.places)

    @cached_property
    def encoder_sites(self) -> tuple[Site, ...]:
        """Return the blocks as a whole if they are a part, the attentions of all blocks, then their MLPs."""
        return sites_of(self.places, (WHOLE_BLOCKS, *self.encoder_families), BLOCKS in self.parts)

    @property
    def encoder_neck(self) -> Mapping[str, int]:
        """Return the convolution behind the last block of each stage."""
        ends = accumulate(self.depths)
        # SAM 2 lists the coarsest stage first
        return {f"{NECK}.convs.{STAGES - 1 - stage}.conv": end - 1 for stage, end in enumerate(ends)}

    @property
    def encoder_trunks(self) -> tuple[tuple[str, ...], ...]:
        """Return the chain of all blocks, and that of the neck, which takes the ends of all stages."""
        return (*super().encoder_trunks, (NECK,))

    @cached_property
    def encoder_fixed(self) -> Cost:
        """Return the cost of patch embedding, neck, finer maps and all else that stays (9.15, 9.16)."""
        dim, out, area = self.embed_dim, self.out_chans, self.side(0) ** 2
        kernel = 3 * 7**2 * dim
        params = kernel + dim * (1 + self.pos_embed_size**2 + self.window_sizes[0] ** 2)
        run = 2 * area * kernel
        # 1 × 1 convolutions of the neck and of both finer maps
        maps = [(self.dim(stage), out, self.side(stage) ** 2) for stage in range(STAGES)]
        maps += [(out, out // 8, area), (out, out // 4, self.side(1) ** 2)]
        params += out + sum((inputs + 1) * outputs for inputs, outputs, _ in maps)
        cost = Cost(params, run + 2 * sum(inputs * outputs * places for inputs, outputs, places in maps), run)
        held = {site.block for site in self.encoder_sites if site.family == WHOLE_BLOCKS}
        return sum((place.rest for place in self.places if place.number not in held), start=cost)

    @property
    def decoder_places(self) -> DecoderPlaces:
        """Return where the mask decoder's blocks and sites are; the object and no point have a token more."""
        return dataclasses.replace(
            super().decoder_places,
            own_tokens=OWN_TOKENS + 1,
            box_tokens=BOX_TOKENS + 1,
            masks=MASK_TOKENS if self.stable_mask else 1,
        )

    @property
    def summary(self) -> str:
        """Return input, depths and width in a few words."""
        return f"{super().summary}, Hiera with depths {'-'.join(map(str, self.depths))} and width {self.embed_dim}"

    @property
    def activations(self) -> int:
        """Return roughly how many values one image leaves for a backward pass."""
        return sum(20 * depth * self.dim(stage) * self.side(stage) ** 2 for stage, depth in enumerate(self.depths))

    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> HieraEncoder:
        """Build the encoder with the widths of `spec`."""
        # imported here, so that a front can be read without torch
        from medcore.models.hiera.encoder import HieraEncoder

        return HieraEncoder(asdict(self), spec.whole_budget, attention)

    def build_others(self, spec: ModelSpec) -> tuple[HieraPromptEncoder, HieraMaskDecoder]:
        """Build SAM 2's prompt encoder and mask decoder, with the widths of `spec`."""
        from medcore.models.hiera.decoder import HieraMaskDecoder, HieraPromptEncoder
        from medcore.models.sam import prompt_shape

        return HieraPromptEncoder(**prompt_shape(self)), HieraMaskDecoder(self, spec.whole_budget)
