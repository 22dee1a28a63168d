"""The searcher by itself: no Ray, but real studies on disk, killed and taken up again."""

from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from medcore.errors import MedcoreError
from results.stats.objectives import Objective
from results.store.trials import compact, trial_folder
from search.base.samplers import MISSING, SAMPLERS, Sampler, SamplerSettings, derived_seed
from search.base.schedulers import HALVING, NONE, SchedulerSettings
from search.driver.job import SearchJob
from search.driver.searcher import StudySearch
from search.trials.files import CHECKPOINT
from search.trials.ledger import all_issued
from tests.support.studies.rows import write_row

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))
WARM = [
    {"origin": "dense", "params": {"x": 1.0, "kind": "a", "budget": {"heads": [1, 2]}}},
    {"origin": "uniform 0.5", "params": {"x": 0.5}},
]


def space(trial: Any) -> dict[str, Any]:
    return {
        "x": trial.suggest_float("x", 0.01, 1.0, log=True),
        "y": trial.suggest_float("y", -1.0, 1.0),
        "kind": trial.suggest_categorical("kind", ("a", "b", "c")),
        "fixed": 7,
    }


def searcher(folder: Path, name: str = "tpe", scheduler: str = NONE, **options: Any) -> StudySearch:
    settings, scheduling = SamplerSettings(name, seed=3, population=4), SchedulerSettings(scheduler)
    job = SearchJob(folder, space, OBJECTIVES, 40, warm_starts=WARM, sampler=settings, scheduler=scheduling)
    return StudySearch(job, **options)


def told(search: StudySearch) -> list[FrozenTrial]:
    """What the sampler has heard so far."""
    return search._study.trials


def finish(folder: Path, search: StudySearch, tune_id: str, trial_id: str, **row: Any) -> None:
    """Write the row that a worker would, then report as Tune does."""
    params = json.loads((folder / "trials" / trial_id / "params.json").read_text())
    x, y = params["params"]["x"], params["params"]["y"]
    base = {"trial_id": trial_id, "number": params["number"], "status": "done", "cost": x, "quality": -((x - y) ** 2)}
    base |= {f"param/{key}": value for key, value in params["params"].items() if key != "budget"}
    write_row(folder, base | row)
    search.on_trial_complete(tune_id, {"done": True})


def run(folder: Path, search: StudySearch, count: int) -> list[str]:
    ids = []
    for i in range(count):
        ids.append(search.suggest(f"tune{i}")["trial_id"])
        finish(folder, search, f"tune{i}", ids[-1])
    return ids


