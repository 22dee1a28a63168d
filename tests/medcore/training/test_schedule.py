import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from medcore.errors import ConfigError, MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.training.orders import orders
from medcore.training.recovery import RecoveryLog, RecoverySettings
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings, refit
from medcore.training.rounds import rounds_to
from medcore.training.schedule import Inputs, Schedule, State, run_phases, start_of
from medcore.training.teacher import compute_teacher
from tests.support.helpers import TINY, halves, spec_of
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

ORDERS = orders(TINY.families)
RECOVERY = RecoverySettings(steps=3, lr=1e-3, batch_size=2)
REFIT = RefitSettings(images=3, batch_size=2)
DENSE = ModelSpec.dense(TINY)
HALF = spec_of(TINY, (3, 1, 2, 0), (48, 20, 0, 30))
LEAST = spec_of(TINY, (1, 1, 0, 0), (10, 20, 0, 5))
ONE_SHOT = Schedule((HALF,), {"heads": RECOVERY, "channels": dataclasses.replace(RECOVERY, steps=2)})


@pytest.fixture(scope="module")
def images():
    return random_images(4)


@pytest.fixture(scope="module")
def inputs(images):
    """Refits see other images than recoveries."""
    streams = record_streams(tiny_model(), random_images(3, seed=1), REFIT)
    return Inputs(images, compute_teacher(tiny_model(), images), streams)


def random_scores(spec: ModelSpec = DENSE, seed: int = 0) -> PerSite:
    generator = np.random.default_rng(seed)
    return tuple(generator.random(width) for width in spec.widths)


def without_recovery():
    return dict.fromkeys(("heads", "channels"), RecoverySettings(steps=0))


def begin(seed: int = 0) -> State:
    return start_of(tiny_model(), random_scores(seed=seed))


def rescoring(model, kept):
    """Fresh scores that depend on the model's weights, as real ones do."""
    norms = [value.detach().abs().sum().item() for value in model.image_encoder.parameters()]
    return random_scores(model.spec, seed=int(1e3 * sum(norms)) % 2**31)


def run_schedule(schedule, state, inputs, seed, score=None):
    """The state after all phases."""
    for end in run_phases(schedule, state, inputs, seed, score):
        state = end.state
    return state


@pytest.mark.parametrize("order", ORDERS)
def test_phases_widths_and_logs(order, inputs):
    start = begin()
    before, seen = weights(start.model), []
    schedule = dataclasses.replace(ONE_SHOT, order=order)
    for end in run_phases(schedule, start, inputs, 0):
        spec = end.state.model.spec
        steps = None if end.log is None else end.log.steps
        assert end.phase.is_recovery == (end.log is not None)
        seen.append((end.phase.name, spec.family("heads"), spec.family("channels"), steps, end.state.done))
    heads, channels = HALF.family("heads"), HALF.family("channels")
    assert (
        seen
        == {
            "heads_first": [
                ("heads", heads, DENSE.family("channels"), None, 1),
                ("heads_recovery", heads, DENSE.family("channels"), 3, 2),
                ("mlp", heads, channels, None, 3),
                ("mlp_recovery", heads, channels, 2, 4),
            ],
            "mlp_first": [
                ("mlp", DENSE.family("heads"), channels, None, 1),
                ("mlp_recovery", DENSE.family("heads"), channels, 2, 2),
                ("heads", heads, channels, None, 3),
                ("heads_recovery", heads, channels, 3, 4),
            ],
            "together": [("both", heads, channels, None, 1), ("both_recovery", heads, channels, 5, 2)],
        }[order]
    )
    assert end.state.model.spec == HALF
    assert_same(before, weights(start.model))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 3])
def test_without_recovery_all_schedules_prune_alike(order, count, inputs):
    """The lowest scores go first, however many steps it takes and whichever family leads."""
    start = begin()
    schedule = Schedule(rounds_to(DENSE, HALF, count), without_recovery(), order)
    end = run_schedule(schedule, start, inputs, 0)
    masks = select(start.scores, HALF)
    assert_same(weights(end.model), weights(prune(start.model, masks)))
    for kept, mask in zip(end.kept, masks, strict=True):
        np.testing.assert_array_equal(kept, mask)


