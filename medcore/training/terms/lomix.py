"""LoMix: logits of several scales, mixed in all combinations, as a term of the recovery loss (6.7 to 6.9)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcore.losses import full_precision, segmentation_losses
from medcore.models.sam import MedSam
from medcore.training.terms.term import LossTerm, Seen

#: Ways to mix the maps of one subset.
OPERATORS = ("sum", "product", "stack", "attention")
#: Smallest −log of a probability that a product distinguishes from 0. Its logit, 69, is finite in float32.
_SURE = 1e-30


def subsets(count: int) -> list[tuple[int, ...]]:
    """Return all subsets of at least two of `count` maps, small ones first."""
    return [chosen for size in range(2, count + 1) for chosen in itertools.combinations(range(count), size)]


def product_logit(maps: Tensor) -> Tensor:
    """Return the logit of the product of probabilities, Πσ(P_i).

    Logits themselves cannot be multiplied: two maps that both say background would have a product that says foreground.

    Args:
        maps: P, (B, n, h, w), float32 or better.

    Returns:
        (B, 1, h, w).
    """
    # Πσ(P) = e^−s, and its logit is −log(e^s − 1); large s must not overflow
    surprise = F.softplus(-maps).sum(dim=1, keepdim=True).clamp_min(_SURE)
    return -(surprise + torch.log(-torch.expm1(-surprise)))


def mixture_weights(alpha: Tensor) -> Tensor:
    """Return the weights w of the mixed maps: softplus(α), scaled to the sum 1.

    Without a fixed sum all weights would only shrink, because every mixed map's loss is positive.

    Args:
        alpha: (M,).

    Returns:
        (M,).
    """
    raw = F.softplus(alpha)
    return raw / raw.sum()


class Mixer(nn.Module):
    """Mixes L maps of logits into 4·(2^L − L − 1).

    At first a stack and an attention both give the mean of their maps, and all mixed maps weigh alike.

    Attributes:
        alpha: (M,), what the weights of the mixed maps come from.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self._subsets = subsets(maps)
        sizes = [len(chosen) for chosen in self._subsets]
        # 1×1 convolutions of n maps into 1, and into n
        self.stack = nn.ParameterList([torch.full((1, size, 1, 1), 1 / size) for size in sizes])
        self.stack_bias = nn.ParameterList([torch.zeros(1) for _ in sizes])
        self.attention = nn.ParameterList([torch.zeros(size, size, 1, 1) for size in sizes])
        self.attention_bias = nn.ParameterList([torch.zeros(size) for size in sizes])
        self.alpha = nn.Parameter(torch.zeros(len(OPERATORS) * len(sizes)))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the mixed maps, subset by subset and in each in the order of `OPERATORS`.

        Args:
            maps: (B, L, h, w).

        Returns:
            (B, M, h, w).
        """
        mixed = []
        for number, chosen in enumerate(self._subsets):
            some = maps[:, list(chosen)]
            attention = F.conv2d(some, self.attention[number], self.attention_bias[number]).softmax(dim=1)
            mixed += [
                some.sum(dim=1, keepdim=True),
                product_logit(some),
                F.conv2d(some, self.stack[number], self.stack_bias[number]),
                (attention * some).sum(dim=1, keepdim=True),
            ]
        return torch.cat(mixed, dim=1)


class LoMix(LossTerm):
    """The weighted segmentation loss of mixed maps.

    The mask decoder upscales its map of the image in steps: sides g, 2g and 4g for the embedding's side g. A side head,
    a 1×1 convolution from zeros, turns each map but the last into logits. Those of the last are the model's own. All
    maps are taken at the size of the model's logits.

    Attributes:
        mixer: mixes the logits of each side head, coarse maps first, with the model's.
    """

    #: Heads and weights begin without knowledge and have the few steps of a recovery.
    rate = 10.0

    def __init__(self, model: MedSam) -> None:
        widths = [layer.in_channels for layer in _upscaling(model)]
        self._heads = nn.ParameterList([torch.zeros(1, count, 1, 1) for count in widths]).to(model.device)
        self._biases = nn.ParameterList([torch.zeros(1) for _ in widths]).to(model.device)
        self.mixer = Mixer(len(widths) + 1).to(model.device)
        self._features: dict[int, Tensor] = {}

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of each side head and the mixer."""
        return [*self._heads, *self._biases, *self.mixer.parameters()]

    @contextmanager
    def watching(self, model: MedSam) -> Iterator[None]:
        """Keep what enters each step of the decoder's upscaling."""
        # those of a pass that has failed, as for want of memory, would hold its graph
        self._features.clear()
        with ExitStack() as hooks:
            for number, layer in enumerate(_upscaling(model)):

                def keep(_layer: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> None:
                    self._features[number] = inputs[0]

                hooks.callback(layer.register_forward_pre_hook(keep).remove)
            yield

    def __call__(self, seen: Seen) -> Tensor:
        """Return (6.9)."""
        z = full_precision(seen.logits)
        maps = [
            F.interpolate(
                F.conv2d(full_precision(self._features.pop(number)), weight, bias),
                size=z.shape[-2:],
                mode="bilinear",
                align_corners=False,
            )
            for number, (weight, bias) in enumerate(zip(self._heads, self._biases, strict=True))
        ]
        losses = segmentation_losses(self.mixer(torch.cat([*maps, z], dim=1)), seen.mask) / 2
        return (mixture_weights(self.mixer.alpha) * losses).sum()


def _upscaling(model: MedSam) -> list[nn.ConvTranspose2d]:
    """Return the steps of the decoder's upscaling, each of which doubles the side of the map."""
    return [layer for layer in model.mask_decoder.output_upscaling if isinstance(layer, nn.ConvTranspose2d)]
