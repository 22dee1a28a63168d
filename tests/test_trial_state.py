"""A trial's schedule that stops in the middle of a recovery goes on from there, and leaves nothing of it behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcore.groups import PerGroup
from medcore.recovery import RecoveryFile, RecoverySettings
from medcore.recovery_state import RecoveryState
from medcore.schedule import Schedule, start_of
from medcore.spec import EncoderSpec
from medcore.teacher import compute_teacher
from search.phases import load_state
from search.trial import run_recorded
from tests.helpers import TINY
from tests.training_samples import assert_same, random_images, tiny_model, weights

SETTINGS = RecoverySettings(steps=6, lr=1e-3, batch_size=2)
SCHEDULE = Schedule((EncoderSpec(TINY, (3, 1, 2, 0), (48, 20, 0, 30)),), SETTINGS, SETTINGS)


class Dying(RecoveryFile):
    """Ends the process's work right after the step it is told, counted over all recoveries."""

    left = 0

    def after_step(self, state: RecoveryState) -> None:
        super().after_step(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_trial_goes_on_within_a_recovery(tmp_path: Path, step: int) -> None:
    images = random_images(4)
    teacher = compute_teacher(tiny_model(), images)
    random = np.random.default_rng(0)
    dense = EncoderSpec.dense(TINY)
    scores = PerGroup(tuple(map(random.random, dense.heads)), tuple(map(random.random, dense.channels)))
    start = start_of(tiny_model(), scores)
    expected, series = run_recorded(SCHEDULE, start, images, teacher, 7)

    phase, within = tmp_path / "phase.safetensors", tmp_path / "recovery.pt"
    dying = Dying(within, 2, clock=lambda: 0.0)
    dying.left = step
    with pytest.raises(KeyboardInterrupt):
        run_recorded(SCHEDULE, start, images, teacher, 7, None, phase, dying)
    assert within.exists() == (step > 1)
    state, past = load_state(phase)
    file = Dying(within, 2, clock=lambda: 0.0)
    model, again = run_recorded(SCHEDULE, state, images, teacher, 7, None, phase, file, past)
    assert_same(weights(model), weights(expected))
    assert again == series
    assert file.left == -(12 - step // 2 * 2)  # steps before the last save are not done again
    assert not within.exists()
