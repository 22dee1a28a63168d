"""Which runs a study has in MLflow: one parent run for the study, one child run for each trial.

Runs are found by their tags `medcore.study` and `medcore.trial_id`. A second run with the same identity appears when a
request to create one was carried out but its answer was lost or came too late; it is deleted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medcore.errors import TrackingError
from search.base.logins import hide_login
from search.tracking.note import sync_command
from search.tracking.points import COUNT_CURVE
from search.tracking.server.client import Server
from search.tracking.server.records import (
    FRONT_TAG,
    PARENT_TAG,
    PICTURE_TAG,
    RANK_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    NewRun,
    Run,
)

#: Set on an experiment before a search, to find out whether it can be written; the same each time.
_PROBE_TAG = ("medcore.searches", "true")


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
        tags: Trial -> tags of its run.
        figures: Trial -> latest metrics of its run.
        parent_tags: Tags of the study's run.
        started: When the study's run began, in milliseconds.
    """

    server: Server
    experiment_id: str
    parent: str
    children: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    front: set[str] = field(default_factory=set)
    ranks: dict[str, int] = field(default_factory=dict)
    curve_length: int = 0
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    parent_tags: dict[str, str] = field(default_factory=dict)
    started: int = 0

    @property
    def picture(self) -> str:
        """Address of the front's picture, relative to the server; empty if there is none."""
        name = self.parent_tags.get(PICTURE_TAG)
        return f"get-artifact?path={name}&run_uuid={self.parent}" if name else ""

    def set_tag(self, trial_id: str, name: str, value: str) -> None:
        """Set a tag of a trial's run unless it is set.

        Raises:
            TrackingError: The server is away.
        """
        tags = self.tags.setdefault(trial_id, {})
        if tags.get(name) != value:
            self.server.set_tag(self.children[trial_id], name, value)
            tags[name] = value

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
        runs = _runs_below(server, _keep_one(server, known, in_use))
    else:
        runs = _runs_below(server, server.run(server.create_run(experiment_id, new)))
    _note_children(runs, in_use)
    return runs


def _runs_below(server: Server, parent: Run) -> StudyRuns:
    """Return the runs of a study whose trials are not looked up yet."""
    return StudyRuns(
        server,
        parent.experiment_id,
        parent.run_id,
        curve_length=server.last_step(parent.run_id, COUNT_CURVE),
        parent_tags=dict(parent.tags),
        started=parent.start,
    )


def _note_children(runs: StudyRuns, in_use: str = "") -> None:
    server = runs.server
    by_trial: dict[str, list[Run]] = {}
    for run in _children(server, runs.experiment_id, runs.parent):
        by_trial.setdefault(run.tags.get(TRIAL_TAG, ""), []).append(run)
    for trial_id, same in by_trial.items():
        _note_child(runs, trial_id, _keep_one(server, same, in_use))


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

    def runs(self, server: Server) -> StudyRuns:
        """Return the study's runs.

        Raises:
            TrackingError: The server is away or has no run of the study.
        """
        runs = _runs_below(server, server.run(self.parent(server)))
        _note_children(runs)
        return runs


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
        server.set_experiment_tag(experiment_id, *_PROBE_TAG)
    except TrackingError as error:
        return f"cannot be written ({error})"
    try:
        server.probe_files(experiment_id)
    except TrackingError as error:
        return f"stores no files ({error}; are its bucket and key right?)"
    return None


def _note_child(runs: StudyRuns, trial_id: str, run: Run) -> None:
    runs.children[trial_id] = run.run_id
    runs.tags[trial_id], runs.figures[trial_id] = dict(run.tags), dict(run.metrics)
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
