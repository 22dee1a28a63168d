"""Scores, refits, recoveries and budgets of the mask decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import Limits, costless, last_blocks
from medcore.budgets.rule_target import rule_to_target
from medcore.budgets.targets import uniform_to_target
from medcore.errors import CheckpointError
from medcore.losses import boundary_band, score_loss_parts
from medcore.models.cost import cost
from medcore.models.cut import mask_model, prune, with_parts
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import DECODER, ENCODER, ModelSpec
from medcore.models.stream import flow_into, observe, trunk_of
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import Profile, build_profile
from medcore.shrinkage import ENOUGH
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit
from medcore.training.teacher import compute_teacher
from tests.support.decoders import ALONE, BOTH, masks_of, masks_without, model_with_decoder
from tests.support.training_samples import random_images

IMAGES = random_images(6)


def in_double(seed: int) -> MedSam:
    """A model in float64, but for the prompts, whose coordinates are always float32."""
    model = model_with_decoder(seed, ALONE).double()
    model.prompt_encoder.float()
    return model


SETTINGS = RefitSettings(images=6, ridge=1e-4, batch_size=4, neck="all")


def loss_of(model: MedSam, index: int) -> Tensor:
    target = torch.from_numpy(IMAGES.low_masks(model.arch.low_res, [index]))[:, None]
    logits = model.segment(IMAGES.tensor([index]), IMAGES.box_tensor([index]))
    region, boundary = score_loss_parts(logits, target, boundary_band(target))
    return region + 2.0 * boundary


@torch.no_grad()
def with_gate(model: MedSam, site: int, group: int, gate: float) -> MedSam:
    """The model with one group's output scaled, between the dense one (1) and the masked one (0) if it is linear."""
    masks = [np.ones(width, dtype=bool) for width in model.spec.widths]
    masks[site][group] = False
    other, silent = copy.deepcopy(model), mask_model(model, tuple(masks))
    for (_, mine), without in zip(other.named_parameters(), silent.parameters(), strict=True):
        mine.lerp_(without, 1 - gate)
    return other


@pytest.mark.parametrize("family", ["self_heads", "token_heads", "channels", "image_heads", "hidden"])
def test_gates_are_slopes_of_the_loss(family: str) -> None:
    model = in_double(1)
    sums = calibration_sums(model, IMAGES, [0, 1], nodes=(2.0,))
    for number, site in enumerate(model.arch.sites):
        if site.family.name != f"decoder_{family}":
            continue
        step, group = 1e-4, site.width // 2
        expected = 0.0
        for index in (0, 1):
            up, down = (loss_of(with_gate(model, number, group, 1 + sign * step), index) for sign in (1, -1))
            expected += abs(float(up - down)) / (2 * step)
        assert float(sums.gates[number][0, group]) == pytest.approx(expected, rel=1e-4, abs=1e-9), site.name


