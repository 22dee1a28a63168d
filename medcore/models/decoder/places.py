"""What can be pruned in segment-anything's mask decoder, as sites, and what it costs (method §2, §9).

Costs are those of one box. A multiply-add is two FLOPs. segment-anything's decoder answers with mask 0, so that the
kernels of the other masks cost parameters only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from medcore.models.decoder.spec import BOX_TOKENS, KERNEL_DEPTH, MASK_TOKENS, OWN_TOKENS, DecoderSpec
from medcore.models.sites import Block, Cost, Family, LinearOutput, Site, TensorSlice, Watch

LAYERS = Family("decoder_layers", "Decoder layers", "decoder layer", stage="decoder_layers", offset=2.0, elective=True)
OUTPUTS = Family("decoder_outputs", "Decoder outputs", "decoder output", stage="decoder_outputs", elective=True)
SELF_HEADS = Family(
    "decoder_self_heads",
    "Decoder heads among tokens",
    "decoder head among tokens",
    stage="decoder_self_heads",
    least_count=1,
    sparsity=0.5,
)
TOKEN_HEADS = Family(
    "decoder_token_heads",
    "Decoder heads from tokens to image",
    "decoder head from tokens to image",
    stage="decoder_token_heads",
    least_count=1,
    sparsity=0.5,
)
CHANNELS = Family(
    "decoder_channels",
    "Decoder MLP channels",
    "decoder channel",
    stage="decoder_channels",
    least_share=0.05,
    sparsity=0.7,
    rounded=True,
)
IMAGE_HEADS = Family(
    "decoder_image_heads",
    "Decoder heads from image to tokens",
    "decoder head from image to tokens",
    stage="decoder_image_heads",
    least_count=1,
    sparsity=0.5,
)
HIDDEN = Family("decoder_hidden", "Hidden channels of outputs", "hidden channel", stage="decoder_hidden", elective=True)
#: Families that hold others come first.
FAMILIES = (LAYERS, OUTPUTS, SELF_HEADS, TOKEN_HEADS, CHANNELS, IMAGE_HEADS, HIDDEN)

_LINEAR = ("weight", "bias")
_DECODER = "mask_decoder"
_TRANSFORMER = f"{_DECODER}.transformer"
FINAL = f"{_TRANSFORMER}.final_attn_token_to_image"
#: Paths of the outputs: the kernel of each mask, and the predicted IoUs.
KERNELS = tuple(f"{_DECODER}.output_hypernetworks_mlps.{number}" for number in range(MASK_TOKENS))
IOUS = f"{_DECODER}.iou_prediction_head"
#: Outputs that go without changing a bit of mask 0: the kernels of the other masks, and the predicted IoUs.
FREE = {"masks": KERNELS[1:], "iou": (IOUS,)}


@dataclass(frozen=True)
class DecoderPlaces:
    """The blocks and sites of a decoder.

    Attributes:
        shape: shape of the decoder.
        dim: C, width of its streams.
        grid: g, side of the image embedding.
        first: number of its first block.
        own_tokens: tokens that it adds to those of the prompts.
        box_tokens: tokens of a box.
        masks: masks that it makes for one box.
    """

    shape: DecoderSpec
    dim: int
    grid: int
    first: int = 0
    own_tokens: int = OWN_TOKENS
    box_tokens: int = BOX_TOKENS
    masks: int = 1

    @property
    def tokens(self) -> int:
        """Return the tokens of one box."""
        return self.own_tokens + self.box_tokens

    @property
    def trunk(self) -> tuple[str, ...]:
        """Return the paths of the modules that tokens and image pass one after another."""
        return (*(self.layer(number) for number in range(self.shape.depth)), FINAL)

    def layer(self, number: int) -> str:
        """Return the path of a layer."""
        return f"{_TRANSFORMER}.layers.{number}"

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return the layers, the last attention, the kernels and the predicted IoUs."""
        watching = [Block(path, attends_globally=True, area="whole image") for path in self.trunk]
        return (*watching, *map(Block, (*KERNELS, IOUS)))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return all sites, family by family."""
        found = [*self._in_layers(), *self._in_final(), *self._in_outputs()]
        return tuple(site for family in FAMILIES for site in found if site.family == family)

    @property
    def fixed(self) -> Cost:
        """Return the cost of what no pruning removes (9.9)."""
        dim, quarter, eighth = self.dim, self.dim // 4, self.dim // 8
        # the final attention's output bias and the normalisation after it; tokens; upscaling
        params = 3 * dim + self.own_tokens * dim
        params += 4 * dim * quarter + quarter + 2 * quarter + 4 * quarter * eighth + eighth
        area = self.grid**2
        # two transposed convolutions, each four times as large, and the masks: a kernel times every place
        macs = 4 * area * dim * quarter + 4 * (4 * area) * quarter * eighth + self.masks * 16 * area * eighth
        return _decoder_cost(params, macs) + self._rest_of_output(KERNELS[0])

    @property
    def dense(self) -> Cost:
        """Return the cost of the whole dense decoder."""
        return sum((site.cost * site.width for site in self.sites), start=self.fixed)

    def _in_layers(self) -> Iterator[Site]:
        for number in range(self.shape.depth):
            path, block = self.layer(number), self.first + number
            whole = _whole_layer(block, path, self.dim)
            yield whole
            # the first attention of layer 0 replaces the tokens, so nothing is added to
            stream = None if number == 0 else f"{path}.self_attn"
            yield self._heads(SELF_HEADS, block, f"{path}.self_attn", stream, whole.name)
            attention = f"{path}.cross_attn_token_to_image"
            yield self._heads(TOKEN_HEADS, block, attention, attention, whole.name)
            yield self._channels(block, f"{path}.mlp", whole.name)
            attention = f"{path}.cross_attn_image_to_token"
            yield self._heads(IMAGE_HEADS, block, attention, attention, whole.name)

    def _in_final(self) -> Iterator[Site]:
        yield self._heads(TOKEN_HEADS, self.first + self.shape.depth, FINAL, FINAL, None)

    def _heads(self, family: Family, block: int, path: str, stream: str | None, within: str | None) -> Site:
        """Return an attention: rows of q, k and v, columns of out_proj (9.10)."""
        asking, asked = self.tokens, self.grid**2
        if family == SELF_HEADS:
            asked = self.tokens
        if family == IMAGE_HEADS:
            asking, asked = asked, asking
        width = self.dim // self.shape.num_heads // (1 if family == SELF_HEADS else 2)
        rows = [
            TensorSlice(f"{path}.{layer}.{name}", axis=0, inner=width)
            for layer in ("q_proj", "k_proj", "v_proj")
            for name in ("weight", "bias")
        ]
        columns = TensorSlice(f"{path}.out_proj.weight", axis=1, inner=width, output=True)
        # q and out for what asks, k and v for what is asked; q·k and weights·v
        macs = 2 * (asking + asked) * self.dim * width + 2 * asking * asked * width
        return Site(
            family,
            block,
            self.shape.num_heads,
            (*rows, columns),
            watch=Watch(f"{path}.out_proj", inner=width),
            cost=_decoder_cost(4 * self.dim * width + 3 * width, macs),
            within=within,
            output=LinearOutput(f"{path}.out_proj", stream, inner=width, always=True),
        )

    def _channels(self, block: int, path: str, within: str) -> Site:
        """Return the MLP of a layer: rows of lin1, columns of lin2 (9.2)."""
        tensors = (
            TensorSlice(f"{path}.lin1.weight", axis=0),
            TensorSlice(f"{path}.lin1.bias", axis=0),
            TensorSlice(f"{path}.lin2.weight", axis=1, output=True),
        )
        cost = _decoder_cost(2 * self.dim + 1, 2 * self.tokens * self.dim)
        output = LinearOutput(f"{path}.lin2", path, always=True)
        watch = Watch(f"{path}.lin2")
        return Site(CHANNELS, block, self.shape.mlp_dim, tensors, watch, cost, within=within, output=output)

    def _in_outputs(self) -> Iterator[Site]:
        for number, path in enumerate((*KERNELS, IOUS)):
            block = self.first + self.shape.depth + 1 + number
            if path == KERNELS[0]:
                yield from self._hidden(block, path, within=None)
                continue
            # its answer is not mask 0, which stays the same without it
            yield self._output(block, path)
            yield from self._hidden(block, path, within=f"{OUTPUTS.name}/{block:02d}")

    def _output(self, block: int, path: str) -> Site:
        """Return the output as one group, without the hidden channels that are a site of their own (9.11)."""
        sizes = self._sizes(path)
        layers = range(len(sizes) - 1)
        tensors = [TensorSlice(f"{path}.layers.{layer}.{name}", axis=None) for layer in layers for name in _LINEAR]
        tensors[-2:] = [replace(tensor, output=True) for tensor in tensors[-2:]]
        return Site(OUTPUTS, block, 1, tuple(tensors), Watch(path, "output"), self._rest_of_output(path))

    def _rest_of_output(self, path: str) -> Cost:
        """Return the cost of an output without its last hidden channels."""
        layers = list(itertools.pairwise(self._sizes(path)))
        params = sum((inputs + 1) * outputs for inputs, outputs in layers)
        macs = sum(inputs * outputs for inputs, outputs in layers) if self._runs(path) else 0
        hidden = (site.cost * site.width for site in self._hidden(0, path, within=None))
        return sum((cost * -1 for cost in hidden), start=_decoder_cost(params, macs))

    def _hidden(self, block: int, path: str, within: str | None) -> Iterator[Site]:
        """Yield the last hidden channels of an output (9.12).

        Those of a layer before it would share weights with them, and costs would not be linear in the widths. One token
        an image is too little for a refit.
        """
        sizes = self._sizes(path)
        if len(sizes) == 2:
            return
        before, width, after = sizes[-3:]
        last = len(sizes) - 2
        tensors = (
            TensorSlice(f"{path}.layers.{last - 1}.weight", axis=0),
            TensorSlice(f"{path}.layers.{last - 1}.bias", axis=0),
            TensorSlice(f"{path}.layers.{last}.weight", axis=1, output=True),
        )
        cost = _decoder_cost(before + 1 + after, before + after if self._runs(path) else 0)
        yield Site(HIDDEN, block, width, tensors, Watch(f"{path}.layers.{last}"), cost, within=within)

    def _runs(self, path: str) -> bool:
        """Return whether an output runs for a box."""
        return path in (*KERNELS[: self.masks], IOUS)

    def _sizes(self, path: str) -> tuple[int, ...]:
        """Return the features of an output's input, of its hidden layers, and of its answer."""
        if path == IOUS:
            hidden = (self.shape.iou_head_hidden_dim,) * (self.shape.iou_head_depth - 1)
            return (self.dim, *hidden, MASK_TOKENS)
        return (*(self.dim,) * KERNEL_DEPTH, self.dim // 8)


def _whole_layer(block: int, path: str, dim: int) -> Site:
    """Return a layer as one group, without the heads and channels that are sites of their own (9.10)."""
    attentions = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    modules = [f"{attention}.{layer}_proj" for attention in attentions for layer in ("q", "k", "v", "out")]
    modules += ["mlp.lin1", "mlp.lin2", "norm1", "norm2", "norm3", "norm4"]
    tensors = tuple(TensorSlice(f"{path}.{module}.{name}", axis=None) for module in modules for name in _LINEAR)
    # four normalisations, and the output biases of three attentions and of the MLP
    return Site(LAYERS, block, 1, tensors, Watch(path, "change"), _decoder_cost(12 * dim, 0))


def _decoder_cost(params: int, macs: int) -> Cost:
    return Cost(0, 0, 0, decoder_params=params, decoder_flops=2 * macs)
