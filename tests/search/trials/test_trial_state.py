"""A schedule that stops in the middle of a recovery continues from there, and leaves nothing of it behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcore.models.checkpoint import load_with_info, save
from medcore.models.formats import content
from medcore.models.spec import ModelSpec
from medcore.training.recovery import RecoveryFile, RecoverySettings
from medcore.training.recovery_state import RecoveryState
from medcore.training.refit.dense_streams import record_streams
from medcore.training.refit.refit import BranchFit, RefitLog, RefitSettings
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, State, start_of
from medcore.training.teacher import compute_teacher
from search.trials.attempt import Superseded, begin
from search.trials.meter import PhasePoint
from search.trials.phase_file import History, load_state, save_state
from search.trials.recorder import Recorder, run_recorded
from tests.support.helpers import TINY, spec_of
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

SETTINGS = RecoverySettings(steps=6, lr=1e-3, batch_size=2, average=0.5)
REFIT = RefitSettings(images=3)
SCHEDULE = Schedule(
    (spec_of(TINY, (3, 1, 2, 0), (48, 20, 0, 30)),), {"heads": SETTINGS, "channels": SETTINGS}, refit=REFIT
)


class Dying(RecoveryFile):
    """Ends the process's work right after a given step, counted over all recoveries."""

    left = 0

    def after_step(self, state: RecoveryState) -> None:
        super().after_step(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def start_state() -> State:
    random = np.random.default_rng(0)
    dense = ModelSpec.dense(TINY)
    scores = tuple(map(random.random, dense.widths))
    return start_of(tiny_model(), scores)


def some_inputs() -> Inputs:
    images = random_images(4)
    return Inputs(images, compute_teacher(tiny_model(), images), record_streams(tiny_model(), images, REFIT))


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_trial_goes_on_within_a_recovery(tmp_path: Path, step: int) -> None:
    inputs = some_inputs()
    start = start_state()
    expected, history = run_recorded(SCHEDULE, start, inputs, 7)

    phase, within = tmp_path / "phase.safetensors", tmp_path / "recovery.pt"
    dying = Dying(within, 2, clock=lambda: 0.0)
    dying.left = step
    with pytest.raises(KeyboardInterrupt):
        run_recorded(SCHEDULE, start, inputs, 7, recorder=Recorder(phase, dying))
    assert within.exists() == (step > 1)
    file = Dying(within, 2, clock=lambda: 0.0)
    recorder = Recorder(phase, file)
    state = recorder.resume()
    assert state is not None
    model, resumed = run_recorded(SCHEDULE, state, inputs, 7, recorder=recorder)
    assert_same(weights(model), weights(expected))
    assert resumed == history
    losses = [point for point in history.points if point.name == "loss"]
    errors = [(point.phase, point.step) for point in history.points if point.name == "refit_error_after"]
    assert len(losses) == 12
    assert errors == [(f"{stage}_refit", step) for stage in ("heads", "mlp") for step in range(7)]  # block 0 is whole
    assert file.left == -(12 - step // 2 * 2)  # steps before the last save are not done again
    assert not within.exists()


def test_a_trial_begun_elsewhere_stops_after_its_phase_and_leaves_the_others_files(tmp_path: Path) -> None:
    inputs = some_inputs()
    phase, within = tmp_path / "phase.safetensors", RecoveryFile(tmp_path / "recovery.pt", 0)
    attempt = begin(tmp_path, "t0000", "a node")
    begin(tmp_path, "t0000", "another node")
    (tmp_path / "recovery.pt").write_bytes(b"the other one's")
    recorder = Recorder(phase, within, attempt)
    with pytest.raises(Superseded, match=r"t0000 .* another node"):
        run_recorded(SCHEDULE, start_state(), inputs, 7, recorder=recorder)
    assert not phase.exists() and (tmp_path / "recovery.pt").read_bytes() == b"the other one's"


def test_a_state_replaced_while_it_is_read_is_one_of_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, states = tmp_path / "phase.safetensors", []
    for done in (1, 2):
        state = start_state()
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.fill_(done)
        states.append(State(state.model, state.kept, state.scores, done))
    save_state(path, states[0], History())
    safe_open = content.safe_open

    def open_and_replace(*arguments: Any, **options: Any) -> Any:
        file = safe_open(*arguments, **options)
        save_state(path, states[1], History())
        return file

    monkeypatch.setattr(content, "safe_open", open_and_replace)
    for done in (1, 2):
        state, _ = load_state(path)
        values = {value for parameter in state.model.parameters() for value in parameter.detach().unique().tolist()}
        assert state.done == done and values == {done}


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its series held each note in the point of the event."""
    path, state = tmp_path / "phase.safetensors", start_state()
    history = History([PhasePoint("heads_recovery", 0, "loss", 0.5)], ["heads_recovery ended early: why"])
    save_state(path, state, history)
    model, info = load_with_info(path)
    series = [
        *json.loads(info["series"]),
        {"phase": "heads_recovery", "step": 1, "name": "stopped_early", "value": 1.0},
    ]
    series[-1]["note"] = history.notes[0]
    del info["notes"]
    save(path, model, info | {"series": json.dumps(series)})
    _, found = load_state(path)
    event = PhasePoint("heads_recovery", 1, "stopped_early", 1.0)
    assert found == History([*history.points, event], history.notes)


def test_the_trouble_of_a_refit_is_noted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "phase.safetensors")
    phase = next(phase for phase in SCHEDULE.phases if phase.kind == "refit")
    fits = [BranchFit("heads/00", 0.5, 0.25), BranchFit("channels/00", float("nan"), float("nan"), "why")]
    recorder.record(PhaseEnd(phase, start_state(), refit=RefitLog(fits)))
    assert recorder.history.notes == ["heads_refit: channels/00: why"]
    assert recorder.history.points == [
        PhasePoint("heads_refit", 0, "refit_error_before", 0.5),
        PhasePoint("heads_refit", 0, "refit_error_after", 0.25),
        PhasePoint("heads_refit", 2, "refit_problem", 1.0),
    ]
    assert "refit" in recorder.meter.seconds
    assert Recorder(tmp_path / "phase.safetensors").resume() is not None
