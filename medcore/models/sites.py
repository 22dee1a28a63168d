"""What can be pruned, as data: families of groups, and the sites where they lie (method §2).

A group is the smallest thing that pruning removes, such as one attention head. A site is one place of the model with
groups of one kind, such as the attention of block 3. A family is one kind of group, across all sites. Counting,
cutting, scoring, pricing and drawing are loops over sites, so that a new encoder needs no code but its own.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy.typing as npt

from medcore.errors import CheckpointError

Array = npt.NDArray[Any]

#: One array a site, in the order of `Architecture.sites`: scores, keep masks, sums, orders.
PerSite = tuple[Array, ...]


@dataclass(frozen=True)
class Family:
    """One kind of prunable group.

    Attributes:
        name: key in files, rows and settings.
        title: name for pictures and tables, in the plural.
        singular: name for messages and axes.
        stage: name of the phase that cuts the family.
        lean: direction in which the search's `lean` moves the family's preference: 1, -1 or 0.
        offset: added to the family's preference in the search, in powers of two.
        least_count: groups that MedCore's rule leaves at every site.
        least_share: share of the groups that MedCore's rule leaves at every site.
        sparsity: share that MedCore's rule removes by default. If the rule meets a cost target, the ratios between
            the families are those of their defaults.
        rounded: whether a budget's width rounding applies, because odd widths of this family cost time.
        elective: whether uniform budgets and the rule leave the family whole unless they name it.
    """

    name: str
    title: str
    singular: str
    stage: str
    lean: int = 0
    offset: float = 0.0
    least_count: int = 0
    least_share: float = 0.0
    sparsity: float = 0.0
    rounded: bool = False
    elective: bool = False

    @property
    def recovery(self) -> str:
        """Return the name of the phase that trains the model after the family was cut."""
        return f"{self.stage}_recovery"


@dataclass(frozen=True)
class TensorSlice:
    """The share of a tensor that goes with the groups of a site.

    The axis has outer × width × inner entries, and entry (o, g, i) belongs to group g. Fused projections [Q|K|V] have
    outer 3, and [q|k|v] per head have inner 3·d.

    Attributes:
        name: name of the tensor in the model's state dictionary.
        axis: axis along which the groups lie. None: the whole tensor belongs to the site's only group.
        outer: how often the sequence of groups is repeated along the axis.
        inner: adjacent entries of one group.
        output: whether the slice carries what the group adds to the model, so that zeros in it silence the group.
    """

    name: str
    axis: int | None
    outer: int = 1
    inner: int = 1
    output: bool = False


@dataclass(frozen=True)
class Watch:
    """The place where the outputs of a site's groups can be observed.

    Attributes:
        module: path of a module in the model.
        kind: "input": the groups are the module's input features. "change": the site has one group, and its output is
            the difference between the module's output and what is left of it without the group. "output": the site
            has one group, and its output is the module's.
        axis: axis of the features in that tensor.
        inner: features of one group.
        rest: path of the module that takes the same input where the group is gone. None: the input stays as it is.
    """

    module: str
    kind: Literal["input", "change", "output"] = "input"
    axis: int = -1
    inner: int = 1
    rest: str | None = None


@dataclass(frozen=True)
class LinearOutput:
    """The linear layer by which the groups of a site add to the residual stream (method §11).

    The stream after the site is the stream before it plus the layer's output.

    Attributes:
        module: path of the layer, whose last input features are the groups' outputs: a `torch.nn.Linear`, or a module
            with `linear_map` and `set_linear_map`.
        stream: path of the module whose input is the stream to which the layer's output is added. None: the layer's
            output is the stream after the site.
        inner: adjacent input features of one group.
        always: whether both modules run also without groups. If not, the layer's bias alone is added.
    """

    module: str
    stream: str | None
    inner: int = 1
    always: bool = False


@dataclass(frozen=True)
class Cost:
    """Cost of the image encoder on one image and of the mask decoder on one box, or of a part of them (method §9).

    One multiply-add is two FLOPs.

    Attributes:
        encoder_params: number of parameters of the encoder.
        flops: what runs, as `torch.utils.flop_counter` counts it: padded windows, relative-position products and
            neck included.
        flops_paper: patch embedding, qkv, attention products over unpadded windows, proj and MLP only.
        decoder_params: number of parameters of the mask decoder.
        decoder_flops: what of the mask decoder runs for one box and one mask.
    """

    encoder_params: int
    flops: int
    flops_paper: int
    decoder_params: int = 0
    decoder_flops: int = 0

    @property
    def call_flops(self) -> int:
        """Return the FLOPs of a whole call: one image and one box."""
        return self.flops_for(1)

    def flops_for(self, boxes: int) -> int:
        """Return the FLOPs of one image with so many boxes."""
        return self.flops + boxes * self.decoder_flops

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, count: int) -> Cost:
        return Cost(*(count * figure for figure in astuple(self)))


@dataclass(frozen=True)
class Site:
    """One place of a model with groups of one family.

    Attributes:
        family: kind of its groups.
        block: number of the block that it belongs to, in `Architecture.blocks`.
        width: groups of the dense model.
        tensors: what goes with its groups, in the order in which sums over them are added. If none of them carries
            the output, `watch` names the module to bypass if the group is cut.
        watch: where the outputs of its groups can be observed.
        cost: cost of one group.
        suffix: tells two sites of one family in one block apart.
        within: name of a site of width 1 whose group holds this whole site. If that group is cut, so is this site.
        output: the linear layer that follows its groups; None if there is none, so that the site cannot be refit.
    """

    family: Family
    block: int
    width: int
    tensors: tuple[TensorSlice, ...]
    watch: Watch
    cost: Cost
    suffix: str = ""
    within: str | None = None
    output: LinearOutput | None = None

    @property
    def is_bypassed(self) -> bool:
        """Return whether the site's group is silenced by passing its module by, as no zeros in tensors can do it.

        Such a site has one group, whose output is what its module changes.
        """
        return not any(part.output for part in self.tensors)

    @property
    def name(self) -> str:
        """Return the name in files, and of the site's dimension in the search space."""
        return f"{self.family.name}/{self.block:02d}{self.suffix}"


