import copy
import dataclasses

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.training.orders import orders
from medcore.training.recovery import RecoverySettings
from medcore.training.schedule import Schedule, State, rounds_to, run_phases, start_of
from medcore.training.teacher import compute_teacher
from tests.support.helpers import TINY, halves, spec_of
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

ORDERS = orders(TINY.families)
RECOVERY = RecoverySettings(steps=3, lr=1e-3, batch_size=2)
DENSE = ModelSpec.dense(TINY)
HALF = spec_of(TINY, (3, 1, 2, 0), (48, 20, 0, 30))
LEAST = spec_of(TINY, (1, 1, 0, 0), (10, 20, 0, 5))
ONE_SHOT = Schedule((HALF,), {"heads": RECOVERY, "channels": dataclasses.replace(RECOVERY, steps=2)})


@pytest.fixture(scope="module")
def images():
    return random_images(4)


@pytest.fixture(scope="module")
def teacher(images):
    return compute_teacher(tiny_model(), images)


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


def run_schedule(schedule, state, images, teacher, seed, score=None):
    """The state after all phases."""
    for end in run_phases(schedule, state, images, teacher, seed, score):
        state = end.state
    return state


@pytest.mark.parametrize("order", ORDERS)
def test_phases_widths_and_logs(order, images, teacher):
    start = begin()
    before, seen = weights(start.model), []
    schedule = dataclasses.replace(ONE_SHOT, order=order)
    for end in run_phases(schedule, start, images, teacher, 0):
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
def test_without_recovery_all_schedules_prune_alike(order, count, images, teacher):
    """The lowest scores go first, however many steps it takes and whichever family leads."""
    start = begin()
    schedule = Schedule(rounds_to(DENSE, HALF, count), without_recovery(), order)
    end = run_schedule(schedule, start, images, teacher, 0)
    masks = select(start.scores, HALF)
    assert_same(weights(end.model), weights(prune(start.model, masks)))
    for kept, mask in zip(end.kept, masks, strict=True):
        np.testing.assert_array_equal(kept, mask)


def test_rounds_are_equal_steps_and_take_all_recovery_steps_between_them(images, teacher):
    targets = rounds_to(DENSE, LEAST, 4)
    assert [target.family("channels")[3] for target in targets] == [37, 26, 16, 5]
    assert [target.family("heads")[0] for target in targets] == [2, 2, 1, 1]
    assert targets[-1] == LEAST
    schedule = Schedule(targets, {"heads": dataclasses.replace(RECOVERY, steps=6), "channels": RECOVERY})
    counts = {phase.name: schedule.recovery_of(phase).steps for phase in schedule.phases if phase.is_recovery}
    assert sum(counts.values()) == 6 + 3
    assert counts["r1/heads_recovery"] == 1 and counts["r2/heads_recovery"] == 2
    assert len(schedule.phases) == 16


def test_two_stages_keep_the_first_masks(images, teacher):
    """The second stage cuts only the last block, so what the first left of the others is untouched."""
    first = spec_of(TINY, (1, 2, 1, 3), (20, 10, 5, 48))
    second = spec_of(TINY, (1, 2, 1, 1), (20, 10, 5, 9))
    schedule = Schedule((first, second), without_recovery(), "together", rescore=True)
    ends = run_phases(schedule, begin(), images, teacher, 0, rescoring)
    states = {end.phase.name: end.state for end in ends}
    one, two = states["r1/both"].kept, states["r2/both"].kept
    for before, after in zip(halves(one), halves(two), strict=True):
        for block in range(3):
            np.testing.assert_array_equal(before[block], after[block])
        assert not (after[3] & ~before[3]).any()
    assert list(states) == ["r1/both", "r1/both_recovery", "r2/score", "r2/both", "r2/both_recovery"]


