"""The structure of a model: the dense architecture and the groups that each site keeps.

A pruned checkpoint is a `ModelSpec` (JSON) and a state dictionary; nothing else is needed to rebuild it. The registry
of kinds of architecture is in `medcore.models.architectures`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from medcore.errors import CheckpointError
from medcore.models.decoder.places import FAMILIES as DECODER_FAMILIES
from medcore.models.decoder.places import DecoderPlaces
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.fields import LONGEST_TEXT, check_fields, check_image
from medcore.models.sites import Block, Cost, Family, Site, by_family, check_sites, from_families

if TYPE_CHECKING:
    from torch import nn

    from medcore.data.frames.frame import Frame
    from medcore.models.vit.encoder import AttentionMode


#: Parts of a model whose groups can be pruned: whole blocks of the encoder, what is in them, and the mask decoder.
BLOCKS, ENCODER, DECODER = "blocks", "encoder", "decoder"
PARTS = (BLOCKS, ENCODER, DECODER)


class Architecture(ABC):
    """A dense model: its shape, and what can be pruned.

    Prompt encoder and mask decoder are segment-anything's, unless `build_others` builds others. Subclasses are frozen
    dataclasses that have at least the fields below. A new encoder is one file with its modules and such a class, and an
    entry in the registry of kinds.

    Attributes:
        kind: key in the registry of kinds, written into files.
        encoder_families: families of the encoder's sites, coarse groups before fine ones.
        whole_blocks: the family of whole blocks, for an encoder that has them as groups only if `BLOCKS` is a part.
        unused: names of tensors, or how they begin, that published files hold in addition to the model's, and that
            change none of its outputs.
        name: name of this size, such as "vit_b".
        img_size: side of the model's square in pixels.
        out_chans: width of the image embedding.
        decoder: shape of the mask decoder.
        parts: what can be pruned, some of `PARTS` in this order; `BLOCKS` only with `ENCODER`. The sites of the others
            are none of the model's, and their cost is fixed.
        pixel_mean: three numbers, subtracted from the colours of an image in [0, 1].
        pixel_std: three numbers, by which the result is divided.
    """

    kind: ClassVar[str]
    encoder_families: ClassVar[tuple[Family, ...]]
    whole_blocks: ClassVar[Family | None] = None
    unused: ClassVar[tuple[str, ...]] = ()

    name: str
    img_size: int
    out_chans: int
    decoder: DecoderSpec
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    parts: tuple[str, ...] = (ENCODER,)

    def __post_init__(self) -> None:
        where = f"architecture {self.name!s:.{LONGEST_TEXT}}" if str(self.name).isprintable() else "architecture"
        check_fields(self, where)
        # segment_anything's decoder ends at an eighth of this width and halves it in its cross-attention
        if self.out_chans % 8 or self.out_chans % (2 * self.decoder.num_heads):
            raise CheckpointError(
                f"{where}: out_chans {self.out_chans} is no multiple of 8 and of twice the decoder's num_heads, "
                f"{2 * self.decoder.num_heads}"
            )
        if not self.parts or self.parts != tuple(part for part in PARTS if part in self.parts):
            raise CheckpointError(
                f"{where}: parts must be some of {', '.join(PARTS)} in this order, not {list(self.parts)!r:.60}"
            )
        if BLOCKS in self.parts and (ENCODER not in self.parts or self.whole_blocks is None):
            reason = f"need {ENCODER}" if self.whole_blocks else f"are none of kind {self.kind}"
            raise CheckpointError(f"{where}: parts: {BLOCKS} {reason}")
        check_image(self.img_size, self.pixel_mean, self.pixel_std, where)

    @property
    def frame(self) -> Frame:
        """Return how images come into the model's square."""
        # imported here, so that a front can be read without torch
        from medcore.data.frames.frame import Frame

        return Frame(self.img_size)

    @property
    @abstractmethod
    def grid(self) -> int:
        """Return the side of the image embedding."""

    @property
    @abstractmethod
    def encoder_blocks(self) -> tuple[Block, ...]:
        """Return the blocks of the encoder, in the order of the forward pass."""

    @property
    @abstractmethod
    def encoder_sites(self) -> tuple[Site, ...]:
        """Return all sites of the encoder, by family in the order of `encoder_families`, by block within a family."""

    @property
    def encoder_trunks(self) -> tuple[tuple[str, ...], ...]:
        """Return chains of modules that the encoder's residual stream passes one after another (method §11).

        In a chain each takes what the one before it returns. Together they hold all sites that have a linear output.
        """
        refit = {site.block for site in self.encoder_sites if site.output is not None}
        return (tuple(block.path for number, block in enumerate(self.encoder_blocks) if number in refit),)

    @property
    def encoder_neck(self) -> Mapping[str, int]:
        """Return layers that no groups feed, but a refit solves for (method §11): path -> block before it, in order."""
        return {}

    @property
    @abstractmethod
    def encoder_fixed(self) -> Cost:
        """Return the cost of what no pruning removes from the encoder."""

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Return the families of the sites, those of the encoder first."""
        own = self.encoder_families if ENCODER in self.parts else ()
        if self.whole_blocks is not None and BLOCKS in self.parts:
            own = (self.whole_blocks, *own)
        return (*own, *(DECODER_FAMILIES if DECODER in self.parts else ()))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Return the L blocks of what can be pruned, in the order of the forward pass."""
        own = self.encoder_blocks if ENCODER in self.parts else ()
        return (*own, *(self.decoder_places.blocks if DECODER in self.parts else ()))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Return all sites, by family in the order of `families`, by block within a family."""
        own = self.encoder_sites if ENCODER in self.parts else ()
        return (*own, *(self.decoder_places.sites if DECODER in self.parts else ()))

    @property
    def trunks(self) -> tuple[tuple[str, ...], ...]:
        """Return chains of modules, in the order of the forward pass; each takes what the one before it returns."""
        own = self.encoder_trunks if ENCODER in self.parts else ()
        return (*own, *((self.decoder_places.trunk,) if DECODER in self.parts else ()))

    @cached_property
    def fixed(self) -> Cost:
        """Return the cost of what no pruning removes."""
        encoder, decoder = self.encoder_fixed, self.decoder_places.fixed
        if ENCODER not in self.parts:
            encoder = sum((site.cost * site.width for site in self.encoder_sites), start=encoder)
        return encoder + (decoder if DECODER in self.parts else self.decoder_places.dense)

    @property
    def decoder_places(self) -> DecoderPlaces:
        """Return where the mask decoder's blocks and sites are."""
        first = len(self.encoder_blocks) if ENCODER in self.parts else 0
        return DecoderPlaces(self.decoder, self.out_chans, self.grid, first)

    @abstractmethod
    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> nn.Module:
        """Build the image encoder with the widths of `spec`: images (B, 3, S, S) -> (B, embedding_chans, g, g).

        Args:
            spec: the widths.
            attention: how attention is computed.
        """

    @property
    def embedding_chans(self) -> int:
        """Return the features that the encoder returns at each place; `out_chans` of them are the embedding's."""
        return self.out_chans

    def build_others(self, spec: ModelSpec) -> tuple[nn.Module, nn.Module] | None:
        """Build prompt encoder and mask decoder with the widths of `spec`; None for segment-anything's."""
        return None

    @property
    def summary(self) -> str:
        """Return the dense model in a few words for model cards."""
        return f"Input {self.img_size}×{self.img_size} pixels"

    @property
    def activations(self) -> int:
        """Return roughly how many values an image leaves for a backward pass."""
        return 20 * len(self.blocks) * self.grid**2 * self.out_chans

    @property
    def low_res(self) -> int:
        """Return the side of the decoder's low-resolution logits in pixels."""
        return 4 * self.grid

    @cached_property
    def dense_widths(self) -> tuple[int, ...]:
        """Return the groups of every site of the dense model."""
        return tuple(site.width for site in self.sites)

    def family(self, name: str) -> Family:
        """Return the family of this name.

        Raises:
            KeyError: the architecture has none.
        """
        return {family.name: family for family in self.families}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain fields, with `kind` and `parts` unless they are the default ones."""
        fields = dataclasses.asdict(typing.cast(Any, self))
        if self.parts == (ENCODER,):
            fields.pop("parts", None)
        return fields if self.kind == DEFAULT_KIND else {"kind": self.kind, **fields}


#: The kind that architecture files without `kind` describe.
DEFAULT_KIND = "sam_vit"


@dataclass(frozen=True)
class ModelSpec:
    """A model of unequal widths: the groups that each site keeps, zero allowed.

    A site within a group that is cut keeps nothing.

    Attributes:
        arch: the dense architecture.
        widths: one number a site, in the order of `arch.sites`.

    Raises:
        MedcoreError: the number of widths is wrong, a width is negative or beyond the dense one, a family of the
            architecture has no site, its sites are out of order, or two families share a stage.
    """

    arch: Architecture
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        sites = self.arch.sites
        check_sites(self.arch.name, self.arch.families, sites)
        if len(self.widths) != len(sites):
            raise CheckpointError(f"spec: {len(self.widths)} widths for {len(sites)} sites")
        for site, width in zip(sites, self.widths, strict=True):
            if not 0 <= width <= site.width:
                raise CheckpointError(f"spec: the width of {site.name} must lie in 0..{site.width}, got {width}")
        kept, gone = list(self.widths), set()
        for index, site in enumerate(sites):
            # sites come after the site that holds them
            if site.within in gone:
                kept[index] = 0
            if not kept[index]:
                gone.add(site.name)
        object.__setattr__(self, "widths", tuple(kept))

    @classmethod
    def dense(cls, arch: Architecture) -> ModelSpec:
        """Return the widths of the unpruned model."""
        return cls(arch, arch.dense_widths)

    @classmethod
    def of(cls, arch: Architecture, budget: Mapping[str, Sequence[int]], where: str = "spec") -> ModelSpec:
        """Return the spec of a budget.

        Args:
            arch: the dense architecture.
            budget: family name -> one width a site of that family.
            where: place of the budget, for messages.

        Raises:
            MedcoreError: a family is missing, or has more or fewer widths than sites.
        """
        for family in arch.families:
            if family.name not in budget:
                raise CheckpointError(f"{where}: field '{family.name}' is missing")
            sites = sum(site.family == family for site in arch.sites)
            if len(budget[family.name]) != sites:
                raise CheckpointError(f"{where}: {len(budget[family.name])} {family.name} counts for {sites} sites")
        try:
            return cls(arch, tuple(from_families(arch.sites, budget)))
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {str(error).removeprefix('spec: ')}") from None

    def with_parts(self, parts: Sequence[str], where: str = "spec") -> ModelSpec:
        """Return the same widths where other parts of the model can be pruned.

        Args:
            parts: as `Architecture.parts`.
            where: place of the spec, for messages.

        Raises:
            CheckpointError: the architecture has no such parts, or a part that was cut is not among them.
        """
        if tuple(parts) == self.arch.parts:
            return self
        try:
            arch: Architecture = dataclasses.replace(typing.cast(Any, self.arch), parts=tuple(parts))
        except TypeError:
            raise CheckpointError(f"{where}: models of kind {self.arch.kind} have the part {ENCODER} only") from None
        whole, dense = ModelSpec.dense(arch).budget, ModelSpec.dense(self.arch).budget
        mine = {name: widths for name, widths in self.whole_budget.items() if name in whole}
        if cut := [name for name, widths in self.budget.items() if name not in mine and widths != dense[name]]:
            parts = " and ".join(self.arch.parts)
            raise CheckpointError(f"{where}: the model has lost {' and '.join(cut)}, so parts must hold {parts}")
        return ModelSpec.of(arch, whole | mine, where)

    @property
    def is_dense(self) -> bool:
        """Return whether no group is gone."""
        return self.widths == self.arch.dense_widths

    @property
    def budget(self) -> dict[str, list[int]]:
        """Return the widths by family, as files and rows hold them."""
        return by_family(self.arch.sites, self.widths)

    @property
    def whole_budget(self) -> dict[str, list[int]]:
        """Return the widths by family, also those of a part that cannot be pruned and so is dense."""
        sites = (*self.arch.encoder_sites, *self.arch.decoder_places.sites)
        return by_family(sites, [site.width for site in sites]) | self.budget

    def family(self, name: str) -> tuple[int, ...]:
        """Return the widths of one family's sites.

        Raises:
            KeyError: the architecture has no such family.
        """
        return tuple(self.budget[name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain fields: `arch`, and one list of widths a family of what can be pruned and of the encoder."""
        return {"arch": self.arch.to_dict(), **(self.budget if ENCODER in self.arch.parts else self.whole_budget)}

    def to_json(self) -> str:
        """Return `to_dict` as one line."""
        return json.dumps(self.to_dict())
