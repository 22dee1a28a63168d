"""Scores, streams and refits of Hiera's groups, also where a stage begins, and the whole path to a pruned model."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medcore.budgets.allocators import ALLOCATORS, Request
from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.limits import Limits, group_costs
from medcore.budgets.targets import to_target
from medcore.data.load import ImageSet, load_image_set
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.models.stream import observe, trunk_of
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import build_profile
from medcore.shrinkage import ridge_for
from medcore.synthetic.write import write_folder
from medcore.training.recovery import RecoverySettings
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings, refit
from medcore.training.schedule import Inputs, Schedule, run_phases, start_of
from medcore.training.teacher import compute_teacher
from tests.support.hiera import DEEP, DENSE, LITTLE, little_model, random_masks
from tests.support.necks import refit_conv
from tests.support.scoring_samples import discs, score_loss_of

NODES = (0.0, 3.0)
PLACES = {site.name: place for place, site in enumerate(DEEP.sites)}
#: Block 2 is gone, block 3 begins a stage without heads, block 5 has no channels.
PRUNED = ModelSpec.of(
    DEEP,
    {"blocks": [1, 0, 1, 1], "heads": [2, 3, 4, 0, 8, 5, 16], "channels": [20, 7, 40, 80, 80, 0, 160]},
)
SPECS = pytest.mark.parametrize("spec", [ModelSpec.dense(DEEP), PRUNED], ids=["dense", "pruned"])


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return discs(4, size=96)


def precise(spec: ModelSpec, seed: int) -> MedSam:
    model = little_model(seed, spec).double()
    model.prompt_encoder.float()  # segment-anything encodes positions in single precision only
    return model


def scaled(model: MedSam, name: str, group: int, factor: float) -> MedSam:
    """Copy a model and scale what one group gives to the rest of the model, by hooks on modules."""
    copied, site = copy.deepcopy(model), DEEP.sites[PLACES[name]]
    block = copied.get_submodule(DEEP.blocks[site.block].path)

    def weigh(inputs: tuple[Tensor, ...], inner: int) -> Tensor:
        weights = torch.ones(inputs[0].shape[-1], dtype=inputs[0].dtype)
        weights[group * inner : (group + 1) * inner] = factor
        return inputs[0] * weights

    match site.family.name:
        case "blocks":
            for branch in (block.attn, block.mlp):
                branch.register_forward_hook(lambda _module, _inputs, out: factor * out)
        case "heads":
            block.attn.proj.register_forward_pre_hook(lambda _module, inputs: weigh(inputs, 4))
        case _:
            block.mlp.layers[1].register_forward_pre_hook(lambda _module, inputs: weigh(inputs, 1))
    return copied


@SPECS
def test_gates_are_slopes_of_the_loss(spec: ModelSpec, images: ImageSet) -> None:
    model, step = precise(spec, 2), 1e-6
    sums = calibration_sums(model, images, [1], NODES)
    for site in DEEP.sites:
        number = PLACES[site.name]
        width = spec.widths[number]
        if not width or site.block not in (2, 3, 6):
            continue
        ends = [
            score_loss_of(scaled(model, site.name, width - 1, 1 + sign * step), images, 1, NODES[1]) for sign in (1, -1)
        ]
        slope = abs(ends[0] - ends[1]) / (2 * step)
        assert float(sums.gates[number][1, -1]) == pytest.approx(slope, rel=1e-4, abs=1e-6), site.name


def dense_after(model: MedSam, images: Tensor) -> dict[str, Tensor]:
    """The stream after every branch, by the site's name, written out."""
    found, trunk = {}, model.image_encoder.trunk
    x = trunk.patch_embed((images - model.pixel_mean) / model.pixel_std)
    x = x + trunk._positions(*x.shape[1:3])
    for number, block in enumerate(trunk.blocks):
        if isinstance(block, nn.Identity):
            continue
        normed = block.norm1(x)
        if block.proj is not None:
            x = nn.functional.max_pool2d(block.proj(normed).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        x = found[f"heads/{number:02d}"] = x + block.attn(normed)
        x = found[f"channels/{number:02d}"] = x + block.mlp(block.norm2(x))
    return found


@SPECS
@torch.no_grad()
def test_streams_are_seen_where_they_are(spec: ModelSpec, images: ImageSet) -> None:
    model = little_model(4, spec)
    expected = dense_after(model, images.tensor())
    trunk = model.image_encoder.trunk
    stream = trunk.patch_embed((images.tensor() - model.pixel_mean) / model.pixel_std)
    stream = stream + trunk._positions(*stream.shape[1:3])
    seen_names = []
    *blocks, neck = trunk_of(model)
    assert neck.starts and [branch.name[-6] for branch in neck.branches] == ["3", "2", "1", "0"]
    for entry in blocks:
        module = model.get_submodule(entry.path)
        passes, (output,) = observe(entry, module, (stream,))
        assert torch.equal(output, module(stream))
        for branch, seen in zip(entry.branches, passes, strict=True):
            seen_names.append(branch.name)
            torch.testing.assert_close(seen.after, expected[branch.name])
            assert seen.before.shape == seen.after.shape and seen.features.shape[:-1] == seen.after.shape[:-1]
        stream = output
    assert set(seen_names) == set(expected)


def fit(layer: nn.Linear, features: Tensor, target: Tensor, ridge: float) -> None:
    """Solve for a layer as (11.2) and (11.3) write it, in NumPy."""
    a, t = (each.flatten(0, -2).double().numpy() for each in (features, target))
    w0 = layer.weight.double().numpy()
    a_c, t_c = a - a.mean(axis=0), t - t.mean(axis=0)
    gram = a_c.T @ a_c / len(a)
    # the last stage has few tokens
    damped = gram + ridge_for(gram, len(a), ridge) * (np.trace(gram) / max(len(gram), 1)) * np.eye(len(gram))
    w = w0 + np.linalg.solve(damped, a_c.T @ t_c / len(a) - gram @ w0.T).T if len(gram) else w0
    layer.weight.copy_(torch.from_numpy(w))
    layer.bias.copy_(torch.from_numpy(t.mean(axis=0) - w @ a.mean(axis=0)))


def input_of(part: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    part(x)
    handle.remove()
    return seen[0]


@torch.no_grad()
def test_a_refit_equals_a_loop_over_blocks(images: ImageSet) -> None:
    dense = little_model(1, ModelSpec.dense(DEEP))
    masks = random_masks(dense.spec, 6)
    masks[PLACES["blocks/00"]][:] = True
    masks[PLACES["channels/00"]][:5] = False
    cut = prune(dense, masks)
    expected = copy.deepcopy(cut)
    wanted, trunk = dense_after(dense, images.tensor()), expected.image_encoder.trunk
    x = trunk.patch_embed((images.tensor() - dense.pixel_mean) / dense.pixel_std)
    x = x + trunk._positions(*x.shape[1:3])
    for number, block in enumerate(trunk.blocks):
        if isinstance(block, nn.Identity):
            continue
        normed = block.norm1(x)
        if block.proj is not None:
            x = nn.functional.max_pool2d(block.proj(normed).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        features = input_of(block.attn, block.attn.proj, normed)
        fit(block.attn.proj, features, wanted[f"heads/{number:02d}"] - x, 1e-3)
        x = x + block.attn(normed)
        features = input_of(block.mlp, block.mlp.layers[1], block.norm2(x))
        fit(block.mlp.layers[1], features, wanted[f"channels/{number:02d}"] - x, 1e-3)
        x = x + block.mlp(block.norm2(x))
    mine, theirs = expected.image_encoder, dense.image_encoder
    pictures = (images.tensor() - dense.pixel_mean) / dense.pixel_std
    ends = zip(mine.trunk(pictures), theirs.trunk(pictures), strict=True)
    # the coarsest stage's convolution is the first
    for stage, (tokens, dense_tokens) in enumerate(ends, 1):
        wanted_maps = theirs.neck.convs[-stage](dense_tokens.permute(0, 3, 1, 2))
        refit_conv(mine.neck.convs[-stage].conv, tokens.permute(0, 3, 1, 2), wanted_maps, 1e-3)
    settings = RefitSettings(ridge=1e-3, batch_size=3)
    log = refit(cut, record_streams(dense, images, settings), settings)
    names = [f"image_encoder.neck.convs.{number}.conv" for number in (3, 2, 1, 0)]
    assert [branch.name for branch in log.branches][-4:] == names
    assert all(branch.after <= branch.before for branch in log.branches)
    torch.testing.assert_close(cut.encode(images.tensor()), expected.encode(images.tensor()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("source", ["recorded", "live"])
def test_a_refit_changes_no_layer_before_the_first_cut(source: str, images: ImageSet) -> None:
    dense = little_model(1, ModelSpec.dense(DEEP))
    masks = [np.ones(width, dtype=bool) for width in dense.spec.widths]
    last = max(number for number, site in enumerate(DEEP.sites) if site.family.name == "channels")
    masks[last][::2] = False
    cut = prune(dense, tuple(masks))
    before = {name: value.clone() for name, value in cut.state_dict().items()}
    streams = record_streams(dense, images, RefitSettings(), 0 if source == "live" else 10**9)
    log = refit(cut, streams, RefitSettings())
    assert [branch.name for branch in log.branches] == [DEEP.sites[last].name, "image_encoder.neck.convs.0.conv"]
    changed = {name for name, value in cut.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if ".neck." in name} <= {
        f"image_encoder.neck.convs.0.conv.{kind}" for kind in ("weight", "bias")
    }


def test_budgets_meet_their_costs() -> None:
    """Groups of four stages have four prices."""
    chance = np.random.default_rng(0)
    for arch in (LITTLE, ARCHITECTURES["sam2_tiny"]):
        dense = cost(ModelSpec.dense(arch)).flops
        costs = group_costs(arch, "flops")
        curves = tuple(
            np.append(np.cumsum(np.sort(chance.lognormal(size=site.width)))[::-1], 0.0) for site in arch.sites
        )
        for fraction in (0.3, 0.55, 0.8):
            spec = to_target(arch, chance.lognormal(sigma=2, size=len(arch.sites)), fraction, "flops")
            assert abs(cost(spec).flops - fraction * dense) <= max(costs.groups)
            spec = knapsack_budget(arch, curves, fraction, "flops", Limits())
            assert (fraction - 0.02) * dense <= cost(spec).flops <= fraction * dense
    for name in ALLOCATORS.names():
        request = Request(
            LITTLE,
            chance.lognormal(size=len(LITTLE.blocks)),
            {"heads": 0.3, "channels": 0.5},
            fraction=0.6,
            metric="flops",
            limits=Limits(current=DENSE),
            curves=tuple(np.linspace(1, 0, site.width + 1) for site in LITTLE.sites),
        )
        assert not ALLOCATORS[name](request).is_dense, name


def test_a_whole_path_from_scores_to_a_saved_model(tmp_path: Path) -> None:
    """Embedded images, knapsack, refit, recovery of two steps, evaluation, and back from the file."""
    write_folder(tmp_path / "images", "medical", 24, 96, 3)
    images, _ = load_image_set([tmp_path / "images"], "train", LITTLE.frame)
    images = images.subset(range(6))
    model = little_model(3)
    settings = RefitSettings(images=6, batch_size=3)
    inputs = Inputs(images, compute_teacher(model, images), record_streams(model, images, settings))
    assert inputs.teacher is not None and inputs.teacher.embeddings.shape == (6, 64, 6, 6)
    profile = build_profile(model, profile_sums(model, images, range(6), range(3), 0))
    target = knapsack_budget(LITTLE, profile.curves, 0.6, "flops", Limits())
    recovery = {family.name: RecoverySettings(steps=2, lr=1e-3, batch_size=2) for family in LITTLE.families}
    schedule = Schedule((target,), recovery, "together", refit=settings)
    ends = list(run_phases(schedule, start_of(model, profile.scores()), inputs, 5))
    end = ends[-1].state.model
    assert end.spec == target and cost(target).flops <= 0.6 * cost(DENSE).flops and not end.training
    assert [kept.tolist() for kept in ends[-1].state.kept] == [
        mask.tolist() for mask in select(profile.scores(), target)
    ]
    logs = [each.log for each in ends if each.log is not None]
    assert logs and all(np.isfinite(log.losses).all() and log.stopped is None for log in logs)
    save(tmp_path / "pruned.safetensors", end)
    again = load(tmp_path / "pruned.safetensors")
    assert again.spec == target
    with torch.no_grad():
        ours, theirs = (each.segment(images.tensor(), images.box_tensor()) for each in (end, again))
    assert torch.equal(ours, theirs) and ours.shape == (6, 1, 24, 24)
    assert 0 <= summarise(evaluate(again, images))["dice"] <= 1
