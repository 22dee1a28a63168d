"""A model with some groups of a family silenced, as a game whose players are the groups (method §15).

A gate multiplies what a group gives to the rest of the model. A gate of 0 has the effect of a cut, and needs no other
model. When a group joins a coalition, everything before its trunk module stays as it was, so the outputs of those
modules of the encoder are kept and used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.errors import ConfigError
from medcore.losses import boundary_band, score_loss_parts
from medcore.models.flows import flow_of, like_output
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite, Watch
from medcore.scoring.shapley import Estimate, Floats, Order, Walk, shapley_values

#: Takes low-resolution logits (1, 1, low, low) of one image, the images and the image's number. Returns the value v of
#: the model that gave them, or several values; higher is better.
Measure = Callable[[Tensor, ImageSet, int], Sequence[float]]

#: Most players of a game. An order needs a forward pass for each, and every player needs many orders.
MOST_PLAYERS = 2048


@dataclass(frozen=True)
class Players:
    """The groups of one family of a model.

    Attributes:
        places: site (in `Architecture.sites`) and group of each player.
        first: for each player the first module of the encoder's trunk whose output depends on it.
    """

    places: tuple[tuple[int, int], ...]
    first: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.places)

    def by_site(self, model: MedSam, values: Floats) -> PerSite:
        """Return one value a player as one array a site; other families have zeros."""
        arrays = tuple(np.zeros(width) for width in model.spec.widths)
        for (site, group), value in zip(self.places, values, strict=True):
            arrays[site][group] = value
        return arrays


def players_of(model: MedSam, family: str) -> Players:
    """Return the groups that a model has of a family.

    Raises:
        ConfigError: the architecture has no such family, the model has no group of it, or more than `MOST_PLAYERS`.
    """
    arch, places, first = model.arch, [], []
    if family not in (names := [each.name for each in arch.families]):
        raise ConfigError(f"Shapley values: {arch.name} has no family '{family}', only {', '.join(names)}")
    for number, (site, width) in enumerate(zip(arch.sites, model.spec.widths, strict=True)):
        if site.family.name == family:
            places += [(number, group) for group in range(width)]
            first += [_first_module(arch.encoder_trunks[0], site.watch.module)] * width
    if not places:
        raise ConfigError(f"Shapley values: the model has no {family} left")
    if len(places) > MOST_PLAYERS:
        raise ConfigError(
            f"Shapley values: the model has {len(places)} {family}, and each order takes a forward pass for each; "
            f"choose a family with at most {MOST_PLAYERS} groups"
        )
    return Players(tuple(places), tuple(first))


def negative_loss(logits: Tensor, images: ImageSet, index: int, *, boundary_weight: float = 3.0) -> tuple[float]:
    """Return −loss of one image, the scoring loss (3.2) at a boundary weight."""
    target = torch.from_numpy(images.low_masks(logits.shape[-1], [index]))[None].to(logits)
    region, boundary = score_loss_parts(logits, target, boundary_band(target))
    return (-float(region + boundary_weight * boundary),)


def walk_of(model: MedSam, players: Players, images: ImageSet, index: int, measure: Measure) -> Walk:
    """Return the game of one image: how its value grows while groups join in an order.

    Args:
        model: dense or pruned. It is as before after each walk. Its mode should be evaluation.
        players: the groups that join. Groups of other families are always there.
        images: images with masks and boxes.
        index: which of them.
        measure: the value.
    """

    def walk(order: Order) -> Floats:
        like = next(model.parameters())
        image, box = images.tensor([index]).to(like), images.box_tensor([index]).to(like)
        values = []
        with torch.inference_mode(), _gated(model, players) as gates, _reusing(model) as reuse:
            for joining in (None, *order):
                if joining is not None:
                    site, group = players.places[joining]
                    gates[site][group] = 1
                reuse.first = 0 if joining is None else players.first[joining]
                logits = model.segment(image, box)
                values.append(tuple(measure(logits.float(), images, index)))
        return np.array(values)

    return walk


def shapley_scores(
    model: MedSam,
    images: ImageSet,
    family: str,
    *,
    pairs: int,
    tolerance: float = 0.0,
    measure: Measure = negative_loss,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PerSite, Estimate]:
    """Return the Shapley values of all groups of a family, as scores that rank them.

    It takes 2·pairs·(G + 1) forward passes an image; on average about half of each is reused.

    Args:
        model: dense or pruned.
        images: images with masks and boxes; all of them are used.
        family: whose groups are the players. Groups of other families are always there, and score 0.
        pairs: most pairs of orders an image.
        tolerance: see `shapley_values`.
        measure: what the groups are worth. Scores come from the first of its values.
        seed: seed of the orders.
        progress: called with the numbers of finished and of all pairs.

    Returns:
        One float64 array a site, in the widths of the model, higher means keep; and values and standard errors of all
        players and measured values, (G, M).

    Raises:
        ConfigError: see `players_of`, or there is no image or pair.
    """
    players = players_of(model, family)
    walks = [walk_of(model, players, images, index, measure) for index in range(len(images))]
    found = shapley_values(walks, len(players), pairs=pairs, tolerance=tolerance, seed=seed, progress=progress)
    return players.by_site(model, found.values[:, 0]), found


def _first_module(trunk: Sequence[str], path: str) -> int:
    """Return the first trunk module whose output depends on a module.

    A module of the decoder changes none of them. One before the trunk, or in none of its modules, changes all.
    """
    for number, module in enumerate(trunk):
        if f"{path}.".startswith(f"{module}."):
            return number
    return 0 if path.startswith("image_encoder.") else len(trunk)


@contextmanager
def _gated(model: MedSam, players: Players) -> Iterator[dict[int, Tensor]]:
    """Silence all players; yield the gates of each site, (G,), which open when they are set to 1."""
    like, gates, handles = next(model.parameters()), {}, []
    for number in dict.fromkeys(site for site, _ in players.places):
        gates[number] = torch.zeros(model.spec.widths[number], dtype=like.dtype, device=like.device)
        handles.append(_gate(model, model.arch.sites[number].watch, gates[number]))
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def _gate(model: nn.Module, watch: Watch, gate: Tensor) -> torch.utils.hooks.RemovableHandle:
    module = model.get_submodule(watch.module)
    if watch.kind == "change":
        rest = None if watch.rest is None else model.get_submodule(watch.rest)

        def choose(_module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
            if gate[0]:
                return output
            return like_output(output, flow_of(inputs if rest is None else rest(inputs[0])))

        return module.register_forward_hook(choose)
    if watch.kind == "output":
        return module.register_forward_hook(lambda _module, _inputs, output: output * gate)

    def multiply(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = inputs[0].movedim(watch.axis, -1) * gate.repeat_interleave(watch.inner)
        return features.movedim(-1, watch.axis), *inputs[1:]

    return module.register_forward_pre_hook(multiply)


@dataclass
class _Reuse:
    """What the trunk's modules gave in the last pass.

    Attributes:
        first: number of the first module that runs; those before it answer from `outputs`.
        outputs: by number of the module.
    """

    first: int = 0
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def forward(self, number: int, module: Callable[[Tensor], Tensor], stream: Tensor) -> Tensor:
        """Return the module's output, from the last pass if the module need not run."""
        if number >= self.first:
            self.outputs[number] = module(stream)
        return self.outputs[number]


class _Step(nn.Module):
    """Stands in a model for one of its modules, and leaves it out where nothing before it or in it has changed."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, stream: Tensor) -> Tensor:
        return self._forward(stream)


@contextmanager
def _reusing(model: MedSam) -> Iterator[_Reuse]:
    """Let the trunk's modules answer from the last pass."""
    reuse, modules = _Reuse(), {path: model.get_submodule(path) for path in model.arch.encoder_trunks[0]}
    try:
        for number, (path, module) in enumerate(modules.items()):
            _place(model, path, _Step(partial(reuse.forward, number, module)))
        yield reuse
    finally:
        for path, module in modules.items():
            _place(model, path, module)


def _place(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