def test_warm_starts_come_first_and_exactly(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    assert run(tmp_path, search, 3) == ["t0000", "t0001", "t0002"]
    dense, uniform, sampled = all_issued(tmp_path)
    assert dense.origin == "dense" and dense.params["budget"] == {"heads": [1, 2]} and dense.params["fixed"] == 7
    assert (dense.params["x"], dense.params["kind"]) == (1.0, "a")
    assert uniform.origin == "uniform 0.5" and uniform.params["x"] == 0.5 and -1 <= uniform.params["y"] <= 1
    assert sampled.origin == "sampled" and set(sampled.params) == {"x", "y", "kind", "fixed"}
    assert [trial.seed for trial in (dense, uniform, sampled)] == [derived_seed(3, i) for i in range(3)]
    assert [trial.state for trial in told(search)] == [TrialState.COMPLETE] * 3
    assert told(search)[0].values == [1.0, -((1 - dense.params["y"]) ** 2)]


@pytest.mark.parametrize("name", ["gaps", "tpe", "nsga2", "random"])
def test_killed_and_resumed(tmp_path: Path, name: str) -> None:
    """Finished trials are remembered, interrupted ones come back as they were, numbering continues."""
    first = searcher(tmp_path, name)
    run(tmp_path, first, 12)
    open_ids = [first.suggest(f"open{i}")["trial_id"] for i in range(2)]
    before = {trial.trial_id: trial for trial in all_issued(tmp_path)}

    second = searcher(tmp_path, name)
    known = told(second)
    assert [trial.state for trial in known] == [TrialState.COMPLETE] * 12
    assert [trial.values for trial in known] == [told(first)[i].values for i in range(12)]
    assert [trial.params for trial in known] == [told(first)[i].params for i in range(12)]
    key = "NSGAIISampler:generation"
    generations = [trial.system_attrs.get(key) for trial in known]
    assert generations == [trial.system_attrs.get(key) for trial in told(first)[:12]]
    assert generations == ([0] * 4 + [1] * 4 + [2] * 4 if name == "nsga2" else [None] * 12)

    again = [second.suggest(f"again{i}")["trial_id"] for i in range(4)]
    assert again == [*open_ids, "t0014", "t0015"]
    after = {trial.trial_id: trial for trial in all_issued(tmp_path)}
    assert all(after[trial_id] == trial for trial_id, trial in before.items())
    points = [tuple(trial.params[key] for key in ("x", "y")) for trial in after.values()]
    if name != "nsga2":  # its children may equal a parent
        assert len(set(points)) == len(points)  # the random stream does not start over
    for i, trial_id in enumerate(again):
        finish(tmp_path, second, f"again{i}", trial_id)
    assert [trial.state for trial in told(second)] == [TrialState.COMPLETE] * 16


def test_starting_points_are_known_by_their_origins(tmp_path: Path) -> None:
    """Another version has other starting points, in another order."""
    run(tmp_path, searcher(tmp_path), 1)
    starts = [{"origin": f"uniform {share}", "params": {"x": share}} for share in (0.3, 0.5, 0.5)]
    job = SearchJob(tmp_path, space, OBJECTIVES, 40, warm_starts=[starts[0], WARM[0], *starts[1:]])
    run(tmp_path, StudySearch(job), 2)
    run(tmp_path, StudySearch(job), 2)
    expected = ["dense", "uniform 0.3", "uniform 0.5", "uniform 0.5", "sampled"]
    assert [trial.origin for trial in all_issued(tmp_path)] == expected


def test_a_resumed_search_halves_the_gaps_that_are_left(tmp_path: Path) -> None:
    """A uniform budget leaves its gap, and so do repeats. Interrupted trials fill theirs."""

    def shares(trial: Any) -> dict[str, Any]:
        fraction = trial.suggest_float("fraction", 0.1, 0.9)
        return {"fraction": fraction, "x": fraction, "y": trial.suggest_float("y", -1.0, 1.0)}

    uniform = {"origin": "uniform 0.5", "params": {"fraction": 0.5, "y": 0.0}, "teaches": False}
    job = SearchJob(tmp_path, shares, OBJECTIVES, 40, warm_starts=[uniform], sampler=SamplerSettings("gaps", seed=3))
    first = StudySearch(job)
    run(tmp_path, first, 5)
    first.suggest("open")
    second = StudySearch(job)
    assert [second.suggest(f"again{i}")["trial_id"] for i in range(3)] == ["t0005", "t0006", "t0007"]
    found = [trial.params["fraction"] for trial in all_issued(tmp_path)]
    assert found == pytest.approx([0.5, 0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.4])


@pytest.mark.parametrize("name", ["gaps", "tpe", "nsga2", "random"])
def test_the_sampler_does_not_learn_from_a_stopped_trial(tmp_path: Path, name: str) -> None:
    """TPE would learn from a trial in the state PRUNED. A stopped trial is never issued again."""
    search = searcher(tmp_path, name)
    ids = [search.suggest(f"s{i}")["trial_id"] for i in range(4)]
    for i in range(4):
        status = {"status": "stopped", "reason": "stopped by the scheduler after heads"} if i % 2 else {}
        finish(tmp_path, search, f"s{i}", ids[i], **status)
    expected = [TrialState.COMPLETE, TrialState.FAIL] * 2
    assert [trial.state for trial in told(search)] == expected
    assert told(search)[1].values is None
    resumed = searcher(tmp_path, name)
    assert [trial.state for trial in told(resumed)] == expected
    assert run(tmp_path, resumed, 16)[0] == "t0004"


@pytest.mark.parametrize("name", ["gaps", "tpe", "nsga2", "random", "gp"])
def test_the_sampler_learns_what_a_stopped_trial_showed(tmp_path: Path, name: str) -> None:
    """Its figures are those of its last fidelity, and the missing share is a violated constraint."""
    search = searcher(tmp_path, name, HALVING)
    ids = [search.suggest(f"s{i}")["trial_id"] for i in range(3)]
    early = {"fidelity/refit/cost": 0.4, "fidelity/refit/quality": 0.1}
    later = {**early, "fidelity/part/cost": 0.4, "fidelity/part/quality": 0.2}
    for i, shown in enumerate((early, later, {})):
        stopped = {"status": "stopped", "cost": None, "quality": None, **shown} if shown else {}
        finish(tmp_path, search, f"s{i}", ids[i], **stopped)
    for trials in (told(search), told(searcher(tmp_path, name, HALVING))):
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
        assert [trial.values for trial in trials[:2]] == [[0.4, 0.1], [0.4, 0.2]]
        missing = [trial.constraints[MISSING] for trial in trials]
        assert missing[0] > missing[1] > missing[2] == 0
    run(tmp_path, searcher(tmp_path, name, HALVING), 15 if name != "gp" else 9)


def test_the_last_trials_repeat_the_front_and_teach_nothing(tmp_path: Path) -> None:
    settings = SamplerSettings("tpe", seed=3)
    job = SearchJob(tmp_path, space, OBJECTIVES, 12, warm_starts=WARM, finalists=4, sampler=settings)
    search = StudySearch(job)
    run(tmp_path, search, 12)
    trials = all_issued(tmp_path)
    assert [trial.repeats is None for trial in trials] == [True] * 8 + [False] * 4
    first = {trial.trial_id: trial for trial in trials}
    for trial in trials[8:]:
        assert trial.repeats is not None and trial.params == first[trial.repeats].params
        assert trial.seed != first[trial.repeats].seed and trial.origin == f"repeat of {trial.repeats}"
    assert [trial.state for trial in told(search)] == [TrialState.COMPLETE] * 8 + [TrialState.FAIL] * 4
    assert [trial.state for trial in told(StudySearch(job))] == [trial.state for trial in told(search)]


def with_weights(study: Path, count: int) -> None:
    """Give trials that are still to come their checkpoints."""
    for number in range(count):
        folder = trial_folder(study, f"t{number:04d}")
        folder.mkdir(parents=True)
        (folder / CHECKPOINT).write_bytes(b"weights")


def test_averages_follow_repeats_and_wait_for_those_that_run(tmp_path: Path) -> None:
    """Of six finalists three repeat and three average; the last of these waits while the last repeat runs."""
    job = SearchJob(tmp_path, space, OBJECTIVES, 12, warm_starts=WARM, finalists=6, averages=True)
    with_weights(tmp_path, 12)
    run(tmp_path, StudySearch(job), 8)
    search = StudySearch(job)
    assert search.suggest("last repeat") == {"trial_id": "t0008"}
    run(tmp_path, search, 2)
    assert search.suggest("waits") is None and len(all_issued(tmp_path)) == 11
    finish(tmp_path, search, "last repeat", "t0008")
    run(tmp_path, search, 1)
    trials = all_issued(tmp_path)
    assert [trial.repeats is not None for trial in trials] == [False] * 6 + [True] * 3 + [False] * 3
    assert [tuple(trial.averages) for trial in trials[9:]] == [(trial.repeats, trial.trial_id) for trial in trials[6:9]]
    assert [trial.state for trial in told(StudySearch(job))][6:] == [TrialState.FAIL] * 6


def test_a_run_that_was_put_off_ends_the_wait(tmp_path: Path) -> None:
    """Its node died, so it has no row and does not run; the next run of Tune issues it."""
    job = SearchJob(tmp_path, space, OBJECTIVES, 6, warm_starts=WARM, finalists=2, averages=True)
    with_weights(tmp_path, 6)
    run(tmp_path, StudySearch(job), 4)
    search = StudySearch(job)
    assert search.suggest("repeat") == {"trial_id": "t0004"} and search.suggest("waits") is None
    search.on_trial_complete("repeat", error=True)
    assert search.suggest("waits") == Searcher.FINISHED
    assert run(tmp_path, StudySearch(job), 2) == ["t0004", "t0005"]
    assert list(all_issued(tmp_path)[5].averages) == [all_issued(tmp_path)[4].repeats, "t0004"]


def test_a_study_that_is_made_longer_samples_before_it_repeats(tmp_path: Path) -> None:
    for trials, finalists, expected in (
        (5, 1, [False] * 4 + [True]),
        (10, 2, [False] * 4 + [True] + [False] * 4 + [True]),
    ):
        search = StudySearch(SearchJob(tmp_path, space, OBJECTIVES, trials, warm_starts=WARM, finalists=finalists))
        run(tmp_path, search, 5)
        assert [trial.repeats is not None for trial in all_issued(tmp_path)] == expected


def test_a_sampler_of_a_plug_in_is_chosen_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS._entries, "toy", Sampler(lambda settings, seed, trials: RandomSampler(seed)))
    assert run(tmp_path, searcher(tmp_path, "toy"), 4) == [f"t{number:04d}" for number in range(4)]


