"""LoMix against brute force over subsets, finite differences, and the model that it must not change."""

from __future__ import annotations

from itertools import compress, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medcore.losses import segmentation_loss
from medcore.training.terms.lomix import LoMix, Mixer, mixture_weights, product_logit, subsets
from medcore.training.terms.term import Seen
from tests.medcore.test_losses import finite_differences, random_mask
from tests.support.helpers import TINY
from tests.support.training_samples import assert_same, random_images, tiny_model, weights


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_subset_of_two_or_more_maps_is_mixed_in_four_ways(count: int) -> None:
    by_bits = {tuple(compress(range(count), bits)) for bits in product((0, 1), repeat=count) if sum(bits) >= 2}
    assert set(subsets(count)) == by_bits and len(subsets(count)) == 2**count - count - 1
    mixer = Mixer(count).double()
    rng = np.random.default_rng(count)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.tensor(rng.standard_normal(parameter.shape)))
    maps = 2 * rng.standard_normal((2, count, 3, 5))
    expected = []
    for number, chosen in enumerate(subsets(count)):
        some = maps[:, list(chosen)]
        stack, bias = mixer.stack[number].detach().numpy().ravel(), mixer.stack_bias[number].item()
        matrix = mixer.attention[number].detach().numpy()[:, :, 0, 0]
        scores = np.einsum("on,bnhw->bohw", matrix, some) + mixer.attention_bias[number].detach().numpy()[:, None, None]
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        probability = np.prod(1 / (1 + np.exp(-some)), axis=1)
        expected += [
            some.sum(axis=1),
            np.log(probability / (1 - probability)),
            np.einsum("n,bnhw->bhw", stack, some) + bias,
            (shares * some).sum(axis=1),
        ]
    mixed = mixer(torch.tensor(maps)).detach().numpy()
    assert mixed.shape[1] == len(mixer.alpha) == 4 * (2**count - count - 1)
    np.testing.assert_allclose(mixed, np.stack(expected, axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [-300.0, 0.0, 300.0])
def test_a_product_of_sure_maps_is_finite(value: float) -> None:
    maps = torch.full((1, 3, 1, 1), value, requires_grad=True)
    logit = product_logit(maps)
    logit.sum().backward()
    assert logit.isfinite().all() and maps.grad is not None and maps.grad.isfinite().all()
    assert logit.item() == pytest.approx(np.log(1 / 7) if value == 0 else min(3 * value, 69.08), rel=1e-3)


def test_the_gradient_of_the_mixture_equals_finite_differences() -> None:
    rng, mixer = np.random.default_rng(0), Mixer(3).double()
    mask = torch.tensor(random_mask(rng, (1, 1, 2, 2)))
    maps = torch.tensor(rng.standard_normal((1, 3, 2, 2)), requires_grad=True)

    def loss(values: torch.Tensor) -> torch.Tensor:
        each = torch.stack([segmentation_loss(one, mask) for one in mixer(values).split(1, dim=1)])
        return (mixture_weights(mixer.alpha) * each).sum()

    (gradient,) = torch.autograd.grad(loss(maps), maps)
    torch.testing.assert_close(gradient, finite_differences(loss, maps.detach()), rtol=1e-5, atol=1e-8)


def test_without_a_fixed_sum_all_weights_only_shrink() -> None:
    losses = torch.tensor([0.1, 0.4, 0.9, 0.5])
    free, fixed = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    for weigh, alpha in ((F.softplus, free), (mixture_weights, fixed)):
        for _ in range(20):
            before = weigh(alpha.detach())
            (slope,) = torch.autograd.grad((weigh(alpha) * losses).sum(), alpha)
            with torch.no_grad():
                alpha -= slope
            if weigh is F.softplus:
                assert (weigh(alpha.detach()) < before).all()
    assert F.softplus(free.detach()).sum() < 0.5 * 4 * np.log(2)
    found = mixture_weights(fixed.detach())
    assert found.sum().item() == pytest.approx(1) and found.argmax() == losses.argmin()
    assert found[0] > 0.25 > found[2]  # the best mixed map gains what the worst one loses


def test_maps_of_all_scales_reach_the_loss_and_the_encoder() -> None:
    model, images = tiny_model(), random_images(2)
    before, state = weights(model), torch.get_rng_state()
    term = LoMix(model)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in term.parameters[:2]:  # heads from zeros would not reach the encoder
            parameter.fill_(0.1)
    with term.watching(model):
        embedding = model.encode(images.tensor())
        embedding.retain_grad()
        logits = model.decode(embedding, images.box_tensor())
        sides = [feature.shape[-1] for feature in term._features.values()]
    mask = images.low_mask_tensor(TINY.low_res)
    loss = term(Seen(images.tensor(), logits.detach(), mask, logits.detach()))
    loss.backward()
    assert sides == [TINY.grid, 2 * TINY.grid] and TINY.low_res == 4 * TINY.grid
    assert embedding.grad is not None and embedding.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in term.parameters)
    assert_same(before, weights(model))
    hooks = [module._forward_pre_hooks for module in model.modules()]
    assert not any(hooks) and loss.ndim == 0


def test_at_first_only_the_models_own_logits_are_mixed() -> None:
    model, images = tiny_model(), random_images(2)
    term, mask = LoMix(model), images.low_mask_tensor(TINY.low_res)
    with torch.no_grad():
        with term.watching(model):
            z = model.segment(images.tensor(), images.box_tensor())
        found = term(Seen(images.tensor(), z, mask, z)).item()
        nothing = torch.zeros_like(z)
        maps = [nothing, nothing, z]
        each = []
        for chosen in subsets(3):
            some = torch.cat([maps[index] for index in chosen], dim=1)
            mean, total = some.mean(dim=1, keepdim=True), some.sum(dim=1, keepdim=True)
            mixed = [total, product_logit(some), mean, mean]
            each += [segmentation_loss(one, mask).item() / 2 for one in mixed]
    assert found == pytest.approx(np.mean(each), rel=1e-5)
