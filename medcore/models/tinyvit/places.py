"""What can be pruned in TinyViT's blocks and merges, as sites, and what it costs (method §2, §9)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from medcore.models.sites import Block, Cost, Family, LinearOutput, Site, TensorSlice, Watch
from medcore.models.vit.families import CHANNELS, HEADS, WHOLE_BLOCKS

INTERIORS = Family("interiors", "Block interiors", "interior", stage="interiors", offset=2.0, elective=True)
MBCONV = Family(
    "mbconv", "MBConv channels", "MBConv channel", stage="mbconv", least_share=0.05, sparsity=0.5, rounded=True
)
MERGES = Family(
    "merges", "Merge channels", "merge channel", stage="merges", least_share=0.25, sparsity=0.3, rounded=True
)

_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Place(ABC):
    """A block or a merge.

    Attributes:
        number: its number among them, in the order of the forward pass.
        path: path of its module in the model.
        dim: width of the stream that it returns.
        side: tokens along one side of the image at its input.
    """

    number: int
    path: str
    dim: int
    side: int

    @property
    @abstractmethod
    def block(self) -> Block:
        """Return how budgets see it."""

    @property
    def after(self) -> int:
        """Return the tokens along one side of the image at its output."""
        return self.side

    @abstractmethod
    def sites(self) -> Iterable[Site]:
        """Return what can be pruned in it."""

    def named(self, family: Family) -> str:
        """Return the name of the site of a family in this place."""
        return f"{family.name}/{self.number:02d}"

    def whole(
        self,
        family: Family,
        parts: Iterable[str],
        outputs: Iterable[str],
        cost: Cost,
        within: str | None,
        rest: str | None = None,
    ) -> Site:
        """Return a site whose only group is all of some tensors.

        Args:
            family: of the site.
            parts: names of tensors within the place.
            outputs: those that carry what the group adds to the stream.
            cost: of what no other site holds.
            within: name of the site that holds this one.
            rest: name of the module within the place that alone is left without the group.
        """
        tensors = (
            *(TensorSlice(f"{self.path}.{name}", axis=None) for name in parts),
            *(TensorSlice(f"{self.path}.{name}", axis=None, output=True) for name in outputs),
        )
        watch = Watch(self.path, "change", rest=rest and f"{self.path}.{rest}")
        return Site(family, self.number, 1, tensors, watch, cost, within=within)


def _conv_norm(name: str) -> list[str]:
    """Return the tensors of a convolution with its normalisation."""
    return [f"{name}.c.weight", *(f"{name}.bn.{each}" for each in (*_NORM, "num_batches_tracked"))]


@dataclass(frozen=True)
class BlockPlace(Place):
    """A block with attention and MLP.

    Attributes:
        heads: attention heads of the dense block.
        window: side of a window in tokens.
        hidden: channels of the dense block's MLP.
    """

    heads: int
    window: int
    hidden: int

    inside: ClassVar[tuple[str, ...]] = (
        *(f"attn.norm.{each}" for each in ("weight", "bias")),
        *(f"attn.qkv.{each}" for each in ("weight", "bias")),
        "attn.attention_biases",
        *(f"mlp.norm.{each}" for each in ("weight", "bias")),
        *(f"mlp.fc1.{each}" for each in ("weight", "bias")),
    )
    outputs: ClassVar[tuple[str, ...]] = tuple(
        f"{layer}.{each}" for layer in ("attn.proj", "mlp.fc2") for each in ("weight", "bias")
    )

    @property
    def block(self) -> Block:
        """Return how budgets see it."""
        is_global = self.window >= self.side
        return Block(self.path, is_global, "whole image" if is_global else f"windows of {self.window}")

    def sites(self) -> Iterable[Site]:
        """Return the whole block, its attention and MLP as one group, its heads, and its channels."""
        local = 9 * self.dim
        # the convolution between attention and MLP (9.7); it is not added to the stream, so no zeros silence the block
        block = Cost(local + 2 * self.dim, *[2 * self.side**2 * local] * 2)
        everything = (*self.inside, *self.outputs, *_conv_norm("local_conv"))
        yield self.whole(WHOLE_BLOCKS, everything, (), block, within=None)
        # two normalisations and the output biases of proj and fc2
        interior = Cost(6 * self.dim, 0, 0)
        yield self.whole(INTERIORS, self.inside, self.outputs, interior, self.named(WHOLE_BLOCKS), rest="local_conv")
        yield self._heads()
        yield self._channels()

    def _heads(self) -> Site:
        """Return the attention: rows of qkv head by head, rows of the biases, columns of proj (9.5)."""
        path, width = f"{self.path}.attn", self.dim // self.heads
        tensors = (
            TensorSlice(f"{path}.qkv.weight", axis=0, inner=3 * width),
            TensorSlice(f"{path}.qkv.bias", axis=0, inner=3 * width),
            TensorSlice(f"{path}.attention_biases", axis=0),
            TensorSlice(f"{path}.proj.weight", axis=1, inner=width, output=True),
        )
        # q, k, v and proj; q·k and weights·v
        each = 2 * width * (4 * self.dim + 2 * self.window**2)
        padded = -(-self.side // self.window) * self.window
        params = 4 * self.dim * width + 3 * width + self.window**2
        return Site(
            HEADS,
            self.number,
            self.heads,
            tensors,
            watch=Watch(f"{path}.proj", inner=width),
            cost=Cost(params, each * padded**2, each * self.side**2),
            within=self.named(INTERIORS),
            output=LinearOutput(f"{path}.proj", f"{path}.norm", inner=width, always=True),
        )

    def _channels(self) -> Site:
        """Return the MLP: rows of fc1, columns of fc2 (9.2)."""
        path = f"{self.path}.mlp"
        tensors = (
            TensorSlice(f"{path}.fc1.weight", axis=0),
            TensorSlice(f"{path}.fc1.bias", axis=0),
            TensorSlice(f"{path}.fc2.weight", axis=1, output=True),
        )
        flops = 4 * self.side**2 * self.dim
        return Site(
            CHANNELS,
            self.number,
            self.hidden,
            tensors,
            watch=Watch(f"{path}.fc2"),
            cost=Cost(2 * self.dim + 1, flops, flops),
            within=self.named(INTERIORS),
            output=LinearOutput(f"{path}.fc2", f"{path}.norm", always=True),
        )


@dataclass(frozen=True)
class MBConvPlace(Place):
    """A block of convolutions.

    Attributes:
        hidden: channels between its convolutions in the dense model.
    """

    hidden: int

    @property
    def block(self) -> Block:
        """Return how budgets see it."""
        return Block(self.path, area="3 × 3 tokens")

    def sites(self) -> Iterable[Site]:
        """Return the whole block and its hidden channels."""
        everything = [name for conv in ("conv1", "conv2", "conv3") for name in _conv_norm(conv)]
        yield self.whole(WHOLE_BLOCKS, everything, (), Cost(2 * self.dim, 0, 0), within=None)
        output = LinearOutput(f"{self.path}.conv3", f"{self.path}.conv1", always=True)
        yield _expansion(self, MBCONV, self.hidden, self.dim, output, within=self.named(WHOLE_BLOCKS))


@dataclass(frozen=True)
class MergePlace(Place):
    """The end of a stage.

    Attributes:
        before: width of the stream at its input.
        stride: how many times smaller the side becomes.
    """

    before: int
    stride: int

    @property
    def after(self) -> int:
        """Return the tokens along one side of the image at its output."""
        return self.side // self.stride

    @property
    def block(self) -> Block:
        """Return how budgets see it."""
        return Block(self.path, area="3 × 3 tokens")

    def sites(self) -> Iterable[Site]:
        """Return the hidden channels, as many as the next stage is wide."""
        output = LinearOutput(f"{self.path}.conv3", None, always=True)
        yield _expansion(self, MERGES, self.dim, self.before, output, within=None)


def _expansion(place: Place, family: Family, width: int, inputs: int, output: LinearOutput, within: str | None) -> Site:
    """Return the channels between three convolutions: rows of the first, the second's, columns of the third (9.6)."""
    rows = [
        TensorSlice(f"{place.path}.{conv}.{name}", axis=0)
        for conv in ("conv1", "conv2")
        for name in ("c.weight", *(f"bn.{each}" for each in _NORM))
    ]
    columns = TensorSlice(f"{place.path}.conv3.c.weight", axis=1, output=True)
    flops = 2 * (place.side**2 * inputs + place.after**2 * (9 + place.dim))
    cost = Cost(inputs + place.dim + 13, flops, flops)
    watch = Watch(f"{place.path}.conv3")
    return Site(family, place.number, width, (*rows, columns), watch, cost, within=within, output=output)


def sites_of(places: Iterable[Place], families: Iterable[Family]) -> tuple[Site, ...]:
    """Return the sites of all places, family by family."""
    found = [site for place in places for site in place.sites()]
    return tuple(site for family in families for site in found if site.family == family)