@dataclass(frozen=True)
class Block:
    """A part of the model that budgets protect as a whole.

    Sensitivity is measured per block, too.

    Attributes:
        path: path of its module in the model.
        attends_globally: whether its attention sees the whole image; False where it has none.
        area: what it looks at, in words for model cards.
    """

    path: str
    attends_globally: bool = False
    area: str = "–"


def by_family(sites: Sequence[Site], values: Sequence[Any]) -> dict[str, list[Any]]:
    """Sort one value a site by family, for files and rows.

    Families and sites keep their order.
    """
    sorted_values: dict[str, list[Any]] = {}
    for site, value in zip(sites, values, strict=True):
        sorted_values.setdefault(site.family.name, []).append(value)
    return sorted_values


def from_families(sites: Sequence[Site], values: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Undo `by_family`.

    Raises:
        KeyError: a family is missing.
        ValueError: a family has more or fewer values than sites.
    """
    queues = {name: list(values[name]) for name in {site.family.name for site in sites}}
    try:
        ordered = [queues[site.family.name].pop(0) for site in sites]
    except IndexError:
        raise ValueError("a family has fewer values than sites") from None
    if any(queues.values()):
        raise ValueError("a family has more values than sites")
    return ordered


def check_sites(name: str, families: Sequence[Family], sites: Sequence[Site]) -> None:
    """Check that an architecture lists its sites family by family, then by block.

    Args:
        name: of the architecture, for messages.
        families: its families in order.
        sites: its sites in order.

    Raises:
        CheckpointError: a family has no site or no stage of its own, or a site is in the wrong place.
    """
    order = {family.name: place for place, family in enumerate(families)}
    named = {site.family.name for site in sites}
    if idle := order.keys() - named:
        raise CheckpointError(f"architecture {name}: {', '.join(sorted(idle))} has no site")
    if unlisted := named - order.keys():
        raise CheckpointError(f"architecture {name}: list {', '.join(sorted(unlisted))} in its families")
    if len({family.stage for family in families}) < len(families):
        raise CheckpointError(f"architecture {name}: give each family a name and a stage of its own")
    places = [(order[site.family.name], site.block) for site in sites]
    if places != sorted(places):
        raise CheckpointError(f"architecture {name}: list the sites family by family, then by block")