def test_rounds_are_equal_steps_and_take_all_recovery_steps_between_them(inputs):
    targets = rounds_to(DENSE, LEAST, 4)
    assert [target.family("channels")[3] for target in targets] == [37, 26, 16, 5]
    assert [target.family("heads")[0] for target in targets] == [2, 2, 1, 1]
    assert targets[-1] == LEAST
    schedule = Schedule(targets, {"heads": dataclasses.replace(RECOVERY, steps=6), "channels": RECOVERY})
    counts = {phase.name: schedule.recovery_of(phase).steps for phase in schedule.phases if phase.is_recovery}
    assert sum(counts.values()) == 6 + 3
    assert counts["r1/heads_recovery"] == 1 and counts["r2/heads_recovery"] == 2
    assert len(schedule.phases) == 16


def test_two_stages_keep_the_first_masks(inputs):
    """The second stage cuts only the last block, so what the first left of the others is untouched."""
    first = spec_of(TINY, (1, 2, 1, 3), (20, 10, 5, 48))
    second = spec_of(TINY, (1, 2, 1, 1), (20, 10, 5, 9))
    schedule = Schedule((first, second), without_recovery(), "together", rescore=True)
    ends = run_phases(schedule, begin(), inputs, 0, rescoring)
    states = {end.phase.name: end.state for end in ends}
    one, two = states["r1/both"].kept, states["r2/both"].kept
    for before, after in zip(halves(one), halves(two), strict=True):
        for block in range(3):
            np.testing.assert_array_equal(before[block], after[block])
        assert not (after[3] & ~before[3]).any()
    assert list(states) == ["r1/both", "r1/both_recovery", "r2/score", "r2/both", "r2/both_recovery"]


def test_fresh_scores_rank_the_second_round(inputs):
    fresh = random_scores(HALF, seed=9)
    seen = []

    def score(model, kept):
        seen.append((model.spec, tuple(int(site.sum()) for site in kept)))
        return fresh

    schedule = Schedule((HALF, LEAST), without_recovery(), "together", rescore=True)
    end = run_schedule(schedule, begin(), inputs, 0, score)
    assert seen == [(HALF, HALF.widths)]
    start = begin()
    halved = prune(start.model, select(start.scores, HALF))
    assert_same(weights(end.model), weights(prune(halved, select(fresh, LEAST))))
    with pytest.raises(MedcoreError, match="no scorer is given"):
        run_schedule(schedule, begin(), inputs, 0)


@pytest.mark.parametrize(
    ("order", "rescore", "settings"),
    [*itertools.product(ORDERS, (False, True), (None,)), ("together", True, REFIT), ("mlp_first", False, REFIT)],
)
def test_a_resumed_schedule_ends_in_the_same_weights(order, rescore, settings, inputs, tmp_path):
    schedule = dataclasses.replace(ONE_SHOT, targets=(HALF, LEAST), order=order, rescore=rescore, refit=settings)
    states = []
    for end in run_phases(schedule, begin(), inputs, 5, rescoring):
        save(tmp_path / f"{len(states)}.safetensors", end.state.model)
        states.append(dataclasses.replace(end.state, model=None))
        whole = weights(end.state.model)
    assert len(states) == len(schedule.phases)
    for number, saved in enumerate(states):
        torch.manual_seed(number)
        state = dataclasses.replace(saved, model=load(tmp_path / f"{number}.safetensors"))
        before = weights(state.model)
        resumed = run_schedule(schedule, state, inputs, 5, rescoring)
        assert_same(weights(resumed.model), whole)
        assert_same(weights(state.model), before)


def test_the_seed_decides(inputs):
    ends = [run_schedule(ONE_SHOT, begin(), inputs, seed).model for seed in (0, 0, 1)]
    positions = [end.image_encoder.pos_embed for end in ends]
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])