@pytest.mark.parametrize("name", ["gaps", "tpe", "nsga2", "random"])
def test_unusable_results_are_failures(tmp_path: Path, name: str) -> None:
    """Failed, non-finite, absent, or without a row at all: the sampler learns of a failure, and continues."""
    search = searcher(tmp_path, name)
    ids = [search.suggest(f"s{i}")["trial_id"] for i in range(5)]
    finish(tmp_path, search, "s0", ids[0], status="failed", reason="MemoryError: x")
    finish(tmp_path, search, "s1", ids[1], quality=math.nan)
    finish(tmp_path, search, "s2", ids[2], cost=-math.inf)
    search.on_trial_complete("s3", error=True)
    finish(tmp_path, search, "s4", ids[4])
    search.on_trial_complete("s4")  # twice is once
    expected = [TrialState.FAIL] * 4 + [TrialState.COMPLETE]
    assert [trial.state for trial in told(search)] == expected
    run(tmp_path, search, 15)
    states = [trial.state for trial in told(searcher(tmp_path, name))]
    assert states == [TrialState.FAIL] * 3 + [TrialState.COMPLETE] * 16  # s3 has no row: it is run again


def test_tpe_learns(tmp_path: Path) -> None:
    """Single objective, more trials: samples gather where it is good."""
    search = StudySearch(SearchJob(tmp_path, space, OBJECTIVES[:1], 40, sampler=SamplerSettings("tpe", seed=1)))
    run(tmp_path, search, 40)
    costs = [trial.values[0] for trial in told(search)]
    assert sum(costs[25:]) / 15 < 0.7 * sum(costs[:10]) / 10


