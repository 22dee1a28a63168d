"""A recovery that pauses: the model at a pause, the result, and where a killed one continues."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.data.load import ImageSet
from medcore.models.sam import MedSam
from medcore.training.loop import RunningMean
from medcore.training.recovery import RecoveryFile, RecoveryLog, RecoverySettings, Training, recover_in_parts
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import RefitSettings
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, run_phases, start_of
from medcore.training.teacher import Teacher, compute_teacher
from tests.support.helpers import TINY, spec_of
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

SETTINGS = RecoverySettings(steps=12, lr=1e-3, batch_size=2, warmup=2, weight_decay=0.1, average=0.5)
#: Their means begin after steps 1, 3 and 6.
PAUSES = (2, 6)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(4)


@pytest.fixture(scope="module")
def teacher(images: ImageSet) -> Teacher:
    return compute_teacher(tiny_model(1), images)


@pytest.fixture
def run(images: ImageSet, teacher: Teacher) -> Training:
    return Training(tiny_model(2), images, teacher, SETTINGS, seed=5)


@pytest.fixture(scope="module")
def undisturbed(images: ImageSet, teacher: Teacher) -> dict[str, torch.Tensor]:
    """The weights of the same recovery without a pause or a file."""
    model = tiny_model(2)
    *_, log = recover_in_parts(Training(model, images, teacher, SETTINGS, seed=5))
    assert log.steps == 12
    return weights(model)


def with_average(run: Training, average: float) -> Training:
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, average=average))


def trace_of(run: Training) -> list[dict[str, torch.Tensor]]:
    """The weights after each step."""
    found: list[dict[str, torch.Tensor]] = []
    *_, log = recover_in_parts(with_average(run, 0.0), on_step=lambda *_: found.append(weights(run.model)))
    assert log.steps == len(found)
    return found


@pytest.mark.parametrize("average", [0.0, 0.1, 0.5])
def test_a_pause_changes_no_bit_of_the_result(images: ImageSet, teacher: Teacher, average: float) -> None:
    results = []
    for pauses in ((), (1,), PAUSES, tuple(range(13))):
        run = with_average(Training(tiny_model(2), images, teacher, SETTINGS, seed=5), average)
        *_, last = recover_in_parts(run, pauses)
        results.append((weights(run.model), last))
    for found, log in results[1:]:
        assert_same(found, results[0][0])
        assert log == results[0][1]


@pytest.mark.parametrize("average", [0.0, 0.1, 0.5])
def test_the_model_at_a_pause_holds_the_mean_of_the_last_steps_before_it(
    run: Training, images: ImageSet, teacher: Teacher, average: float
) -> None:
    after = trace_of(Training(tiny_model(2), images, teacher, SETTINGS, seed=5))
    steps, run = [], with_average(run, average)
    for log in recover_in_parts(run, PAUSES):
        count = max(1, round(average * log.steps))
        for name, value in weights(run.model).items():
            expected = torch.stack([each[name].double() for each in after[log.steps - count : log.steps]]).mean(dim=0)
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        steps.append(log.steps)
    assert steps == [2, 6, 12]


def test_pauses_at_the_ends_or_within_the_last_mean_are_left_out(run: Training) -> None:
    assert [log.steps for log in recover_in_parts(run, (6, 0, -1, 7, 12, 99, 6))] == [6, 12]


def test_a_recovery_without_steps_does_not_pause(run: Training) -> None:
    before = weights(run.model)
    none = dataclasses.replace(run, settings=dataclasses.replace(SETTINGS, steps=0))
    assert list(recover_in_parts(none, (0, 1))) == [RecoveryLog()]
    assert_same(weights(run.model), before)


@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_recovery_that_is_killed_after_a_pause_ends_in_the_same_bits(
    run: Training, images: ImageSet, teacher: Teacher, undisturbed: dict[str, torch.Tensor], tmp_path: Path, more: int
) -> None:
    """From the file at the pause it pauses again; from one that was saved later it does not."""
    path = tmp_path / "recovery.pt"
    file = RecoveryFile(path, 2, clock=lambda: 0.0)

    def leave(step: int, *_: object) -> None:
        if step + 1 == 2 + more:
            raise KeyboardInterrupt

    parts = recover_in_parts(run, (2,), on_step=leave if more else None, file=file)
    assert next(parts).steps == 2
    shown = weights(run.model)
    if more:
        with pytest.raises(KeyboardInterrupt):
            next(parts)
    parts.close()
    again = Training(tiny_model(2), images, teacher, SETTINGS, seed=5)
    stops = []
    for log in recover_in_parts(again, (2,), file=RecoveryFile(path, 0)):
        stops.append(log.steps)
        if log.steps == 2:
            assert_same(weights(again.model), shown)
    assert stops == ([2, 12] if more < 2 else [12])
    assert_same(weights(again.model), undisturbed)


def test_a_blow_up_ends_a_recovery_without_further_pauses(run: Training) -> None:
    before = weights(run.model)

    def poison(step: int, *_: object) -> None:
        if step == 3:
            with torch.no_grad():
                run.model.image_encoder.pos_embed.fill_(float("nan"))

    logs = [(log.steps, log.stopped) for log in recover_in_parts(run, PAUSES, on_step=poison)]
    assert [steps for steps, _ in logs] == [2, 4] and logs[0][1] is None and "non-finite loss" in str(logs[1][1])
    assert_same(weights(run.model), before)  # the copy of the start is the last good one


def test_a_running_mean_begins_anew_at_each_start() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    mean, values = RunningMean([parameter], [2, 5]), np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for step, value in enumerate(values):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))
        mean.saw(step)
        start = max((start for start in (2, 5) if start <= step), default=None)
        with mean.in_place():
            expected = value if start is None else values[start : step + 1].mean(axis=0)
            np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(parameter.detach(), value)


def test_the_last_recovery_of_a_schedule_pauses_and_reports_the_model_as_it_is(
    images: ImageSet, teacher: Teacher
) -> None:
    spec, refit = spec_of(TINY, (3, 1, 2, 0), (48, 20, 0, 30)), RefitSettings(images=3)
    inputs = Inputs(images, teacher, record_streams(tiny_model(1), images, refit))
    scores = tuple(map(np.random.default_rng(0).random, TINY.dense_widths))
    schedule = Schedule((spec,), {"heads": SETTINGS, "channels": SETTINGS}, refit=refit)

    def ends(pauses: tuple[float, ...]) -> list[tuple[PhaseEnd, dict[str, torch.Tensor]]]:
        paused = dataclasses.replace(schedule, pauses=pauses)
        start = start_of(tiny_model(1), scores)
        return [(end, weights(end.state.model)) for end in run_phases(paused, start, inputs, seed=3)]

    plain, halved = ends(()), ends((1 / 3,))
    paused = [end for end, _ in halved if end.paused]
    assert [(end.phase.name, end.state.done, end.log and end.log.steps) for end in paused] == [("mlp_recovery", 5, 12)]
    assert not any(end.paused for end, _ in plain)
    rest = [found for end, found in halved if not end.paused]
    for mine, (_, theirs) in itertools.zip_longest(rest, plain):
        assert_same(mine, theirs)


def test_models_are_left_alone(images: ImageSet, teacher: Teacher) -> None:
    """A generator that is given up in a pause leaves the model with the parameters' own flags."""
    model: MedSam = tiny_model(2)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    parts = recover_in_parts(Training(model, images, teacher, SETTINGS, seed=5), PAUSES)
    next(parts)
    parts.close()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