def test_a_phase_runs_only_when_it_is_asked_for(inputs, monkeypatch):
    """So a scheduler that stops a trial saves the phases that are left."""
    phases = run_phases(ONE_SHOT, begin(), inputs, 0)
    monkeypatch.setattr("medcore.training.schedule.recover_in_parts", None)  # calling it would fail
    assert next(phases).phase.name == "heads"
    phases.close()


def test_a_state_from_another_phase_is_refused(inputs):
    start = begin()
    with pytest.raises(MedcoreError, match="pass the state saved after phase 1"):
        run_schedule(ONE_SHOT, dataclasses.replace(start, done=1), inputs, 0)
    with pytest.raises(MedcoreError, match="5 phases done"):
        run_schedule(ONE_SHOT, dataclasses.replace(start, done=5), inputs, 0)
    narrow = prune(start.model, select(start.scores, LEAST))
    with pytest.raises(MedcoreError, match="keeps more than the model has"):
        run_schedule(ONE_SHOT, start_of(narrow, random_scores(LEAST)), inputs, 0)


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(MedcoreError, match="unknown order 'sideways'; known are heads_first"):
        Schedule((HALF,), order="sideways")
    with pytest.raises(MedcoreError, match="round 2 keeps more than round 1"):
        Schedule((HALF, DENSE))
    with pytest.raises(MedcoreError, match="at least one target"):
        Schedule(())
    with pytest.raises(MedcoreError, match="keeps more than the model has"):
        rounds_to(HALF, DENSE, 2)


def test_every_block_may_be_emptied(inputs):
    nothing = spec_of(TINY, (0,) * TINY.depth, (0,) * TINY.depth)
    end = run_schedule(dataclasses.replace(ONE_SHOT, targets=(nothing,)), begin(), inputs, 0)
    assert end.model.spec == nothing
    with torch.no_grad():
        assert end.model.segment(inputs.images.tensor(), inputs.images.box_tensor()).isfinite().all()


def test_phases_have_streams_of_their_own(inputs, monkeypatch):
    seeds = []

    def note(run, pauses, file):
        seeds.append(run.seed)
        yield RecoveryLog()

    monkeypatch.setattr("medcore.training.schedule.recover_in_parts", note)
    run_schedule(ONE_SHOT, begin(), inputs, 0)
    run_schedule(ONE_SHOT, begin(), inputs, 1)
    assert len(np.unique(seeds)) == 4


def test_states_are_left_alone(inputs):
    start = begin()
    kept = copy.deepcopy(start.kept)
    run_schedule(ONE_SHOT, start, inputs, 0)
    for mine, theirs in zip(start.kept, kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("order", ORDERS)
def test_a_refit_follows_every_cut(order, inputs):
    """It sees the streams' own images, and its result is what the recovery starts from."""
    schedule = dataclasses.replace(ONE_SHOT, order=order, refit=REFIT, recovery=without_recovery())
    ends = list(run_phases(schedule, begin(), inputs, 0))
    kinds = [(end.phase.kind, end.refit is not None, end.log is not None) for end in ends]
    once = [("cut", False, False), ("refit", True, False), ("recovery", False, True)]
    assert kinds == once * (1 if order == "together" else 2)
    cut, fit, last = ends[-3:]
    assert fit.phase.name == cut.phase.name + "_refit" and fit.phase.families == cut.phase.families
    expected = copy.deepcopy(cut.state.model)
    log = refit(expected, inputs.streams, REFIT)
    assert fit.refit == log and log.branches
    assert_same(weights(fit.state.model), weights(expected))
    assert_same(weights(last.state.model), weights(expected))
    assert fit.state.kept == cut.state.kept and fit.state.scores == cut.state.scores


def test_refits_need_streams_and_some_images(inputs):
    schedule = dataclasses.replace(ONE_SHOT, refit=REFIT)
    with pytest.raises(ConfigError, match="no streams of the unpruned model"):
        next(run_phases(schedule, begin(), dataclasses.replace(inputs, streams=None), 0))
    none = dataclasses.replace(ONE_SHOT, refit=RefitSettings(images=0))
    assert not none.refits and none.phases == ONE_SHOT.phases