def test_same_seed_same_trials(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, searcher(tmp_path / name), 15)
    assert all_issued(tmp_path / "a") == all_issued(tmp_path / "b")


def test_rows_of_removed_folders_count(tmp_path: Path) -> None:
    run(tmp_path, searcher(tmp_path), 4)
    before = told(searcher(tmp_path))
    compact(tmp_path)
    for trial_id in ("t0001", "t0003"):
        shutil.rmtree(trial_folder(tmp_path, trial_id))
    again = searcher(tmp_path)
    assert [trial.values for trial in told(again)] == [trial.values for trial in before]
    assert again.suggest("next")["trial_id"] == "t0004"


def test_a_corrupt_row_is_run_again_as_the_message_says(tmp_path: Path) -> None:
    run(tmp_path, searcher(tmp_path), 4)
    row = trial_folder(tmp_path, "t0002") / "row.json"
    row.write_text("{")
    with pytest.raises(MedcoreError, match="delete this file"):
        searcher(tmp_path)
    row.unlink()
    assert searcher(tmp_path).suggest("next")["trial_id"] == "t0002"


def test_tune_cannot_restore_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"build one on {tmp_path}"):
        searcher(tmp_path).restore("searcher.pkl")


@pytest.mark.filterwarnings("ignore:The value")
def test_a_changed_space_is_refused(tmp_path: Path) -> None:
    run(tmp_path, searcher(tmp_path), 3)
    for changed in (lambda t: {"z": t.suggest_float("z", 0, 1)}, lambda t: {"y": t.suggest_float("y", 5.0, 6.0)}):
        with pytest.raises(MedcoreError, match="does not fit the search space"):
            StudySearch(SearchJob(tmp_path, changed, OBJECTIVES, 40))
    with pytest.raises(MedcoreError, match="unknown sampler 'nsga'"):
        searcher(tmp_path, "nsga")


def test_a_row_that_network_storage_shows_late_is_waited_for(tmp_path: Path) -> None:
    """Otherwise the sampler would take a good trial for a failed one."""
    search = searcher(tmp_path)
    trial_id = search.suggest("tune0")["trial_id"]
    row = {"trial_id": trial_id, "number": 0, "status": "done", "cost": 1.0, "quality": -1.0}
    shown = threading.Timer(1.5, write_row, (tmp_path, row))
    shown.start()
    search.on_trial_complete("tune0", {"done": True, "row_written": True})
    shown.join()
    assert [trial.state for trial in told(search)] == [TrialState.COMPLETE]


def test_no_more_are_handed_out_than_may_run_and_places_that_come_are_used(tmp_path: Path) -> None:
    places = 2
    search = searcher(tmp_path, at_once=lambda: places)
    handed = [search.suggest(f"tune{number}") for number in range(3)]
    assert handed == [{"trial_id": "t0000"}, {"trial_id": "t0001"}, None] and len(all_issued(tmp_path)) == 2
    places = 3
    assert search.suggest("tune2") == {"trial_id": "t0002"} and search.suggest("tune3") is None
    finish(tmp_path, search, "tune1", "t0001")
    assert search.suggest("tune3") == {"trial_id": "t0003"}
    search.pause()
    assert search.suggest("tune4") == Searcher.FINISHED and search.problem is None