def test_fresh_scores_rank_the_second_round(images, teacher):
    fresh = random_scores(HALF, seed=9)
    seen = []

    def score(model, kept):
        seen.append((model.spec, tuple(int(site.sum()) for site in kept)))
        return fresh

    schedule = Schedule((HALF, LEAST), without_recovery(), "together", rescore=True)
    end = run_schedule(schedule, begin(), images, teacher, 0, score)
    assert seen == [(HALF, HALF.widths)]
    start = begin()
    halved = prune(start.model, select(start.scores, HALF))
    assert_same(weights(end.model), weights(prune(halved, select(fresh, LEAST))))
    with pytest.raises(MedcoreError, match="no scorer is given"):
        run_schedule(schedule, begin(), images, teacher, 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rescore", [False, True])
def test_a_resumed_schedule_ends_in_the_same_weights(order, rescore, images, teacher, tmp_path):
    schedule = dataclasses.replace(ONE_SHOT, targets=(HALF, LEAST), order=order, rescore=rescore)
    states = []
    for end in run_phases(schedule, begin(), images, teacher, 5, rescoring):
        save(tmp_path / f"{len(states)}.safetensors", end.state.model)
        states.append(dataclasses.replace(end.state, model=None))
        whole = weights(end.state.model)
    assert len(states) == len(schedule.phases)
    for number, saved in enumerate(states):
        torch.manual_seed(number)
        state = dataclasses.replace(saved, model=load(tmp_path / f"{number}.safetensors"))
        before = weights(state.model)
        resumed = run_schedule(schedule, state, images, teacher, 5, rescoring)
        assert_same(weights(resumed.model), whole)
        assert_same(weights(state.model), before)


def test_the_seed_decides(images, teacher):
    ends = [run_schedule(ONE_SHOT, begin(), images, teacher, seed).model for seed in (0, 0, 1)]
    positions = [end.image_encoder.pos_embed for end in ends]
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])


def test_a_phase_runs_only_when_it_is_asked_for(images, teacher, monkeypatch):
    """So a scheduler that stops a trial saves the phases that are left."""
    phases = run_phases(ONE_SHOT, begin(), images, teacher, 0)
    monkeypatch.setattr("medcore.training.schedule.recover", None)  # calling it would fail
    assert next(phases).phase.name == "heads"
    phases.close()


def test_a_state_from_another_phase_is_refused(images, teacher):
    start = begin()
    with pytest.raises(MedcoreError, match="pass the state saved after phase 1"):
        run_schedule(ONE_SHOT, dataclasses.replace(start, done=1), images, teacher, 0)
    with pytest.raises(MedcoreError, match="5 phases done"):
        run_schedule(ONE_SHOT, dataclasses.replace(start, done=5), images, teacher, 0)
    narrow = prune(start.model, select(start.scores, LEAST))
    with pytest.raises(MedcoreError, match="keeps more than the model has"):
        run_schedule(ONE_SHOT, start_of(narrow, random_scores(LEAST)), images, teacher, 0)


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(MedcoreError, match="unknown order 'sideways'; known are heads_first"):
        Schedule((HALF,), order="sideways")
    with pytest.raises(MedcoreError, match="round 2 keeps more than round 1"):
        Schedule((HALF, DENSE))
    with pytest.raises(MedcoreError, match="at least one target"):
        Schedule(())
    with pytest.raises(MedcoreError, match="keeps more than the model has"):
        rounds_to(HALF, DENSE, 2)


def test_every_block_may_be_emptied(images, teacher):
    nothing = spec_of(TINY, (0,) * TINY.depth, (0,) * TINY.depth)
    end = run_schedule(dataclasses.replace(ONE_SHOT, targets=(nothing,)), begin(), images, teacher, 0)
    assert end.model.spec == nothing
    with torch.no_grad():
        assert end.model.segment(images.tensor(), images.box_tensor()).isfinite().all()


def test_phases_have_streams_of_their_own(images, teacher, monkeypatch):
    seeds = []

    def note(model, images, teacher, settings, seed, file):
        seeds.append(seed)

    monkeypatch.setattr("medcore.training.schedule.recover", note)
    run_schedule(ONE_SHOT, begin(), images, teacher, 0)
    run_schedule(ONE_SHOT, begin(), images, teacher, 1)
    assert len(np.unique(seeds)) == 4


def test_states_are_left_alone(images, teacher):
    start = begin()
    kept = copy.deepcopy(start.kept)
    run_schedule(ONE_SHOT, start, images, teacher, 0)
    for mine, theirs in zip(start.kept, kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)
