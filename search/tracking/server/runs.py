"""Which runs a study has in MLflow: one parent run for the study, one child run for each trial.

Runs are found by their tags `medcore.study` and `medcore.trial_id`. A second run with the same identity appears when a
request to create one was carried out but its answer was lost or came too late; it is deleted here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from medcore.errors import TrackingError
from results.store.held_out import Measurement, held_out_means
from search.base.logins import hide_login
from search.tracking.note import sync_command
from search.tracking.points import COUNT_CURVE, Point, clean_key
from search.tracking.server.client import Server
from search.tracking.server.records import FRONT_TAG, PARENT_TAG, RANK_TAG, STUDY_TAG, TRIAL_TAG, NewRun, Run


@dataclass
class StudyRuns:
    """Runs of a study, as far as this process knows.

    Attributes:
        server: Where they are.
        experiment_id: Of the experiment that they belong to.
        parent: Run of the study.
        children: Trial -> its run.
        ended: Trials whose run has ended, which is the last thing that a trial's run gets.
        front: Trials that are tagged as on the front.
        ranks: Trial -> tagged rank.
        curve_length: Trials in the study's curves.
    """

    server: Server
    experiment_id: str
    parent: str
    children: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    front: set[str] = field(default_factory=set)
    ranks: dict[str, int] = field(default_factory=dict)
    curve_length: int = 0

    def check_alive(self) -> None:
        """Raise `TrackingError` if the server is away.

        Try twice, because a refused upload may break a connection.
        """
        with suppress(TrackingError):
            self.server.run(self.parent)
            return
        self.server.run(self.parent)


def open_runs(server: Server, experiment: str, new: NewRun, in_use: str = "") -> StudyRuns:
    """Look up the runs of a study.

    Create its experiment and its parent run if they are absent.

    Args:
        server: Where to look.
        experiment: Name of the experiment.
        new: The parent run, if it must be created; its tag `medcore.study` identifies the study.
        in_use: The parent run that this process has used so far, which is kept if there are several.

    Raises:
        TrackingError: The server is away or refuses.
    """
    experiment_id = server.experiment(experiment)
    known = server.runs(experiment_id, f"tags.`{STUDY_TAG}` = '{new.tags[STUDY_TAG]}'")
    if known:
        parent = _keep_one(server, known, in_use).run_id
        runs = StudyRuns(server, experiment_id, parent, curve_length=server.last_step(parent, COUNT_CURVE))
    else:
        runs = StudyRuns(server, experiment_id, server.create_run(experiment_id, new))
    by_trial: dict[str, list[Run]] = {}
    for run in _children(server, experiment_id, runs.parent):
        by_trial.setdefault(run.tags.get(TRIAL_TAG, ""), []).append(run)
    for trial_id, same in by_trial.items():
        _note_child(runs, trial_id, _keep_one(server, same, in_use))
    return runs


def find_parent(server: Server, experiment: str, condition: str) -> str | None:
    """Return the newest parent run of an experiment that meets a condition.

    Return None if there is no such run.

    Raises:
        TrackingError: The server is away or refuses.
    """
    experiment_id = server.find_experiment(experiment)
    if experiment_id is None:
        return None
    runs = server.runs(experiment_id, condition, newest_first=True)
    return next((run.run_id for run in runs if STUDY_TAG in run.tags), None)


def find_child(server: Server, parent: str, trial_id: str) -> str | None:
    """Return the run of a trial below a parent run, None if there is none.

    Raises:
        TrackingError: The server is away or refuses.
    """
    experiment_id = server.run(parent).experiment_id
    runs = server.runs(experiment_id, f"tags.`{PARENT_TAG}` = '{parent}' and tags.`{TRIAL_TAG}` = '{trial_id}'")
    return runs[0].run_id if runs else None


@dataclass(frozen=True)
class SentStudy:
    """Where a study's runs are.

    Attributes:
        uri: The server, with its login.
        experiment: Name of the experiment.
        study_id: Value of the parent run's tag `medcore.study`.
        folder: The study's folder, for advice.
    """

    uri: str
    experiment: str
    study_id: str
    folder: Path

    @property
    def advice(self) -> str:
        """Return what to do if runs are missing."""
        return f"send it with `{sync_command(self.folder, self.uri)}`"

    def parent(self, server: Server) -> str:
        """Return the parent run.

        Raises:
            TrackingError: The server is away or has no such run.
        """
        run_id = find_parent(server, self.experiment, f"tags.`{STUDY_TAG}` = '{self.study_id}'")
        if run_id is None:
            raise TrackingError(f"{hide_login(self.uri)} has no run of this study; {self.advice}")
        return run_id


def attach_files(study: SentStudy, files: Mapping[str, Path]) -> None:
    """Add files to the parent run, whose status stays.

    Args:
        study: Whose run to add to.
        files: Path below the run -> file to copy.

    Raises:
        TrackingError: The server is away, refuses, or has no run of the study, or the files cannot be copied.
    """
    server = Server(study.uri)
    run_id = study.parent(server)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for place, file in files.items():
                copy = Path(folder) / place
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            server.upload(run_id, Path(folder))
    except OSError as error:
        raise TrackingError(f"a temporary copy of the files cannot be made ({error.strerror})") from error


def attach_held_out(study: SentStudy, measurement: Measurement, candidates: int) -> None:
    """Add held-out metrics to a trial's run.

    Their names begin with `report/` or `finetuned/report/`. A tag says what was measured.

    Args:
        study: Whose run to add to.
        measurement: Figures of a pruned model.
        candidates: Number of pruned models measured on the same images.

    Raises:
        TrackingError: The server is away, refuses, or has no run of the trial.
    """
    server = Server(study.uri)
    run_id = find_child(server, study.parent(server), str(measurement.trial_id))
    if run_id is None:
        raise TrackingError(f"{hide_login(study.uri)} has no run of trial {measurement.trial_id}; {study.advice}")
    end = int(datetime.fromisoformat(measurement.measured).timestamp() * 1000)
    prefix = "finetuned/" if measurement.fine_tuned else ""
    figures = held_out_means(measurement)
    server.log(run_id, [Point(clean_key(prefix + name), value, end, 0) for name, value in figures.items()])
    text = f"{measurement.split}, {measurement.images} images; candidates measured on it: {candidates}"
    server.set_tag(run_id, f"medcore.{prefix.replace('/', '_')}held_out", text)


def why_not_writable(uri: str, experiment: str) -> str | None:
    """Return what is wrong with a server, None if a search can write there.

    The experiment is created if it is absent. It gets a tag, and a file that is deleted again.
    """
    try:
        server = Server(uri, retries=0)
        with suppress(TrackingError):  # one connection that broke proves nothing about the server
            server.find_experiment(experiment)
        server.find_experiment(experiment)
    except TrackingError as error:
        return f"cannot be reached ({error})"
    try:
        experiment_id = server.experiment(experiment)
        server.probe_experiment(experiment_id)
    except TrackingError as error:
        return f"cannot be written ({error})"
    try:
        server.probe_files(experiment_id)
    except TrackingError as error:
        return f"stores no files ({error}; are its bucket and key right?)"
    return None


def _note_child(runs: StudyRuns, trial_id: str, run: Run) -> None:
    runs.children[trial_id] = run.run_id
    if run.has_ended or run.status == "KILLED":  # by a scheduler; no other run of a trial has this status
        runs.ended.add(trial_id)
    if run.tags.get(FRONT_TAG) == "true":
        runs.front.add(trial_id)
    rank = run.tags.get(RANK_TAG, "")
    if rank.isdecimal():  # a user may have edited it
        runs.ranks[trial_id] = int(rank)


def _children(server: Server, experiment_id: str, run_id: str) -> list[Run]:
    return server.runs(experiment_id, f"tags.`{PARENT_TAG}` = '{run_id}'")


def _keep_one(server: Server, runs: Sequence[Run], in_use: str) -> Run:
    """Return the run to keep of several with one identity.

    Delete the others and their children.

    The order does not depend on the process that looks: most children first, then the run in use, an ended one, the
    oldest, the smallest id.
    """
    if len(runs) == 1:
        return runs[0]
    below = {run.run_id: _children(server, run.experiment_id, run.run_id) for run in runs}

    def order(run: Run) -> tuple[int, bool, bool, int, str]:
        return -len(below[run.run_id]), run.run_id != in_use, not run.has_ended, run.start, run.run_id

    keep, *others = sorted(runs, key=order)
    for run in others:
        for gone in (*below[run.run_id], run):
            server.delete_run(gone.run_id)
    return keep
