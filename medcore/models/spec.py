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
from medcore.models.fields import LARGEST_SIDE, LEAST_STD, LONGEST_TEXT, check_fields
from medcore.models.sites import Block, Cost, Family, Site, by_family, from_families

if TYPE_CHECKING:
    from torch import nn

    from medcore.data.frames.frame import Frame
    from medcore.models.encoder import AttentionMode


@dataclass(frozen=True)
class DecoderSpec:
    """Shape of segment-anything's mask decoder.

    Attributes:
        depth: layers of the two-way transformer.
        mlp_dim: hidden width of its MLPs.
        num_heads: heads of its attention.
        iou_head_depth: layers of the IoU head.
        iou_head_hidden_dim: hidden width of the IoU head.
    """

    depth: int = 2
    mlp_dim: int = 2048
    num_heads: int = 8
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    def __post_init__(self) -> None:
        check_fields(self, "decoder")


class Architecture(ABC):
    """A dense model: its shape, and what can be pruned.

    Prompt encoder and mask decoder are segment-anything's. Subclasses are frozen dataclasses that have at least the
    fields below. A new encoder is one file with its modules and such a class, and an entry in the registry of kinds.

    Attributes:
        kind: key in the registry of kinds, written into files.
        families: families of the sites, coarse groups before fine ones. A budget settles them in this order.
        unused: names of tensors that published files hold in addition to the model's, and that change none of its
            outputs.
        name: name of this size, such as "vit_b".
        img_size: side of the model's square in pixels.
        out_chans: width of the image embedding.
        decoder: shape of the mask decoder.
        pixel_mean: three numbers, subtracted from the colours of an image in [0, 1].
        pixel_std: three numbers, by which the result is divided.
    """

    kind: ClassVar[str]
    families: ClassVar[tuple[Family, ...]]
    unused: ClassVar[tuple[str, ...]] = ()

    name: str
    img_size: int
    out_chans: int
    decoder: DecoderSpec
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __post_init__(self) -> None:
        where = f"architecture {self.name!s:.{LONGEST_TEXT}}" if str(self.name).isprintable() else "architecture"
        check_fields(self, where)
        # segment_anything's decoder ends at an eighth of this width and halves it in its cross-attention
        if self.out_chans % 8 or self.out_chans % (2 * self.decoder.num_heads):
            raise CheckpointError(
                f"{where}: out_chans {self.out_chans} is no multiple of 8 and of twice the decoder's num_heads, "
                f"{2 * self.decoder.num_heads}"
            )
        if len(self.pixel_mean) != 3:
            raise CheckpointError(f"{where}: pixel_mean must hold three numbers, not {self.pixel_mean}")
        if len(self.pixel_std) != 3 or min(self.pixel_std) < LEAST_STD:
            raise CheckpointError(f"{where}: pixel_std must hold three numbers from {LEAST_STD}, not {self.pixel_std}")
        if self.img_size > LARGEST_SIDE:
            raise CheckpointError(f"{where}: img_size must be at most {LARGEST_SIDE}, got {self.img_size}")

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
    def blocks(self) -> tuple[Block, ...]:
        """Return the L blocks of the model, in the order of the forward pass."""

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Return all sites, family by family, by block within a family.

        Families have the order of `families`.
        """

    @property
    def trunk(self) -> tuple[str, ...]:
        """Return paths of modules that the residual stream passes one after another (method §11).

        Each takes what the one before it returns. Together they hold all sites that have a linear output.
        """
        refit = {site.block for site in self.sites if site.output is not None}
        return tuple(block.path for number, block in enumerate(self.blocks) if number in refit)

    @property
    @abstractmethod
    def fixed(self) -> Cost:
        """Return the cost of what no pruning removes."""

    @abstractmethod
    def build_encoder(self, spec: ModelSpec, attention: AttentionMode) -> nn.Module:
        """Build the image encoder with the widths of `spec`.

        It takes images (B, 3, S, S) and returns embeddings (B, out_chans, g, g).

        Args:
            spec: the widths.
            attention: how attention is computed.
        """

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
        """Return plain fields, with `kind` unless it is the default kind."""
        fields = dataclasses.asdict(typing.cast(Any, self))
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
        _check_sites(self.arch)
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

    @property
    def is_dense(self) -> bool:
        """Return whether no group is gone."""
        return self.widths == self.arch.dense_widths

    @property
    def budget(self) -> dict[str, list[int]]:
        """Return the widths by family, as files and rows hold them."""
        return by_family(self.arch.sites, self.widths)

    def family(self, name: str) -> tuple[int, ...]:
        """Return the widths of one family's sites.

        Raises:
            KeyError: the architecture has no such family.
        """
        return tuple(self.budget[name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain fields: `arch`, and one list of widths a family."""
        return {"arch": self.arch.to_dict(), **self.budget}

    def to_json(self) -> str:
        """Return `to_dict` as one line."""
        return json.dumps(self.to_dict())


def _check_sites(arch: Architecture) -> None:
    order = {family.name: place for place, family in enumerate(arch.families)}
    named = {site.family.name for site in arch.sites}
    if idle := order.keys() - named:
        raise CheckpointError(f"architecture {arch.name}: {', '.join(sorted(idle))} has no site")
    if unlisted := named - order.keys():
        raise CheckpointError(f"architecture {arch.name}: list {', '.join(sorted(unlisted))} in its families")
    if len({family.stage for family in arch.families}) < len(arch.families):
        raise CheckpointError(f"architecture {arch.name}: give each family a name and a stage of its own")
    places = [(order[site.family.name], site.block) for site in arch.sites]
    if places != sorted(places):
        raise CheckpointError(f"architecture {arch.name}: list the sites family by family, then by block")
