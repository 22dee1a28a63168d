"""Refits against a plain loop over blocks with NumPy, and what they must leave alone."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, DataError
from medcore.models.cut import prune
from medcore.models.masks import keep_all
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.training.refit.dense_streams import DenseStreams, LiveStreams, record_streams
from medcore.training.refit.least_squares import Moments
from medcore.training.refit.refit import BranchFit, RefitLog, RefitSettings, refit
from tests.support.helpers import TINY
from tests.support.necks import refit_neck
from tests.support.toy.samples import PLACES, toy_model
from tests.support.toy.samples import random_masks as toy_masks
from tests.support.training_samples import REFIT as SETTINGS
from tests.support.training_samples import assert_same, masks_of, random_images, random_masks, tiny_model, weights


def sharp(model: MedSam) -> MedSam:
    """Larger weights, so that attention and MLP matter to the stream."""
    with torch.no_grad():
        for name, parameter in model.image_encoder.named_parameters():
            if name.endswith(("lin1.weight", "lin2.weight", "qkv.weight", "proj.weight")):
                parameter.mul_(3)
    return model


@torch.no_grad()
def refit_by_hand(model: MedSam, dense: MedSam, images: torch.Tensor, ridge: float) -> list[tuple[float, float]]:
    """Refit a ViT in place, block by block, with least squares in NumPy. Returns the errors before and after."""

    def start(of: MedSam) -> torch.Tensor:
        encoder = of.image_encoder
        return encoder.patch_embed((images - of.pixel_mean) / of.pixel_std) + encoder.pos_embed

    x, y, errors = start(model), start(dense), []
    for mine, theirs in zip(model.image_encoder.blocks, dense.image_encoder.blocks, strict=True):
        y = y + theirs.attn(theirs.norm1(y))
        x = x + fitted(mine.attn, "proj", mine.attn.num_heads, mine.norm1(x), y - x, y, ridge, errors)
        y = y + theirs.mlp(theirs.norm2(y))
        x = x + fitted(mine.mlp, "lin2", mine.mlp.mlp_dim, mine.norm2(x), y - x, y, ridge, errors)
    return [*errors, *refit_neck(model.image_encoder.neck, dense.image_encoder.neck, x, y, ridge)]


def fitted(part: Any, name: str, width: int, inputs: Any, target: Any, y: Any, ridge: float, errors: Any) -> Any:
    """Solve for one layer, and return what the part then adds to the stream."""
    layer = getattr(part, name)
    t = target.reshape(-1, target.shape[-1]).double().numpy()
    a = np.zeros((len(t), 0))
    if width:
        probe = copy.deepcopy(part)
        setattr(probe, name, torch.nn.Identity())
        a = probe(inputs).reshape(len(t), -1).double().numpy()
    w0, b0 = layer.weight.double().numpy(), layer.bias.double().numpy()
    a_c, t_c = a - a.mean(axis=0), t - t.mean(axis=0)
    damping = math.sqrt(ridge * len(a) * a.var(axis=0).mean()) if width else 0.0
    rows = np.concatenate([a_c, damping * np.eye(a.shape[1])])
    rest = np.concatenate([t_c - a_c @ w0.T, np.zeros((a.shape[1], t.shape[1]))])
    w = w0 + np.linalg.lstsq(rows, rest, rcond=None)[0].T
    b = t.mean(axis=0) - w @ a.mean(axis=0)
    variance = y.reshape(-1, y.shape[-1]).double().numpy().var(axis=0).sum()
    errors.append(tuple(np.square(t - a @ v.T - c).sum(axis=1).mean() / variance for v, c in ((w0, b0), (w, b))))
    layer.weight.copy_(torch.from_numpy(w))
    layer.bias.copy_(torch.from_numpy(b))
    return layer(torch.from_numpy(a).float()).reshape(target.shape)


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_a_loop_over_blocks(ridge: float, seed: int, images: ImageSet) -> None:
    dense = sharp(tiny_model(seed))
    cut = prune(dense, random_masks(seed))
    expected = copy.deepcopy(cut)
    errors = refit_by_hand(expected, dense, images.tensor(), ridge)
    settings = dataclasses.replace(SETTINGS, ridge=ridge)
    log = refit(cut, record_streams(dense, images, settings), settings)
    assert [branch.name for branch in log.branches][:3] == ["heads/00", "channels/00", "heads/01"]
    np.testing.assert_allclose([(each.before, each.after) for each in log.branches], errors, rtol=1e-3)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=1e-2, atol=2e-3)
    with torch.no_grad():
        torch.testing.assert_close(cut.encode(images.tensor()), expected.encode(images.tensor()), rtol=1e-3, atol=1e-3)
    assert log.notes("heads_refit") == {}


def test_it_never_raises_the_error_of_a_branch(images: ImageSet) -> None:
    """Neither with other weights than the unpruned model's, nor with a ridge of any size, nor a second time."""
    for seed in range(4):
        dense, random = tiny_model(seed), np.random.default_rng(seed)
        cut = prune(sharp(tiny_model(seed)), random_masks(seed))
        settings = RefitSettings(ridge=float(10 ** random.uniform(-9, 2)))
        streams = record_streams(dense, images, settings)
        first, second = refit(cut, streams, settings), refit(cut, streams, settings)
        for branch in (*first.branches, *second.branches):
            assert 0 <= branch.after <= branch.before
        assert first.figures()["refit_error_worst"] >= first.figures()["refit_error_after"]


