"""Coalitions of groups by gates: the same as cutting, on four encoders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.cut import prune
from medcore.models.masks import keep_all
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.scoring.coalitions import Players, negative_loss, players_of, shapley_scores, walk_of
from medcore.scoring.shapley import Floats, contributions
from tests.support.decoders import ALONE, model_with_decoder
from tests.support.helpers import TINY
from tests.support.hiera import DEEP
from tests.support.hiera import little_model as hiera
from tests.support.scoring_samples import PRUNED, discs, score_loss_of, seeded
from tests.support.tiny_vit import little_model
from tests.support.toy.samples import TOY, toy_model

#: Block 2 of the toy has no heads.
TOY_PRUNED = ModelSpec(TOY, (1, 1, 1, 2, 0, 3, 10, 24, 48, 16))


def sample(logits: Tensor, images: ImageSet, index: int) -> tuple[float, ...]:
    """Some of the logits themselves, so that no difference is averaged away."""
    return tuple(logits[0, 0, ::5, ::7].flatten().double().tolist())


def cut_value(model: MedSam, players: Players, present: list[int], images: ImageSet) -> Floats:
    """The same value from a model that was cut to the coalition."""
    masks = keep_all(model.spec)
    for player, (site, group) in enumerate(players.places):
        masks[site][group] = player in present
    cut = prune(model, masks)
    like = next(cut.parameters())
    with torch.no_grad():
        logits = cut.segment(images.tensor([0]).to(like), images.box_tensor([0]).to(like))
    return np.array(sample(logits, images, 0))


MODELS = {
    "vit": lambda: seeded(ModelSpec.dense(TINY), 0),
    "vit, pruned": lambda: seeded(PRUNED, 1),
    "toy": toy_model,
    "toy, pruned": lambda: toy_model(1, TOY_PRUNED),
    "tinyvit": little_model,
    "hiera": lambda: hiera(0, ModelSpec.dense(DEEP)),
    "with decoder": model_with_decoder,
    "decoder": lambda: model_with_decoder(1, ALONE),
}
FAMILIES = [
    ("vit", "heads"),
    ("vit, pruned", "heads"),
    ("toy", "toy_heads"),
    ("toy", "blocks"),
    ("toy, pruned", "toy_heads"),
    ("toy, pruned", "stem"),
    ("tinyvit", "heads"),
    ("tinyvit", "blocks"),
    ("tinyvit", "interiors"),
    ("hiera", "heads"),
    ("hiera", "blocks"),
    ("with decoder", "decoder_self_heads"),
    ("with decoder", "decoder_image_heads"),
    ("decoder", "decoder_token_heads"),
    ("decoder", "decoder_layers"),
    ("decoder", "decoder_outputs"),
]


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_each_coalition_is_the_model_cut_to_it(name: str, family: str) -> None:
    model = MODELS[name]()
    images, players = discs(1, model.arch.img_size), players_of(model, family)
    order = np.random.default_rng(0).permutation(len(players))
    values = walk_of(model, players, images, 0, sample)(order)
    # a few coalitions of many players, always with none and all
    for size in np.unique(np.linspace(0, len(players), 5).astype(int)):
        expected = cut_value(model, players, list(order[:size]), images)
        np.testing.assert_allclose(values[size], expected, rtol=1e-4, atol=2e-5)


def test_a_model_is_as_before_after_a_walk() -> None:
    model, images = toy_model(), discs(1)
    before, modules = {name: value.clone() for name, value in model.state_dict().items()}, dict(model.named_modules())
    walk_of(model, players := players_of(model, "blocks"), images, 0, sample)(np.arange(len(players)))
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_trunk_modules_before_the_change_do_not_run() -> None:
    model, images = toy_model(), discs(1)
    players, runs = players_of(model, "toy_heads"), []
    for number, block in enumerate(model.image_encoder.blocks):
        block.register_forward_hook(lambda *_args, number=number: runs.append(number))
    last_first = np.arange(len(players))[::-1]
    walk_of(model, players, images, 0, sample)(last_first)
    heads = (2, 4, 3)
    assert runs == [0, 1, 2] + [2] * heads[2] + [1, 2] * heads[1] + [0, 1, 2] * heads[0]


def test_the_encoder_runs_once_for_groups_of_the_decoder() -> None:
    model, images = model_with_decoder(1, ALONE), discs(1)
    players, runs = players_of(model, "decoder_self_heads"), []
    for number, block in enumerate(model.image_encoder.blocks):
        block.register_forward_hook(lambda *_args, number=number: runs.append(number))
    walk_of(model, players, images, 0, sample)(np.arange(len(players)))
    assert runs == list(range(len(model.image_encoder.blocks)))


def test_values_are_those_over_all_orders_and_sum_to_the_change_of_the_loss() -> None:
    """Three whole blocks: all orders against cut models, and the loss as method §3 writes it."""
    model, images = toy_model(), discs(2)
    players = players_of(model, "blocks")
    walk = walk_of(model, players, images, 0, sample)
    by_walk = np.mean([contributions(walk, np.array(order)) for order in permutations(range(3))], axis=0)
    value = {
        present: cut_value(model, players, list(present), images)
        for present in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    }
    for player in range(3):
        one, two = (other for other in range(3) if other != player)
        expected = (value[player,] - value[()]) / 3 + (value[0, 1, 2] - value[one, two]) / 3
        for other in (one, two):
            expected += (value[tuple(sorted((player, other)))] - value[other,]) / 6
        np.testing.assert_allclose(by_walk[player], expected, atol=5e-5)


def test_scores_lie_at_their_sites_and_sum_to_the_change_of_the_loss() -> None:
    model, images = seeded(PRUNED, 2), discs(2)
    scores, found = shapley_scores(model, images, "heads", pairs=2)
    assert tuple(map(len, scores)) == PRUNED.widths
    assert all(not values.any() for values in scores[TINY.depth :])
    np.testing.assert_array_equal(np.concatenate(scores[: TINY.depth]), found.values[:, 0])
    gone = prune(model, tuple(mask & (number >= TINY.depth) for number, mask in enumerate(keep_all(PRUNED))))
    change = [score_loss_of(gone, images, index, 3.0) - score_loss_of(model, images, index, 3.0) for index in range(2)]
    assert found.values.sum() == pytest.approx(np.mean(change), rel=1e-5)


def test_the_loss_is_that_of_scores() -> None:
    model, images = seeded(PRUNED, 3), discs(2)
    with torch.no_grad():
        logits = model.segment(images.tensor([1]).double(), images.box_tensor([1]))
    assert negative_loss(logits, images, 1, boundary_weight=2.0)[0] == pytest.approx(
        -score_loss_of(model, images, 1, 2.0), rel=1e-5
    )


@pytest.mark.parametrize(
    ("family", "spec", "message"),
    [
        ("head", ModelSpec.dense(TINY), "no family 'head', only heads, channels"),
        ("heads", ModelSpec(TINY, (0,) * 4 + (48,) * 4), "no heads left"),
    ],
)
def test_a_game_without_players_is_refused(family: str, spec: ModelSpec, message: str) -> None:
    with pytest.raises(MedcoreError, match=message):
        players_of(seeded(spec, 0), family)


def test_too_many_players_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcore.scoring.coalitions.MOST_PLAYERS", 100)
    with pytest.raises(MedcoreError, match="192 channels, and each order takes a forward pass for each"):
        players_of(seeded(ModelSpec.dense(TINY), 0), "channels")
