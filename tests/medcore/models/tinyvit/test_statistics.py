"""Scores, moments and refits of TinyViT's groups against sums and solves by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.data.load import ImageSet
from medcore.models.cut import prune
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.models.stream import flow_into, observe, trunk_of
from medcore.scoring.activations import recording
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import build_table
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import build_profile
from medcore.scoring.second_order import RIDGE
from medcore.shrinkage import ridge_for
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings, refit
from tests.support.necks import refit_neck
from tests.support.scoring_samples import discs, score_loss_of, seeded
from tests.support.tiny_vit import DENSE, LITTLE, PLACES, little_model, random_masks

#: Block 6 is hollow, block 7 gone; block 3 has no heads, block 5 no channels, one MBConv and one merge no hidden ones.
PRUNED = ModelSpec.of(
    LITTLE,
    {
        "blocks": [1, 1, 1, 1, 1, 0, 1],
        "interiors": [1, 1, 0, 1, 1],
        "heads": [0, 3, 4, 4, 2],
        "channels": [30, 0, 40, 40, 7],
        "mbconv": [0, 9],
        "merges": [12, 0, 11],
    },
)
SPECS = pytest.mark.parametrize("spec", [DENSE, PRUNED], ids=["dense", "pruned"])
NODES = (0.0, 3.0)
#: Sites of every kind.
SOME = [site for site in LITTLE.sites if site.block in (0, 2, 3, 5, 6)]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return discs(4, size=32)


def scaled(model: MedSam, site: str, group: int, factor: float) -> MedSam:
    """Copy a model and scale what one group gives to the rest of the model, by hooks on modules."""
    copied, place = copy.deepcopy(model), LITTLE.sites[PLACES[site]]
    path = LITTLE.blocks[place.block].path

    def hook(name: str, change: Any, before: bool) -> None:
        module = copied.get_submodule(f"{path}{name}")
        if before:
            module.register_forward_pre_hook(lambda _module, inputs: change(inputs[0]))
        else:
            module.register_forward_hook(lambda _module, inputs, output: change(inputs[0], output))

    def weigh(features: Tensor, inner: int) -> Tensor:
        weights = torch.ones(features.shape[-1], dtype=features.dtype)
        weights[group * inner : (group + 1) * inner] = factor
        return features * weights

    match place.family.name:
        case "blocks":
            hook("", lambda x, out: x + factor * (out - x), before=False)
        case "interiors":
            for part in (".attn", ".mlp"):
                hook(part, lambda _x, out: factor * out, before=False)
        case "heads":
            hook(".attn.proj", lambda x: weigh(x, copied.get_submodule(path).attn.head_dim), before=True)
        case "channels":
            hook(".mlp.fc2", lambda x: weigh(x, 1), before=True)
        case _:
            hook(".conv3", lambda x: weigh(x, 1), before=True)
    return copied


@SPECS
def test_gates_are_slopes_of_the_loss(spec: ModelSpec, images: ImageSet) -> None:
    model, step = seeded(spec, 2), 1e-5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sums = calibration_sums(model, images, [1], NODES)
    for site in SOME:
        number = PLACES[site.name]
        width = spec.widths[number]
        assert sums.gates[number].shape == (2, width)
        if not width:
            continue
        for node, w in enumerate(NODES):
            ends = [
                score_loss_of(scaled(model, site.name, width - 1, 1 + sign * step), images, 1, w) for sign in (1, -1)
            ]
            slope = abs(ends[0] - ends[1]) / (2 * step)
            assert float(sums.gates[number][node, -1]) == pytest.approx(slope, rel=1e-4, abs=1e-7), site.name
    # the model is as it was, without gates
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@SPECS
def test_every_criterion_has_a_score_for_every_group(spec: ModelSpec, images: ImageSet) -> None:
    table = build_table(seeded(spec, 1), seeded(spec, 2), images, NODES)
    for family in LITTLE.families:
        widths = spec.family(family.name)
        for statistic in ("zero", "reset", "michel", "activation", "magnitude"):
            array = table.array(statistic, family.name)
            for row, width in enumerate(widths):
                assert np.isfinite(array[..., row, :width]).all(), (statistic, family.name)
        assert table.widths(family.name) == widths


@SPECS
def test_activations_of_blocks_and_interiors_are_what_they_change(spec: ModelSpec, images: ImageSet) -> None:
    """Against the blocks run one after the other, block by block and part by part."""
    model = little_model(6, spec)
    with torch.no_grad(), recording(model, spec) as seen:
        model.encode(images.tensor())
    found = 0
    with torch.no_grad():
        x = model.image_encoder.patch_embed(images.tensor())
        for stage, layer in enumerate(model.image_encoder.layers):
            for index, block in enumerate(layer.blocks):
                number = sum(LITTLE.depths[:stage]) + stage + index
                before, x = x, block(x)
                for family, left in (("blocks", before), ("interiors", getattr(block, "local_conv", None))):
                    place = PLACES.get(f"{family}/{number:02d}")
                    if place is None or not spec.widths[place]:
                        assert place not in seen
                        continue
                    rest = left if isinstance(left, Tensor) else left(before)
                    found += 1
                    assert float(seen[place]) == pytest.approx(float((x - rest).norm(dim=-1).mean()), rel=1e-5)
            x = x if layer.downsample is None else layer.downsample(x)
    assert found == sum(spec.family("blocks")) + sum(spec.family("interiors"))
    both = [[float(seen[PLACES[f"{family}/{number:02d}"]]) for family in ("blocks", "interiors")] for number in (3, 5)]
    assert all(block != pytest.approx(interior, rel=0.01) for block, interior in both)


@SPECS
def test_moments_are_those_of_the_layers_inputs(spec: ModelSpec, images: ImageSet) -> None:
    model = seeded(spec, 1)
    sums = profile_sums(model, images, [0, 2], [2], 5)
    seen: dict[int, list[np.ndarray]] = {}
    for number, site in enumerate(LITTLE.sites):
        if site.output is not None and site.output.module in dict(model.named_modules()):

            def note(_module: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> None:
                seen.setdefault(number, []).append(inputs[0].detach().flatten(0, -2).numpy())

            model.get_submodule(site.output.module).register_forward_pre_hook(note)
    with torch.no_grad():
        model.encode(images.tensor([0, 2]).double())
    assert set(sums.sites) == set(seen)
    for number, (features,) in seen.items():
        assert sums.tokens[number] == len(features) == 2 * LITTLE.places[LITTLE.sites[number].block].after ** 2
        np.testing.assert_allclose(sums.sites[number].inputs.numpy(), features.sum(axis=0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(sums.sites[number].products.numpy(), features.T @ features, rtol=1e-9, atol=1e-9)


def test_orders_and_curves_of_all_layers_that_are_linear(images: ImageSet) -> None:
    """The loss of keeping nothing is that of the layer's centred output."""
    model = seeded(DENSE, 1)
    sums = profile_sums(model, images, [0, 1, 2], [0, 2], 0)
    profile = build_profile(model, sums)
    for number, (site, curve) in enumerate(zip(LITTLE.sites, profile.curves, strict=True)):
        if site.family.name in ("blocks", "interiors"):
            assert np.isinf(curve[:-1]).all()
            continue
        found, tokens = sums.sites[number], sums.tokens[number]
        mean = found.inputs.numpy() / tokens
        covariance = found.products.numpy() / tokens - np.outer(mean, mean)
        covariance += (
            ridge_for(covariance, tokens, RIDGE) * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )
        assert site.output is not None
        weight = effective(model.get_submodule(site.output.module))
        assert curve[0] == pytest.approx(np.trace(found.metric.numpy() / 2 @ weight @ covariance @ weight.T))
        assert curve[0] > 0 and (np.diff(curve) <= 0).all()