def test_the_refit_brings_the_embedding_closer(images: ImageSet) -> None:
    dense = sharp(tiny_model())
    cut = prune(dense, random_masks())
    expected = dense.encode(images.tensor())

    def distance() -> float:
        with torch.no_grad():
            return float((cut.encode(images.tensor()) - expected).square().mean())

    before = distance()
    refit(cut, record_streams(dense, images, SETTINGS), SETTINGS)
    assert distance() < 0.7 * before


@pytest.mark.parametrize("model", [tiny_model(), toy_model()], ids=["vit", "toy"])
def test_a_whole_model_stays_as_it_is(model: MedSam, images: ImageSet) -> None:
    before = weights(model)
    log = refit(model, record_streams(model, images, SETTINGS), SETTINGS)
    assert_same(before, weights(model))
    assert log == RefitLog() and log.figures() == log.notes("x") == {}


@pytest.mark.parametrize(
    ("narrow", "first"),
    [
        ({"channels_02": 5}, "channels/02"),
        ({"heads_01": 0}, "heads/01"),
        ({"channels_03": 0, "heads_03": 1}, "heads/03"),
    ],
)
def test_what_lies_before_the_first_cut_stays_as_it_is(
    narrow: dict[str, int], first: str, streams: DenseStreams
) -> None:
    cut = prune(tiny_model(), masks_of(**narrow))
    before = weights(cut)
    log = refit(cut, streams, SETTINGS)
    names = [f"{family}/{block:02d}" for block in range(TINY.depth) for family in ("heads", "channels")]
    names += TINY.encoder_neck
    assert [branch.name for branch in log.branches] == names[names.index(first) :]
    changed = {name for name, value in weights(cut).items() if not torch.equal(value, before[name])}
    layers = {"heads": "attn.proj", "channels": "mlp.lin2"}
    allowed = {
        f"image_encoder.blocks.{int(block)}.{layers[family]}.{kind}"
        for family, block in (branch.name.split("/") for branch in log.branches if not branch.neck)
        for kind in ("weight", "bias")
    }
    allowed |= {f"{layer}.weight" for layer in TINY.encoder_neck}
    assert changed and changed <= allowed


def test_a_branch_without_groups_gets_the_mean_of_its_target(streams: DenseStreams, images: ImageSet) -> None:
    dense = tiny_model()
    cut = prune(dense, masks_of(channels_00=0))
    refit(cut, streams, SETTINGS)
    block = dense.image_encoder.blocks[0]
    with torch.no_grad():
        encoder = dense.image_encoder
        x = encoder.patch_embed((images.tensor() - dense.pixel_mean) / dense.pixel_std) + encoder.pos_embed
        x = x + block.attn(block.norm1(x))
        mean = block.mlp(block.norm2(x)).flatten(0, 2).mean(dim=0)
    torch.testing.assert_close(cut.image_encoder.blocks[0].mlp.lin2.bias, mean, rtol=1e-4, atol=1e-5)


