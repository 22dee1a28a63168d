"""segment-anything's two-way transformer with layers of unequal width, under the same names of tensors.

Tokens and image pass the layers together, as a `State`. Each module takes the state of the module before it, so that
the streams can be watched from layer to layer (method §11). This file needs torch only, and is copied next to exported
models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class State(NamedTuple):
    """What passes the layers, for P prompts with T tokens and N image tokens.

    Attributes:
        tokens: (P, T, C).
        image: (P, N, C).
        token_positions: (P, T, C), added where tokens are asked or ask.
        image_positions: (P, N, C), alike.
    """

    tokens: Tensor
    image: Tensor
    token_positions: Tensor
    image_positions: Tensor


#: Widths by family, one a site: those of a decoder's families in a pruned model's structure.
Widths = Mapping[str, Sequence[int]]


class Attention(nn.Module):
    """Attention of one sequence to another, with a head of constant width.

    Args:
        dim: C, width of both sequences.
        head_dim: d, width of a head.
        num_heads: H, how many there are; with 0 the output is the bias.
    """

    def __init__(self, dim: int, head_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.q_proj = linear(dim, num_heads * head_dim)
        self.k_proj = linear(dim, num_heads * head_dim)
        self.v_proj = linear(dim, num_heads * head_dim)
        self.out_proj = linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor, x_positions: Tensor | None, positions: Tensor | None) -> Tensor:
        """Return what x learns from its context.

        Args:
            x: (P, A, C).
            context: (P, B, C).
            x_positions: (P, A, C), added to what asks; None for nothing.
            positions: (P, B, C), added to what is asked; None for nothing.

        Returns:
            (P, A, C).
        """
        if not self.num_heads:
            out: Tensor = self.out_proj(x.new_zeros(*x.shape[:-1], 0))
            return out
        q = self._by_head(self.q_proj(x if x_positions is None else x + x_positions))
        k = self._by_head(self.k_proj(context if positions is None else context + positions))
        v = self._by_head(self.v_proj(context))
        # (P, H, A, d) x (P, H, d, B) -> (P, H, A, B)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.head_dim), dim=-1)
        # (P, H, A, d) -> (P, A, H·d)
        out = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """Split features, (P, A, H·d) -> (P, H, A, d)."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)


class FinalAttention(Attention):
    """The tokens' last look at the image."""

    def forward(self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor) -> State:  # type: ignore[override]
        """Add the attention to the tokens; arguments and result are those of `State`."""
        added = super().forward(tokens, image, token_positions, image_positions)
        return State(tokens + added, image, token_positions, image_positions)


