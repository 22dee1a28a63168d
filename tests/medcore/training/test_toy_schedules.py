"""Schedules of an architecture with four families, one of which holds the sites of two others."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, save
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.training.orders import all_orders, orders, phase_names
from medcore.training.recovery import RecoverySettings
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings
from medcore.training.rounds import rounds_to
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, State, run_phases, start_of
from medcore.training.teacher import compute_teacher
from tests.support.helpers import TINY
from tests.support.toy.samples import DENSE, PLACES, TOY, toy_model
from tests.support.training_samples import assert_same, random_images, weights

#: Block 2 goes as a whole.
HALF = ModelSpec(TOY, (1, 0, 1, 1, 4, 3, 6, 10, 48, 4))
LEAST = ModelSpec(TOY, (1, 0, 0, 1, 0, 0, 3, 5, 0, 0))
STEPS = {"blocks": 1, "toy_heads": 2, "stem": 1, "hidden": 3}
RECOVERY = {name: RecoverySettings(steps=steps, lr=1e-3, batch_size=2) for name, steps in STEPS.items()}
REFIT = RefitSettings(batch_size=3)
ORDERS = orders(TOY.families)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(4)


@pytest.fixture(scope="module")
def inputs(images: ImageSet) -> Inputs:
    return Inputs(images, compute_teacher(toy_model(), images), record_streams(toy_model(), images, REFIT))


def random_scores(spec: ModelSpec = DENSE, seed: int = 0) -> PerSite:
    chance = np.random.default_rng(seed)
    return tuple(chance.random(width) for width in spec.widths)


def rescoring(model: MedSam, kept: PerSite) -> PerSite:
    """Fresh scores that depend on the model's weights, as real ones do."""
    norms = [value.detach().abs().sum().item() for value in model.image_encoder.parameters()]
    return random_scores(model.spec, seed=int(1e3 * sum(norms)) % 2**31)


def ends_of(schedule: Schedule, inputs: Inputs) -> list[PhaseEnd]:
    state = start_of(toy_model(), random_scores())
    return list(run_phases(schedule, state, inputs, 5, rescoring))


def test_orders_begin_with_each_stage() -> None:
    assert ORDERS == ("blocks_first", "toy_heads_first", "stem_first", "hidden_first", "together")
    assert set(ORDERS) <= set(all_orders())
    names = [name for name, _ in phase_names("stem_first", TOY.families)]
    assert names == ["stem", "blocks", "toy_heads", "hidden"]
    assert [name for name, _ in phase_names("together", TOY.families)] == ["all"]
    # another architecture's order stands for the families' own
    assert phase_names("mlp_first", TOY.families) == phase_names("blocks_first", TOY.families)
    with pytest.raises(MedcoreError, match="unknown order 'sideways'"):
        phase_names("sideways", TOY.families)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_cuts_recovers_and_ends_at_the_target(order: str, inputs: Inputs) -> None:
    ends = ends_of(Schedule((HALF,), RECOVERY, order), inputs)
    first = {"blocks_first": "blocks", "together": "all"}.get(order, order.removesuffix("_first"))
    assert [end.phase.name for end in ends][:2] == [first, f"{first}_recovery"]
    assert len(ends) == (2 if order == "together" else 8)
    assert sum(end.log.steps for end in ends if end.log is not None) == sum(STEPS.values())
    assert all(np.isfinite(end.log.losses).all() for end in ends if end.log is not None)
    assert all(end.log.stopped is None for end in ends if end.log is not None)
    for end in ends:
        state = end.state
        assert tuple(int(kept.sum()) for kept in state.kept) == state.model.spec.widths
    end = ends[-1].state
    assert end.model.spec == HALF
    # running statistics were cut, not trained
    kept = end.kept[PLACES["stem/00"]]
    expected = toy_model().image_encoder.stem.norm.running_mean[torch.from_numpy(kept)]
    assert torch.equal(end.model.image_encoder.stem.norm.running_mean, expected)
    with torch.no_grad():
        images = inputs.images
        assert end.model.segment(images.tensor(), images.box_tensor()).isfinite().all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 3])
def test_without_recovery_all_schedules_prune_alike(order: str, count: int, inputs: Inputs) -> None:
    none = dict.fromkeys(STEPS, RecoverySettings(steps=0))
    end = ends_of(Schedule(rounds_to(DENSE, HALF, count), none, order), inputs)[-1].state
    masks = select(random_scores(), HALF)
    assert_same(weights(end.model), weights(prune(toy_model(), masks)))
    for kept, mask in zip(end.kept, masks, strict=True):
        np.testing.assert_array_equal(kept, mask)


@pytest.mark.parametrize(
    ("order", "rescore", "refit"),
    [
        *itertools.product(("blocks_first", "hidden_first", "together"), (False, True), (None,)),
        ("together", True, REFIT),
    ],
)
def test_a_resumed_schedule_ends_in_the_same_weights(
    order: str, rescore: bool, refit: RefitSettings | None, inputs: Inputs, tmp_path: Path
) -> None:
    schedule = Schedule((HALF, LEAST), RECOVERY, order, rescore, refit)
    states = []
    for end in ends_of(schedule, inputs):
        save(tmp_path / f"{len(states)}.safetensors", end.state.model)
        states.append(dataclasses.replace(end.state, model=None))  # type: ignore[arg-type]
        whole = weights(end.state.model)
    assert len(states) == len(schedule.phases)
    for number, saved in list(enumerate(states))[::3]:
        state = dataclasses.replace(saved, model=load(tmp_path / f"{number}.safetensors"))
        for end in run_phases(schedule, state, inputs, 5, rescoring):
            state = end.state
        assert state.model.spec == LEAST
        assert_same(weights(state.model), whole)


def test_scored_cut_recovered_and_scored_again(inputs: Inputs) -> None:
    """The whole way with real scores of both models."""
    base, adapted = toy_model(1), toy_model()

    def score(model: MedSam, kept: PerSite) -> PerSite:
        return mix(build_table(prune(base, kept), model, inputs.images), ScoringWeights(tau=0.5), TOY)

    dense = tuple(np.ones(width, bool) for width in DENSE.widths)
    state: State = start_of(adapted, score(adapted, dense))
    for end in run_phases(Schedule((HALF, LEAST), RECOVERY, rescore=True), state, inputs, 0, score):
        state = end.state
        assert tuple(map(len, state.scores)) == state.model.spec.widths
        assert all(np.isfinite(values).all() for values in state.scores)
    assert state.model.spec == LEAST and state.done == 17


def test_recovery_lowers_the_loss(inputs: Inputs) -> None:
    settings = dict.fromkeys(STEPS, RecoverySettings(steps=10, lr=3e-3, batch_size=4))
    log = ends_of(Schedule((HALF,), settings, "together"), inputs)[-1].log
    assert log is not None and np.mean(log.losses[-5:]) < np.mean(log.losses[:5])


def test_an_order_of_another_architecture_is_taken() -> None:
    tiny = Schedule((ModelSpec.dense(TINY),), order="stem_first")
    assert [phase.name for phase in tiny.phases] == ["heads", "heads_recovery", "mlp", "mlp_recovery"]