def effective(layer: Any) -> np.ndarray:
    """What a layer does to a unit vector of each input, without its bias."""
    with torch.no_grad():
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.c.weight.shape[1]
        unit = torch.eye(inputs, dtype=torch.float64)[None]
        return (layer(unit[None]) - layer(torch.zeros_like(unit[None])))[0, 0].T.numpy()


def dense_after(model: MedSam, tokens: Tensor) -> dict[int, Tensor]:
    """The stream after every branch of the dense model, by number of the site, written out."""
    after: dict[int, Tensor] = {}
    x = model.image_encoder.patch_embed(tokens)
    number = 0
    for stage in model.image_encoder.layers:
        for block in (*stage.blocks, stage.downsample):
            name = f"/{number:02d}"
            if f"heads{name}" in PLACES:
                x = after[PLACES[f"heads{name}"]] = x + block.attn(x)
                x = block.local_conv(x)
                x = after[PLACES[f"channels{name}"]] = x + block.mlp(x)
            elif f"mbconv{name}" in PLACES:
                after[PLACES[f"mbconv{name}"]] = x + block.conv3(block.inner(x))
                x = F.gelu(after[PLACES[f"mbconv{name}"]])
            elif block is not None:
                x = after[PLACES[f"merges{name}"]] = block.conv3(block.inner(x))
            number += block is not None
    return after