def test_an_emptied_model_is_no_obstacle(streams: DenseStreams, images: ImageSet) -> None:
    nothing = tuple(np.zeros(width, bool) for width in TINY.dense_widths)
    cut = prune(tiny_model(), nothing)
    log = refit(cut, streams, SETTINGS)
    assert len(log.branches) == 2 * TINY.depth + len(TINY.encoder_neck)
    with torch.no_grad():
        assert cut.encode(images.tensor()).isfinite().all()


@pytest.mark.parametrize("seed", range(6))
def test_a_toy_with_blocks_that_are_gone(seed: int, images: ImageSet) -> None:
    dense = toy_model(seed)
    cut = prune(dense, toy_masks(dense.spec, seed))
    streams = record_streams(dense, images, SETTINGS)
    before = weights(cut)
    log = refit(cut, streams, SETTINGS)
    assert all(branch.after <= branch.before and branch.problem is None for branch in log.branches)
    widths = dict(zip(PLACES, cut.spec.widths, strict=True))
    for number in range(1, 4):
        names = {branch.name for branch in log.branches}
        if not widths[f"blocks/{number:02d}"]:
            assert not names & {f"toy_heads/{number:02d}", f"hidden/{number:02d}"}
    rest = [name for name in before if not name.endswith(("proj.weight", "proj.bias", "lin2.weight", "lin2.bias"))]
    assert_same({name: before[name] for name in rest}, {name: weights(cut)[name] for name in rest})


def test_a_cut_stem_changes_all_that_follows(images: ImageSet) -> None:
    dense = toy_model()
    masks = keep_all(dense.spec)
    masks[PLACES["stem/00"]][4:] = False
    log = refit(prune(dense, masks), record_streams(dense, images, SETTINGS), SETTINGS)
    assert [branch.name for branch in log.branches] == [
        f"{family}/{number:02d}" for number in range(1, 4) for family in ("toy_heads", "hidden")
    ]


