"""The plateau plan: its decisions, what comes back of masked groups, and schedules that follow it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.losses import segmentation_loss
from medcore.models.cut import prune
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.training.plans import plateau
from medcore.training.plans.plateau import Progress, advanced, fires, judged, loss_on, put_back
from medcore.training.recovery import RecoverySettings
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings
from medcore.training.rounds import on_the_way, rounds_to
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, run_phases, start_of
from medcore.training.teacher import compute_teacher
from search.base.config import validate
from search.trials.phase_file import History, load_state, save_state
from tests.support.helpers import TINY, spec_of
from tests.support.toy.samples import DENSE as TOY_DENSE
from tests.support.toy.samples import toy_model
from tests.support.training_samples import assert_same, random_images, random_masks, tiny_model, weights

DENSE = ModelSpec.dense(TINY)
HALF = spec_of(TINY, (3, 1, 2, 0), (48, 20, 0, 30))
RECOVERY = {name: RecoverySettings(steps=5, lr=1e-3, batch_size=2) for name in ("heads", "channels")}
SCHEDULE = Schedule(rounds_to(DENSE, HALF, 4), RECOVERY, "together", refit=RefitSettings(images=2), plan="plateau")


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    images = random_images(3)
    streams = record_streams(tiny_model(), images, RefitSettings(images=2))
    return Inputs(images, compute_teacher(tiny_model(), images), streams)


def scores_of(spec: ModelSpec, seed: int) -> PerSite:
    generator = np.random.default_rng(seed)
    return tuple(generator.random(width) for width in spec.widths)


def rescoring(model, kept: PerSite) -> PerSite:
    return scores_of(model.spec, seed=int(sum(map(np.sum, kept))))


def ends_with(losses: Sequence[float], inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> list[PhaseEnd]:
    """The ends of all phases where the rounds see these losses."""
    left = list(losses)
    monkeypatch.setattr(plateau, "loss_on", lambda *_: left.pop(0))
    return list(run_phases(SCHEDULE, start_of(tiny_model(), scores_of(DENSE, 0)), inputs, 5, rescoring))


def path_of(losses: Sequence[float], step: float) -> list[tuple[float, float, float]]:
    """Share cut, share masked and step after each round."""
    progress, found = Progress(step=step), []
    for loss in losses:
        after = judged(progress, loss)
        progress = advanced(after) if fires(progress, after) else after
        found.append((progress.cut, progress.masked, progress.step))
    return found


def test_a_falling_loss_is_left_alone_and_one_that_stands_still_fires() -> None:
    assert path_of([1.0, 0.9, 0.8], 0.25) == [(0, 0, 0.25)] * 3
    assert path_of([1.0, 0.9995, 0.9994, 0.9993], 0.25) == [
        (0, 0, 0.25),
        (0, 0.25, 0.25),
        (0.25, 0.5, 0.25),  # masked one round, cut the next, and the next groups are masked
        (0.5, 0.75, 0.25),
    ]


def test_what_hurts_comes_back_and_the_step_shrinks() -> None:
    assert path_of([0.5, 0.5, 0.501, 0.501, 0.5009, 0.4], 0.5) == [
        (0, 0, 0.5),
        (0, 0.5, 0.5),
        (0, 0, 0.25),  # worse by exactly the tolerance
        (0, 0.25, 0.25),
        (0.25, 0.5, 0.25),  # 0.0009 above the best is not worse
        (0.5, 0.5, 0.25),  # cut, but the loss falls again
    ]
    assert path_of([1.0] * 9, 0.5)[-1] == (1, 1, 0.5)  # the way ends at the target
    assert not fires(Progress(cut=1, masked=1, last=1.0), Progress(cut=1, masked=1, last=1.0))


@pytest.mark.parametrize("kind", ["vit", "toy"])
def test_a_smaller_model_is_put_back_where_it_was_cut(kind: str) -> None:
    if kind == "vit":
        model, masks = tiny_model(), random_masks(3)
    else:
        generator = np.random.default_rng(2)
        model, masks = toy_model(), tuple(generator.random(width) < 0.6 for width in TOY_DENSE.widths)
    before = weights(model)
    trained = prune(model, masks)
    assert_same(weights(put_back(model, trained, masks)), before)
    with torch.no_grad():
        for value in trained.state_dict().values():
            value.add_(1) if value.is_floating_point() else None
    whole = put_back(model, trained, masks)
    assert_same(weights(model), before)
    assert_same(weights(prune(whole, masks)), weights(trained))
    changed = sum(int((weights(whole)[name] != value).sum()) for name, value in before.items())
    assert changed == sum(value.numel() for value in trained.state_dict().values() if value.is_floating_point())


def test_masked_groups_leave_the_model_and_come_back_as_they_were(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = ends_with([1.0, 1.0, 2.0, 1.0, 0.0], inputs, monkeypatch)
    start = weights(tiny_model())
    masking, recovery, back = ends[2].state, ends[3].state, ends[4].state
    assert masking.masked is not None and recovery.masked is not None and back.masked is None
    assert masking.model.spec == recovery.model.spec == back.model.spec == DENSE
    assert masking.running.spec == on_the_way(DENSE, HALF, Fraction(1, 4)) != DENSE
    changed = [name for name, value in weights(recovery.model).items() if not torch.equal(value, start[name])]
    assert "image_encoder.blocks.0.mlp.lin1.weight" in changed
    trained_before = weights(masking.model)  # the window before trained all groups
    for site, mask in zip(TINY.sites, masking.masked, strict=True):
        for part in (part for part in site.tensors if part.axis == 1):
            columns = np.flatnonzero(np.repeat(mask, part.inner))
            assert torch.equal(weights(back.model)[part.name][:, columns], trained_before[part.name][:, columns])
    assert back.progress == Progress(0.0, 0.0, 0.125, 1.0, 2.0)


def test_every_path_ends_at_the_target_and_cuts_nothing_after_two_fifths(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = sum(settings.steps for settings in RECOVERY.values())
    for losses in ([1.0] * 5, [0.5, 0.4, 0.3, 0.2, 0.1], [1.0, 1.0, 2.0, 2.0, 3.0]):
        done, widths = 0, DENSE.widths
        for end in ends_with(losses, inputs, monkeypatch):
            running = end.state.running.spec
            if running.widths != widths and any(a < b for a, b in zip(running.widths, widths, strict=True)):
                assert end.phase.kind == "round" and done <= 0.4 * steps
            widths, done = running.widths, done + (end.log.steps if end.log is not None else 0)
            assert tuple(int(kept.sum()) for kept in end.state.kept) == end.state.model.spec.widths
        assert (done, end.state.masked) == (steps, None) and end.state.model.spec == HALF
    names = [phase.name for phase in SCHEDULE.phases]
    assert names[:3] == ["r1/both", "r1/both_recovery", "r2/both"]
    assert names[-3:] == ["r5/both", "r5/both_refit", "r5/both_recovery"] and len(names) == 11


def test_a_resumed_schedule_ends_in_the_same_bits(inputs: Inputs, tmp_path: Path) -> None:
    state = start_of(tiny_model(), scores_of(DENSE, 0))
    ends = list(run_phases(SCHEDULE, state, inputs, 5, rescoring))
    assert any(end.state.masked is not None for end in ends)
    whole = ends[-1].state
    for end in ends[:-1:3]:
        save_state(tmp_path / "state", copy.copy(end.state), History())
        state, _ = load_state(tmp_path / "state")
        assert state.progress == end.state.progress and (state.masked is None) == (end.state.masked is None)
        for last in run_phases(SCHEDULE, state, inputs, 5, rescoring):
            state = last.state
        assert_same(weights(state.model), weights(whole.model))
        assert state.progress == whole.progress


def test_the_loss_of_a_round_is_that_of_evenly_spread_images() -> None:
    images, model = random_images(70), tiny_model()
    chosen = sorted({int(number * 69 / 31) for number in range(32)})
    with torch.no_grad():
        logits = model.segment(images.tensor(chosen), images.box_tensor(chosen))
        expected = segmentation_loss(logits, images.mask_tensor(chosen)).item()
    assert loss_on(model, images, autocast=False) == pytest.approx(expected, rel=1e-4)


def test_a_plan_must_be_known_and_needs_a_scorer(inputs: Inputs) -> None:
    with pytest.raises(MedcoreError, match="unknown plan of a schedule 'plateaus'; known are rounds, plateau"):
        dataclasses.replace(SCHEDULE, plan="plateaus")
    state = start_of(tiny_model(), scores_of(DENSE, 0))
    with pytest.raises(MedcoreError, match="no scorer is given"):
        next(run_phases(SCHEDULE, state, inputs, 0))
    assert math.isinf(Progress().best)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"schedule": {"plan": "plato"}}, "schedule.plan: 'plato' is not one of rounds, plateau"),
        (
            {"schedule": {"plan": "plateau", "order": "heads_first"}},
            "schedule: plan plateau has its own order of cuts; leave out order",
        ),
        ({"schedule": {"plan": "plateau", "stages": [{}]}}, "schedule: plan plateau has its own way to one budget"),
        (
            {"schedule": {"plan": "plateau"}, "search": {"space": {"rescore": True}}},
            "search.space.rescore means nothing to schedule.plan plateau; leave it out",
        ),
        (
            {
                "schedule": {"plan": "plateau", "rounds": 3},
                "search": {"space": {"criterion": {"choices": ["medcore", "random"]}}},
            },
            "search.space.criterion would change nothing: schedule.plan plateau ranks groups by their local output",
        ),
        ({"schedule": {"plan": "plateau"}}, "schedule.plan plateau needs two rounds or more; set schedule.rounds"),
        (
            {"schedule": {"plan": "plateau", "rounds": 3}, "recovery": {"steps": 0}},
            "schedule.plan plateau follows the loss of a recovery, so recovery.steps must be above 0",
        ),
        (
            {"search": {"cost": "decoder_flops"}},
            "search.cost: decoder_flops counts the decoder, so model.parts must hold decoder",
        ),
        (
            {"recovery": {"decoder_rate": 0.5}},
            "recovery.decoder_rate is of a decoder that trains, so model.parts must hold decoder, or "
            "recovery.train_decoder be true",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(sections: dict[str, object], line: str) -> None:
    values = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
    with pytest.raises(MedcoreError) as caught:
        validate(values | sections, "mine.yaml")
    assert str(caught.value).startswith(f"mine.yaml: {line}")


def test_a_loss_that_is_no_number_brings_groups_back() -> None:
    after = judged(Progress(cut=0.25, masked=0.5, step=0.25, best=1.0, last=1.0), math.nan)
    assert (after.cut, after.masked, after.step) == (0.25, 0.25, 0.125) and after.last == math.inf and after.best == 1.0
