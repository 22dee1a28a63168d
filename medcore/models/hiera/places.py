"""What can be pruned in Hiera's blocks, as sites, and what it costs (method §2, §9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medcore.models.sites import Block, Cost, Family, LinearOutput, Site, TensorSlice, Watch
from medcore.models.vit.families import CHANNELS, HEADS, WHOLE_BLOCKS


@dataclass(frozen=True)
class BlockPlace:
    """A block.

    Attributes:
        number: its number, in the order of the forward pass.
        dim: width of the stream at its input.
        out: width of the stream that it returns, twice as much at the beginning of a stage.
        side: tokens along one side of the image at its input.
        num_heads: of the dense block's attention.
        window: side of a window in tokens; 0 for the whole image.
        hidden: width of the dense block's MLP.
    """

    number: int
    dim: int
    out: int
    side: int
    num_heads: int
    window: int
    hidden: int

    @property
    def path(self) -> str:
        """Return the path of its module in the model."""
        return f"image_encoder.trunk.blocks.{self.number}"

    @property
    def pools(self) -> bool:
        """Return whether it halves the sides and doubles the width."""
        return self.out != self.dim

    @property
    def after(self) -> int:
        """Return the tokens along one side of the image at its output."""
        return self.side // 2 if self.pools else self.side

    @property
    def block(self) -> Block:
        """Return how budgets see it."""
        is_global = self.window in (0, self.side)
        return Block(self.path, is_global, "whole image" if is_global else f"windows of {self.window}")

    @property
    def rest(self) -> Cost:
        """Return the cost of what no other site holds: norms, output biases, the stream's own map (9.16)."""
        params, macs = 2 * self.dim + 4 * self.out, 0
        if self.pools:
            params += (self.dim + 1) * self.out
            macs = self.side**2 * self.dim * self.out
        return Cost(params, 2 * macs, 2 * macs)

    def sites(self, whole: bool) -> Iterator[Site]:
        """Return its attention, its MLP, and the block as one group.

        Args:
            whole: whether the block can go as a whole. One that begins a stage cannot.
        """
        within = None
        if whole and not self.pools:
            site = self._whole()
            within = site.name
            yield site
        yield self._heads(within)
        yield self._channels(within)

    def _whole(self) -> Site:
        """Return all of the block, of which nothing is left without it, not even biases."""
        inside = [f"{layer}.{each}" for layer in ("norm1", "attn.qkv", "norm2", "mlp.layers.0") for each in _LINEAR]
        outputs = [f"{layer}.{each}" for layer in ("attn.proj", "mlp.layers.1") for each in _LINEAR]
        tensors = (
            *(TensorSlice(f"{self.path}.{name}", axis=None) for name in inside),
            *(TensorSlice(f"{self.path}.{name}", axis=None, output=True) for name in outputs),
        )
        return Site(WHOLE_BLOCKS, self.number, 1, tensors, Watch(self.path, "change"), self.rest)

    def _heads(self, within: str | None) -> Site:
        """Return the attention: rows of Q, K and V, columns of proj (9.14).

        A head is as wide at the beginning of a stage as elsewhere, because both widths double together. Its queries
        are pooled there, so that scores, values and proj have a quarter of the places.
        """
        path, width = f"{self.path}.attn", self.out // self.num_heads
        tensors = (
            TensorSlice(f"{path}.qkv.weight", axis=0, outer=3, inner=width),
            TensorSlice(f"{path}.qkv.bias", axis=0, outer=3, inner=width),
            TensorSlice(f"{path}.proj.weight", axis=1, inner=width, output=True),
        )
        area = self.window or self.side
        padded = -(-self.side // area) * area
        answers = 4 if self.pools else 1

        def flops(side: int) -> int:
            """Return q, k and v of all tokens, and q·k, weights·v and proj of those that answer."""
            return 2 * width * side**2 * (3 * self.dim * answers + 2 * area**2 + self.out) // answers

        cost = Cost((3 * self.dim + 3 + self.out) * width, flops(padded), flops(self.side))
        output = LinearOutput(f"{path}.proj", f"{self.path}.shortcut", inner=width, always=True)
        watch = Watch(f"{path}.proj", inner=width)
        return Site(HEADS, self.number, self.num_heads, tensors, watch, cost, within=within, output=output)

    def _channels(self, within: str | None) -> Site:
        """Return the MLP: rows of its first layer, columns of its second (9.2)."""
        path = f"{self.path}.mlp.layers"
        tensors = (
            TensorSlice(f"{path}.0.weight", axis=0),
            TensorSlice(f"{path}.0.bias", axis=0),
            TensorSlice(f"{path}.1.weight", axis=1, output=True),
        )
        flops = 4 * self.after**2 * self.out
        cost = Cost(2 * self.out + 1, flops, flops)
        output = LinearOutput(f"{path}.1", f"{self.path}.norm2", always=True)
        return Site(CHANNELS, self.number, self.hidden, tensors, Watch(f"{path}.1"), cost, within=within, output=output)


_LINEAR = ("weight", "bias")


def sites_of(places: Iterable[BlockPlace], families: Iterable[Family], whole: bool) -> tuple[Site, ...]:
    """Return the sites of all blocks, family by family; `whole` as for `BlockPlace.sites`."""
    found = [site for place in places for site in place.sites(whole)]
    return tuple(site for family in families for site in found if site.family == family)