@pytest.mark.parametrize("spec", [DENSE, PRUNED], ids=["dense", "pruned"])
def test_streams_are_seen_where_they_are(spec: ModelSpec, images: ImageSet) -> None:
    model = little_model(4, spec)
    with torch.no_grad():
        stream = model.image_encoder.patch_embed(images.tensor())
        *blocks, neck = trunk_of(model)
        assert [branch.name for branch in neck.branches] == ["image_encoder.neck.0", "image_encoder.neck.2"]
        for entry in blocks:
            module = model.get_submodule(entry.path)
            passes, (output,) = observe(entry, module, (stream,))
            assert torch.equal(output, module(stream))
            for branch, seen in zip(entry.branches, passes, strict=True):
                site = LITTLE.sites[branch.site]
                assert seen.features.shape[-1] == branch.width * (site.output.inner if site.output else 1)
            if spec == DENSE and passes:
                expected = dense_after(model, images.tensor())
                for branch, seen in zip(entry.branches, passes, strict=True):
                    torch.testing.assert_close(seen.after, expected[branch.site])
            stream = output


def fit(layer: Any, features: Tensor, target: Tensor, ridge: float) -> None:
    """Solve for a layer as (11.2) and (11.3) write it, in NumPy."""
    a, t = (each.flatten(0, -2).double().numpy() for each in (features, target))
    w0 = effective(copy.deepcopy(layer).double()) if a.shape[1] else np.zeros((t.shape[1], 0))
    a_c, t_c = a - a.mean(axis=0), t - t.mean(axis=0)
    gram = a_c.T @ a_c / len(a)
    damped = gram + ridge * (np.trace(gram) / max(len(gram), 1)) * np.eye(len(gram))
    w = w0 + np.linalg.solve(damped, a_c.T @ t_c / len(a) - gram @ w0.T).T if len(gram) else w0
    bias = t.mean(axis=0) - w @ a.mean(axis=0)
    if isinstance(layer, nn.Linear):
        layer.weight.copy_(torch.from_numpy(w))
        layer.bias.copy_(torch.from_numpy(bias))
    else:
        # another way to hold the same map: the normalisation is left as it is
        scale = layer.bn.weight.double().numpy() / np.sqrt(layer.bn.running_var.double().numpy() + 1e-5)
        layer.c.weight.copy_(torch.from_numpy(w / scale[:, None])[..., None, None])
        layer.bn.bias.copy_(torch.from_numpy(bias + scale * layer.bn.running_mean.double().numpy()))


@torch.no_grad()
def refit_by_hand(model: MedSam, dense: MedSam, images: Tensor, ridge: float) -> None:
    """Refit a little TinyViT in place, part by part."""
    wanted, x = dense_after(dense, images), model.image_encoder.patch_embed(images)
    number = 0
    for stage in model.image_encoder.layers:
        for block in (*stage.blocks, stage.downsample):
            name = f"/{number:02d}"
            number += block is not None
            if isinstance(block, nn.Identity):
                continue
            if f"heads{name}" in PLACES:
                if block.attn is not None:
                    features = inputs_of(block.attn, block.attn.proj, x)
                    fit(block.attn.proj, features, wanted[PLACES[f"heads{name}"]] - x, ridge)
                    x = x + block.attn(x)
                x = block.local_conv(x)
                if block.mlp is not None:
                    features = inputs_of(block.mlp, block.mlp.fc2, x)
                    fit(block.mlp.fc2, features, wanted[PLACES[f"channels{name}"]] - x, ridge)
                    x = x + block.mlp(x)
            elif f"mbconv{name}" in PLACES:
                fit(block.conv3, block.inner(x), wanted[PLACES[f"mbconv{name}"]] - x, ridge)
                x = block(x)
            elif f"merges{name}" in PLACES:
                fit(block.conv3, block.inner(x), wanted[PLACES[f"merges{name}"]], ridge)
                x = block(x)
    (y,) = flow_into(dense, "image_encoder.neck", images, torch.zeros(len(images), 4))
    refit_neck(model.image_encoder.neck, dense.image_encoder.neck, x, y, ridge)


def inputs_of(part: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer of a part gets."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    part(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_refit_equals_a_loop_over_blocks(seed: int, images: ImageSet) -> None:
    dense = little_model(seed)
    masks = random_masks(DENSE, seed)
    # something of the first block goes, so that everything is refit
    masks[PLACES["blocks/00"]][:] = True
    masks[PLACES["mbconv/00"]][:2] = False
    cut = prune(dense, masks)
    expected = copy.deepcopy(cut)
    refit_by_hand(expected, dense, images.tensor(), 1e-3)
    settings = RefitSettings(ridge=1e-3, batch_size=3, neck="all")
    log = refit(cut, record_streams(dense, images, settings), settings)
    assert log.branches and not log.notes("heads_refit")
    assert all(branch.after <= branch.before for branch in log.branches)
    with torch.no_grad():
        torch.testing.assert_close(cut.encode(images.tensor()), expected.encode(images.tensor()), rtol=1e-3, atol=1e-3)