def test_a_layer_has_a_gate_on_both_streams() -> None:
    model = in_double(2)
    sums = calibration_sums(model, IMAGES, [3], nodes=(2.0,))
    for number in (0, 1):
        layer = model.get_submodule(model.arch.sites[number].watch.module)

        def loss_at(gate: float, layer: torch.nn.Module = layer) -> Tensor:
            def mix(_module: object, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return tuple(torch.lerp(old, new, gate) for old, new in zip(inputs, output, strict=True))

            handle = layer.register_forward_hook(mix)
            with torch.no_grad():
                found = loss_of(model, 3)
            handle.remove()
            return found

        expected = abs(float(loss_at(1 + 1e-4) - loss_at(1 - 1e-4))) / 2e-4
        assert float(sums.gates[number][0, 0]) == pytest.approx(expected, rel=1e-3)
    assert (sums.active[0] > 0).all() and sums.active[2].tolist() == [0.0]  # the kernel of mask 1 does not run


def seen_by(module: torch.nn.Module, run: Callable[[], object]) -> Tensor:
    """What enters a module."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    run()
    handle.remove()
    return inputs[0]


@torch.no_grad()
def test_streams_of_tokens_and_image_are_seen_where_they_are() -> None:
    model = model_with_decoder(3, ALONE)
    images, boxes = IMAGES.tensor(), IMAGES.box_tensor()
    trunk = trunk_of(model)
    assert [module.path.rpartition(".")[2] for module in trunk] == ["0", "1", "final_attn_token_to_image"]
    assert [module.starts for module in trunk] == [True, False, False]
    flow = flow_into(model, trunk[0].path, images, boxes)
    for module in trunk:
        part = model.get_submodule(module.path)
        again = flow_into(model, module.path, images, boxes)
        assert all(torch.equal(one, two) for one, two in zip(flow, again, strict=True))
        passes, following = observe(module, part, flow)
        for place, each in enumerate(passes):
            if norm := getattr(part, f"norm{place + 1}", None):
                inputs = seen_by(norm, lambda part=part, flow=flow: part(*flow))
                torch.testing.assert_close(each.after, inputs)
        flow = following


def fitted(features: Tensor, target: Tensor, bias: bool) -> Tensor:
    """The best that a linear layer makes of features, by NumPy."""
    ones = torch.cat([features, torch.ones(len(features), int(bias))], dim=1).double().numpy()
    found = np.linalg.lstsq(ones, target.double().numpy(), rcond=None)[0]
    return torch.from_numpy(ones @ found)


def recorded_variance(values: np.ndarray) -> float:
    """Variance of a stream over images and tokens, summed over its features."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return float(rows.var(axis=0).sum())


@torch.no_grad()
@pytest.mark.parametrize("arch", [BOTH, ALONE], ids=["both", "alone"])
def test_a_refit_leaves_the_best_output_of_each_branch(arch: object) -> None:
    dense = model_with_decoder(4, arch)  # type: ignore[arg-type]
    streams = record_streams(dense, IMAGES, SETTINGS)
    masks = [np.ones(width, dtype=bool) for width in dense.spec.widths]
    for mask, site in zip(masks, dense.arch.sites, strict=True):
        if site.output is not None and site.width > 2:
            mask[::2] = False
    model = prune(dense, tuple(masks))
    log = refit(model, streams, SETTINGS)
    found = {fit.name: fit for fit in log.branches}
    sites = {site.name for site in dense.arch.sites if site.output is not None}
    assert set(found) == sites | set(dense.arch.encoder_neck if arch is BOTH else ())
    assert [fit for fit in log.branches if fit.after > fit.before or fit.problem] == []
    # behind the refit branches before it, each is as good as least squares, or better than before if tokens are few
    trunk, recorded = trunk_of(model), list(streams.by_module(torch.device("cpu")))
    for module, dense_after in zip(trunk, recorded, strict=True):
        flow = flow_into(model, module.path, IMAGES.tensor(), IMAGES.box_tensor())
        passes, _ = observe(module, model.get_submodule(module.path), flow)
        for branch, seen in zip(module.branches, passes, strict=True):
            target = torch.tensor(dense_after[branch.name].values) - seen.before
            features, goal = seen.features.flatten(0, -2), target.flatten(0, -2)
            least = float((fitted(features, goal, branch.site is not None) - goal).square().sum())
            mine = float((seen.after - seen.before - target).double().square().sum())
            if len(features) < ENOUGH * features.shape[1]:
                least = found[branch.name].before * recorded_variance(dense_after[branch.name].values) * len(features)
            assert mine <= 1.05 * least + 1e-3, branch.name


@torch.no_grad()
def test_a_refit_changes_no_bit_before_the_first_cut() -> None:
    dense = model_with_decoder(5)
    model = prune(dense, masks_without(dense.spec, "decoder_image_heads"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refit(model, record_streams(dense, IMAGES, SETTINGS), SETTINGS)
    changed = {
        name.removeprefix("mask_decoder.transformer.")
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert not any(name.startswith("image_encoder") for name in changed)
    assert "layers.0.self_attn.out_proj.weight" not in changed and "layers.0.mlp.lin2.weight" not in changed
    assert "layers.1.self_attn.out_proj.weight" in changed and "final_attn_token_to_image.out_proj.bias" in changed


def profile_of(model: MedSam) -> Profile:
    return build_profile(model, profile_sums(model, IMAGES, range(6), range(6), seed=0))


@pytest.mark.parametrize("metric", ["call_flops", "decoder_flops", "decoder_params"])
def test_knapsacks_meet_costs_of_the_decoder(metric: str) -> None:
    model = model_with_decoder(6)
    curves = profile_of(model).dense_curves(BOTH)
    left, dense = (
        cost(spec)
        for spec in (knapsack_budget(BOTH, curves, 0.6, metric), ModelSpec.dense(BOTH))  # type: ignore[arg-type]
    )
    assert getattr(left, metric) <= 0.6 * getattr(dense, metric)
    if metric != "call_flops":
        assert left.flops == dense.flops


def test_what_costs_nothing_stays_whole() -> None:
    decoder = [site.family.name.startswith("decoder_") for site in BOTH.sites]
    assert costless(BOTH, "flops_paper").tolist() == decoder == costless(BOTH, "encoder_params").tolist()
    assert costless(BOTH, "decoder_flops").tolist() == [
        not own or (site.name.startswith(("decoder_outputs", "decoder_hidden")) and site.cost.decoder_flops == 0)
        for own, site in zip(decoder, BOTH.sites, strict=True)
    ]
    sensitivity = np.ones(len(BOTH.blocks))
    curves = profile_of(model_with_decoder(7)).dense_curves(BOTH)
    for spec in (
        uniform_to_target(BOTH, 0.5),
        rule_to_target(BOTH, 0.5, sensitivity),
        knapsack_budget(BOTH, curves, 0.5),
    ):
        whole = zip(BOTH.sites, spec.widths, decoder, strict=True)
        assert all(width == site.width for site, width, is_decoder in whole if is_decoder)
        assert cost(spec).flops_paper < cost(ModelSpec.dense(BOTH)).flops_paper


@pytest.mark.parametrize(
    ("parts", "cut", "expected"),
    [
        ((ENCODER,), ["heads"], {"image_encoder"}),
        ((DECODER,), ["decoder_channels"], {"mask_decoder"}),
        ((ENCODER, DECODER), ["heads", "decoder_channels"], {"image_encoder", "mask_decoder"}),
        ((ENCODER, DECODER), ["decoder_image_heads"], {"mask_decoder"}),
        ((ENCODER, DECODER), ["channels", "decoder_outputs"], {"image_encoder"}),
        ((ENCODER, DECODER), [], {"image_encoder"}),
        ((DECODER,), [], {"mask_decoder"}),
    ],
)
def test_a_recovery_trains_what_was_cut(parts: tuple[str, ...], cut: list[str], expected: set[str]) -> None:
    model = model_with_decoder(8, replace(BOTH, parts=parts))
    teacher = compute_teacher(model, IMAGES)
    model = prune(model, masks_without(model.spec, *cut))
    before = {name: value.clone() for name, value in model.named_parameters()}
    recover(model, IMAGES, teacher, RecoverySettings(steps=2, lr=1e-3, batch_size=2), seed=0)
    changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == expected


def test_the_decoder_trains_at_its_own_rate() -> None:
    """The first step of Adam moves a weight by the rate, whatever its gradient is."""
    model = model_with_decoder(8)
    teacher = compute_teacher(model, IMAGES)
    model = prune(model, masks_without(model.spec, "heads", "decoder_channels"))
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = RecoverySettings(steps=1, lr=1e-2, batch_size=2, decoder_rate=0.25)
    recover(model, IMAGES, teacher, settings, seed=0)
    moved = {
        name: float((value - before[name]).abs().max()) for name, value in model.named_parameters() if value.numel()
    }
    for part, rate in (("image_encoder", 1e-2), ("mask_decoder", 2.5e-3), ("prompt_encoder", 0.0)):
        assert max(step for name, step in moved.items() if name.startswith(part)) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("cut", [("heads",), ("decoder_channels",), ()])
def test_the_decoder_trains_whole_if_it_is_asked_to(cut: tuple[str, ...]) -> None:
    model = model_with_decoder(8)
    teacher = compute_teacher(model, IMAGES)
    model = prune(model, masks_without(model.spec, *cut))
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = RecoverySettings(steps=1, lr=1e-2, batch_size=2, decoder_rate=0.25, train_decoder=True)
    recover(model, IMAGES, teacher, settings, seed=0)
    moved = {
        name: float((value - before[name]).abs().max()) for name, value in model.named_parameters() if value.numel()
    }
    encoder = 0.0 if cut == ("decoder_channels",) else 1e-2
    for part, rate in (("image_encoder", encoder), ("mask_decoder", 2.5e-3), ("prompt_encoder", 0.0)):
        assert max(step for name, step in moved.items() if name.startswith(part)) == pytest.approx(rate, rel=1e-3)


@torch.no_grad()
def test_a_pruned_encoder_meets_a_decoder_to_prune() -> None:
    dense = model_with_decoder(9, replace(BOTH, parts=(ENCODER,)))
    masks = masks_of(dense.spec, 1)
    cut = prune(dense, masks)
    both = with_parts(cut, (ENCODER, DECODER))
    images, boxes = IMAGES.tensor(), IMAGES.box_tensor()
    assert torch.equal(both.segment(images, boxes), cut.segment(images, boxes))
    assert both.spec.widths[: len(cut.spec.widths)] == cut.spec.widths and cut.arch.parts == (ENCODER,)
    scores = tuple(np.arange(width, dtype=float) for width in both.spec.widths)
    smaller = prune(
        both, select(scores, uniform_to_target(both.arch, 0.4, "decoder_params", Limits(current=both.spec)))
    )
    assert smaller.kept is not None
    assert all(np.array_equal(one, two) for one, two in zip(smaller.kept, masks, strict=False))
    assert with_parts(with_parts(dense, (DECODER,)), (ENCODER,)).spec == dense.spec
    with pytest.raises(CheckpointError, match=r"has lost .*, so parts must hold encoder"):
        with_parts(cut, (DECODER,))


def test_the_last_blocks_are_the_encoders() -> None:
    assert last_blocks(BOTH, 2) == (2, 3) and last_blocks(ALONE, 1) == (1,)
    assert last_blocks(BOTH, 9) == (0, 1, 2, 3)