class Mlp(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = linear(dim, mlp_dim)
        self.lin2 = linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (P, T, C) -> (P, T, C)."""
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class Layer(nn.Module):
    """Attention among tokens, of tokens to the image, an MLP, and attention of the image to the tokens.

    Args:
        dim: C, width of both streams.
        num_heads: of the dense layer. The width of a head stays: C / num_heads among tokens, half of it elsewhere.
        widths: groups that are left.
        number: of the layer in the dense transformer. The first attention of layer 0 replaces the tokens, which have
            no positions yet.
    """

    def __init__(self, dim: int, num_heads: int, widths: Widths, number: int) -> None:
        super().__init__()
        head_dim = dim // num_heads
        # in this order the layer draws the same random numbers as segment-anything's
        self.self_attn = Attention(dim, head_dim, widths["decoder_self_heads"][number])
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, head_dim // 2, widths["decoder_token_heads"][number])
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, widths["decoder_channels"][number])
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, head_dim // 2, widths["decoder_image_heads"][number])
        self.is_first = number == 0

    def forward(self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor) -> State:
        """Pass the layer; arguments and result are those of `State`."""
        if self.is_first:
            tokens = self.self_attn(tokens, tokens, None, None)
        else:
            tokens = tokens + self.self_attn(tokens, tokens, token_positions, token_positions)
        tokens = self.norm1(tokens)
        tokens = tokens + self.cross_attn_token_to_image(tokens, image, token_positions, image_positions)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image, tokens, image_positions, token_positions))
        return State(tokens, image, token_positions, image_positions)


class NoLayer(nn.Module):
    """What is left of a layer that was cut as a whole."""

    def forward(self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor) -> State:
        """Return the state as it is."""
        return State(tokens, image, token_positions, image_positions)


class TwoWayTransformer(nn.Module):
    """The transformer of a mask decoder.

    Args:
        dim: C, width of both streams.
        num_heads: of a dense layer.
        widths: groups that are left. Layers that are left keep their numbers.
    """

    def __init__(self, dim: int, num_heads: int, widths: Widths) -> None:
        super().__init__()
        left = enumerate(widths["decoder_layers"])
        self.layers = nn.ModuleList(
            Layer(dim, num_heads, widths, number) if is_left else NoLayer() for number, is_left in left
        )
        self.final_attn_token_to_image = FinalAttention(dim, dim // num_heads // 2, widths["decoder_token_heads"][-1])
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and image learn from each other.

        Args:
            image: embeddings (P, C, g, g).
            image_positions: (P, C, g, g).
            tokens: (P, T, C), which are their own positions.

        Returns:
            Tokens (P, T, C) and image (P, g·g, C).
        """
        state = State(tokens, _rows(image), tokens, _rows(image_positions))
        for layer in self.layers:
            state = layer(*state)
        state = self.final_attn_token_to_image(*state)
        return self.norm_final_attn(state.tokens), state.image


class OutputMlp(nn.Module):
    """Linear layers with ReLU between them, which turn one token into a kernel or into predicted IoUs.

    Args:
        sizes: features of the input, of each hidden layer, and of the output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(inputs, outputs) for inputs, outputs in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens, (P, C) -> (P, outputs)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


class NoOutput(nn.Module):
    """What is left of an output that was cut: no number.

    Args:
        outputs: features of the output.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return NaN, (P, C) -> (P, outputs)."""
        return x.new_full((x.shape[0], self.outputs), math.nan)


def narrow(decoder: Any, spec: Mapping[str, Any]) -> None:
    """Give segment-anything's mask decoder the widths of a pruned model's structure, in place.

    Args:
        decoder: the dense mask decoder.
        spec: {"arch": fields of the dense architecture, ...} and the groups that are left, by family.

    Raises:
        ValueError: the structure has no such widths.
    """
    arch = spec["arch"]
    depth, num_heads = arch["decoder"]["depth"], arch["decoder"]["num_heads"]
    outputs = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    most = {
        "decoder_layers": [1] * depth,
        "decoder_outputs": [1] * (len(outputs) - 1),
        "decoder_self_heads": [num_heads] * depth,
        "decoder_token_heads": [num_heads] * (depth + 1),
        "decoder_channels": [arch["decoder"]["mlp_dim"]] * depth,
        "decoder_image_heads": [num_heads] * depth,
        "decoder_hidden": [output.layers[-1].in_features for output in outputs if len(output.layers) > 1],
    }
    for family, limits in most.items():
        widths = spec.get(family)
        known = widths if isinstance(widths, list) and all(type(width) is int for width in widths) else []
        if len(known) != len(limits) or not all(
            0 <= width <= limit for width, limit in zip(known, limits, strict=True)
        ):
            raise ValueError(f"{family} must hold whole numbers from 0 to {limits}, not {widths!r:.40}")
    decoder.transformer = TwoWayTransformer(arch["out_chans"], num_heads, spec)
    narrow_outputs(decoder, spec)
    if not all(spec["decoder_outputs"][:-1]):
        decoder.register_forward_pre_hook(_refuse_lost_masks, with_kwargs=True)


def _refuse_lost_masks(_module: nn.Module, inputs: Sequence[Any], options: Mapping[str, Any]) -> None:
    # the fifth argument of segment-anything's decoder
    if options.get("multimask_output", inputs[4] if len(inputs) > 4 else False):
        raise ValueError("this model has lost some of masks 1 to 3; ask for one mask (multimask_output=False)")


def narrow_outputs(decoder: Any, widths: Widths) -> None:
    """Give the outputs of segment-anything's mask decoder the widths that are left, in place.

    Outputs that keep their widths stay as they are.

    Args:
        decoder: the mask decoder.
        widths: groups that are left.
    """
    outputs = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    # the kernel of mask 0 always stays; an IoU head of one layer has nothing hidden
    hidden = [*widths["decoder_hidden"], 0][: len(outputs)]
    for number, (output, is_left, width) in enumerate(
        zip(outputs, [1, *widths["decoder_outputs"]], hidden, strict=True)
    ):
        sizes = [output.layers[0].in_features, *(layer.out_features for layer in output.layers)]
        if not is_left:
            smaller: nn.Module = NoOutput(sizes[-1])
        elif len(sizes) > 2 and width != sizes[-2]:
            smaller = OutputMlp([*sizes[:-2], width, sizes[-1]])
        else:
            continue
        if output is decoder.iou_prediction_head:
            decoder.iou_prediction_head = smaller
        else:
            decoder.output_hypernetworks_mlps[number] = smaller


def _rows(maps: Tensor) -> Tensor:
    """Return one row a place, (P, C, g, g) -> (P, g·g, C)."""
    return maps.flatten(2).transpose(1, 2)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that may have no inputs or no outputs."""
    if inputs and outputs:
        return nn.Linear(inputs, outputs)
    layer = nn.Linear(max(inputs, 1), max(outputs, 1))
    layer.in_features, layer.out_features = inputs, outputs
    layer.weight = nn.Parameter(layer.weight.new_zeros(outputs, inputs))
    layer.bias = nn.Parameter(layer.bias.new_zeros(outputs))
    return layer