def test_batches_sources_and_repetitions_give_the_same(images: ImageSet) -> None:
    dense = sharp(tiny_model())

    def run(batch_size: int, streams: DenseStreams | None = None) -> tuple[dict[str, torch.Tensor], RefitLog]:
        settings = RefitSettings(batch_size=batch_size, ridge=0.1)
        cut = prune(dense, random_masks())
        log = refit(cut, streams or record_streams(dense, images, settings), settings)
        return weights(cut), log

    whole, log = run(6)
    again, same_log = run(6)
    assert_same(whole, again)
    assert log == same_log
    live, live_log = run(6, LiveStreams(images, dense, 6))
    assert_same(whole, live)
    assert live_log == log
    for batch_size in (1, 3):
        other, other_log = run(batch_size)
        for name, value in whole.items():
            assert (other[name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name
        errors = [[(each.before, each.after) for each in found.branches] for found in (log, other_log)]
        np.testing.assert_allclose(errors[0], errors[1], rtol=1e-5)


def test_memory_that_runs_out_changes_no_more_than_the_batch(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = tiny_model()
    streams = record_streams(dense, images, SETTINGS)
    expected = prune(dense, random_masks())
    refit(expected, streams, RefitSettings(batch_size=3, ridge=0.1))
    cut = prune(dense, random_masks())
    forward = type(cut.image_encoder.blocks[0]).forward

    def short(block: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError
        result: torch.Tensor = forward(block, x)
        return result

    monkeypatch.setattr(type(cut.image_encoder.blocks[0]), "forward", short)
    refit(cut, streams, RefitSettings(batch_size=6, ridge=0.1))
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=1e-4, atol=1e-5)


def test_dependent_features_leave_the_weight(images: ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    dense = tiny_model()
    cut = prune(dense, masks_of(channels_01=20))
    with torch.no_grad():  # two channels of the first branch behind the cut are one
        lin1 = cut.image_encoder.blocks[1].mlp.lin1
        lin1.weight[3], lin1.bias[3] = lin1.weight[7], lin1.bias[7]
    before = weights(cut)
    log = refit(cut, record_streams(dense, images, SETTINGS), RefitSettings(ridge=0, neck="none"))
    path = "image_encoder.blocks.1.mlp.lin2"
    assert torch.equal(weights(cut)[f"{path}.weight"], before[f"{path}.weight"])
    assert not torch.equal(weights(cut)[f"{path}.bias"], before[f"{path}.bias"])
    assert log.branches[0].problem is not None and log.branches[0].after < log.branches[0].before
    note = log.notes("mlp_refit")["refit_problem"]
    assert note.startswith("mlp_refit: channels/01: linearly dependent features")
    assert "channels/01: linearly dependent" in caplog.text


def test_features_that_are_not_finite_leave_the_layer(streams: DenseStreams) -> None:
    cut = prune(tiny_model(), masks_of(heads_03=1))
    with torch.no_grad():
        cut.image_encoder.blocks[3].attn.qkv.weight[0, 0] = math.inf
    before = weights(cut)
    log = refit(cut, streams, SETTINGS)
    assert_same({name: value.nan_to_num() for name, value in weights(cut).items()}, before | weights_to_num(before))
    assert [branch.problem for branch in log.branches] == ["non-finite features or weights, layer kept"] * 4
    assert log.figures() == {}
    assert log.notes("x") == {
        "refit_problem": "x: heads/03, channels/03, image_encoder.neck.0, image_encoder.neck.2: "
        "non-finite features or weights, layer kept"
    }


def weights_to_num(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.nan_to_num() for name, value in values.items()}


def test_a_solve_that_makes_it_worse_is_not_taken(streams: DenseStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = prune(tiny_model(), masks_of(channels_03=9))
    before = weights(cut)
    monkeypatch.setattr(Moments, "solve", lambda self, start, ridge: start + 1)
    (fit,) = refit(cut, streams, dataclasses.replace(SETTINGS, neck="none")).branches
    path = "image_encoder.blocks.3.mlp.lin2"
    assert torch.equal(weights(cut)[f"{path}.weight"], before[f"{path}.weight"])
    assert fit.after < fit.before and fit.problem is None


def test_figures_and_notes_name_the_last_and_the_worst_branch() -> None:
    log = RefitLog([BranchFit("heads/00", 0.5, 0.4), BranchFit("channels/00", 0.3, 0.1, "why")])
    figures = {"refit_error_before": 0.3, "refit_error_after": 0.1, "refit_error_worst": 0.4}
    assert log.figures() == figures
    neck = [BranchFit("neck.0", 0.9, 0.8, neck=True), BranchFit("neck.2", 0.7, 0.6, neck=True)]
    of_neck = {"refit_neck_error_before": 0.7, "refit_neck_error_after": 0.6}
    assert RefitLog([*log.branches, *neck]).figures() == figures | of_neck
    odd = RefitLog([BranchFit("heads/00", math.nan, math.nan, "why"), *log.branches])
    assert odd.figures() == log.figures()
    assert log.notes("both_refit") == {"refit_problem": "both_refit: channels/00: why"}


def test_windows_that_move_the_tokens_are_refused(images: ImageSet, streams: DenseStreams) -> None:
    plain = build(ModelSpec.dense(TINY), "plain")
    plain.load_state_dict(tiny_model().state_dict())
    with pytest.raises(CheckpointError, match="attention 'fast'"):
        refit(prune(plain, masks_of(heads_00=1)), streams, SETTINGS)


def test_images_are_needed(streams: DenseStreams) -> None:
    empty = dataclasses.replace(streams, images=random_images(0))  # type: ignore[type-var]
    with pytest.raises(DataError, match="at least one calibration image"):
        refit(tiny_model(), empty, SETTINGS)
