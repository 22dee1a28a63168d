"""Keep what people read in MLflow up to date: descriptions, the saved view of the front, figures that came later.

Everything is written only if it changed, so a second call sends nothing.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from results.pages.markdown import code
from results.stats.columns import DOUBT, SEEDS, SINGLE
from results.stats.labels import is_latency
from results.store.files import is_finite
from results.store.held_out import read_measurements
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow, row_of
from results.store.trials import all_rows, read_study
from search.base.logins import hide_login
from search.base.sections.tracking import FRONT, KNEE
from search.tracking import view
from search.tracking.delivery import Deadline
from search.tracking.note import StudyNote, own_uri
from search.tracking.pages.experiment import Entry, Newest, experiment_page
from search.tracking.pages.standing import Place, Standing
from search.tracking.pages.study import study_page
from search.tracking.pages.text import LONGEST, LONGEST_OF_EXPERIMENT, one_line, own_words, room_above
from search.tracking.pages.trial import ON_FRONT, member, trial_page
from search.tracking.points import Point, clean_key, run_metrics, run_times
from search.tracking.server.records import (
    AT_SERVER,
    BUDGET_TAG,
    KNEE_TAG,
    MODEL_TAG,
    NOTE_TAG,
    REGISTERED_TAG,
    SHEET_TAG,
    STANDING_TAG,
    STUDY_TAG,
    TAKE_TAG,
    Run,
)
from search.tracking.server.runs import StudyRuns

logger = logging.getLogger(__name__)

#: Most studies that the description of an experiment lists, the newest.
_MOST_STUDIES = 15


@dataclass(frozen=True)
class Described:
    """A study whose descriptions are kept up to date.

    Attributes:
        folder: The study's folder.
        note: How the study is described.
        uri: The server, with its login.
        runs: The study's runs there.
        deadline: Ends the sending between two requests.
        crowded: Runs whose description was left as it is, because it has no room above the user's own words.
    """

    folder: Path
    note: StudyNote
    uri: str
    runs: StudyRuns
    deadline: Deadline
    crowded: set[str] = field(default_factory=set)

    def standing(self, rows: Sequence[TrialRow], trials: pd.DataFrame, end: str) -> Standing:
        """Return how the study stands.

        Args:
            rows: The rows of all runs that have ended.
            trials: The same as a table in which a repeated trial has one row.
            end: MLflow's word for the state of the study's run.

        Raises:
            MedcoreError: A file of the study is corrupt.
        """
        statuses = Counter(str(row.status) for row in rows)
        return Standing(read_study_info(self.folder), trials, statuses, read_measurements(self.folder), end)

    def send(self, rows: Sequence[TrialRow], standing: Standing) -> None:
        """Bring up to date what people read.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        self._send_trials({row.trial_id: row for row in rows}, standing)
        parents = self._parents()
        self._send_study(standing, parents)
        # last what old servers may refuse: they keep short tags of experiments only
        self._send_view(standing.info)
        self._send_experiment(standing, parents)

    @property
    def front_page(self) -> str:
        """The page of the front, relative to the server."""
        return view.front_page(self.runs.experiment_id, self.note.study_id)

    def new_trial(self, row: TrialRow, info: StudyInfo) -> str:
        """Return the description that a trial's run has from its beginning."""
        return trial_page(row, info, view.run_page(self.runs.experiment_id, self.runs.parent))

    def _send_view(self, info: StudyInfo) -> None:
        name = view.VIEW_TAG + view.view_key(self.note.study_id)
        value = view.view_tag(info.name, view.view_state(self.runs.parent, info.objectives), self.runs.started)
        if self.runs.server.experiment_tags(self.runs.experiment_id).get(name) != value:
            self.runs.server.set_experiment_tag(self.runs.experiment_id, name, value)

    def _send_trials(self, rows: Mapping[str, TrialRow], standing: Standing) -> None:
        """Bring up to date the runs of trials on the front, and of those that have left it."""
        runs, best = self.runs, standing.knee
        records = {str(record["trial_id"]): record for record in standing.front}
        for trial_id in sorted(runs.children):
            tags = runs.tags.setdefault(trial_id, {})
            self.deadline.check()
            knee = "true" if trial_id == best else "false"
            if knee != tags.get(KNEE_TAG, "false"):
                runs.set_tag(trial_id, KNEE_TAG, knee)
            was_on_front = ON_FRONT in tags.get(NOTE_TAG, "")
            if trial_id in rows and (trial_id in records or was_on_front):
                notes = self._notes(trial_id, row_of(records[trial_id]), best) if trial_id in records else []
                page = view.run_page(runs.experiment_id, runs.parent)
                text = trial_page(rows[trial_id], standing.info, page, notes)
                self._set_note(runs.children[trial_id], tags, _always(text))
        for record in standing.trials.to_dict("records"):
            if record["trial_id"] in records or any(is_finite(record.get(name)) for name in (SEEDS, view.LATENCY)):
                self._send_figures(row_of(record))

    def _notes(self, trial_id: str, row: TrialRow, best: str | None) -> list[str]:
        """Return what the description of a member of the front says further."""
        run_id, tags = self.runs.children[trial_id], self.runs.tags[trial_id]
        notes = [member(row, self.front_page, trial_id == best)]
        if MODEL_TAG in tags:
            notes.append(f"Its model is {code(tags[MODEL_TAG])} among the artifacts.")
        if REGISTERED_TAG in tags:
            model = f"models:/{tags[REGISTERED_TAG]}"
            notes.append(f"Registered as {code(model)}.")
        for title, tag in (("budget", BUDGET_TAG), ("contact sheet", SHEET_TAG)):
            if tag in tags:
                notes.append(f"![{title}](get-artifact?path={quote(tags[tag])}&run_uuid={run_id})")
        return notes

    def _send_figures(self, row: TrialRow) -> None:
        """Add to a trial's run the figures that it has got since: means over runs, and measured times.

        A mean over n runs is a point at step n - 1, so tables of MLflow show it instead of the first run's figure.
        """
        runs = self.runs
        if row.trial_id not in runs.children:
            return
        is_doubtful = bool(row.to_flat().get(DOUBT))  # then no rule takes the times
        figures = {
            clean_key(key): value
            for key, value in run_metrics(row).items()
            # the figures of the first run are those at step 0
            if not key.startswith(SINGLE) and not (is_doubtful and is_latency(key))
        }
        known = runs.figures.setdefault(row.trial_id, {})
        new = {name: value for name, value in figures.items() if known.get(name) != value}
        if new:
            self.deadline.check()
            now, step = max(int(time.time() * 1000), run_times(row)[1]), int(row.figure(SEEDS) or 1) - 1
            runs.server.log(runs.children[row.trial_id], [Point(name, new[name], now, step) for name in new])
            known |= new

    def _parents(self) -> list[Run]:
        """Return the runs of all studies of the experiment, the newest first."""
        return self.runs.server.runs(self.runs.experiment_id, f"tags.`{STUDY_TAG}` != ''", newest_first=True)

    def _place(self, parents: Sequence[Run]) -> Place:
        runs = self.runs
        tags = {key: known for key, known in runs.tags.items() if key in runs.children}
        return Place(
            front=self.front_page,
            runs={key: view.run_page(runs.experiment_id, run_id) for key, run_id in runs.children.items()},
            folder=str(self.folder),
            server=self._server,
            address=_address(self.note.experiment, self.note.run_name, runs.parent, parents),
            models=frozenset(key for key, known in tags.items() if MODEL_TAG in known),
            registered={key: known[REGISTERED_TAG] for key, known in tags.items() if REGISTERED_TAG in known},
        )

    def _send_study(self, standing: Standing, parents: Sequence[Run]) -> None:
        runs = self.runs
        place, tags = self._place(parents), runs.parent_tags
        write = functools.partial(study_page, self.note, standing, place, picture=runs.picture)
        self._set_note(runs.parent, tags, write)
        for name, value in ((STANDING_TAG, self._line(standing)), (TAKE_TAG, self._take(standing))):
            if tags.get(name, "") != value:
                runs.server.set_tag(runs.parent, name, value)
                tags[name] = value

    def _line(self, standing: Standing) -> str:
        best = standing.chosen
        knee = "" if best is None else f"knee {one_line(best)} · "
        return knee + standing.state(self.note.params.get("search.trials", "?"))

    def _take(self, standing: Standing) -> str:
        """Return the value of the tag that says where the model of the knee is; empty without a front."""
        if standing.knee is None:
            return ""
        is_there = self._server is not None and MODEL_TAG in self.runs.tags.get(standing.knee, {})
        return AT_SERVER if is_there else str(self.folder)

    def _newest(self, standing: Standing, parents: Sequence[Run]) -> Newest:
        """Return where the model of the experiment's newest study is, which may be another study than this one."""
        if not parents:
            return Newest()
        run = parents[0]
        take = self._take(standing) if run.run_id == self.runs.parent else run.tags.get(TAKE_TAG, "")
        if take != AT_SERVER:
            return Newest(take)
        return Newest(_address(self.note.experiment, run.name, run.run_id, parents), self._server)

    def _send_experiment(self, standing: Standing, parents: Sequence[Run]) -> None:
        runs = self.runs
        entries = [
            Entry(
                run.name,
                view.front_page(runs.experiment_id, run.tags[STUDY_TAG]),
                view.run_page(runs.experiment_id, run.run_id),
                self._line(standing) if run.run_id == runs.parent else run.tags.get(STANDING_TAG, run.status.lower()),
            )
            for run in parents[:_MOST_STUDIES]
        ]
        earlier = runs.server.experiment_tags(runs.experiment_id).get(NOTE_TAG)
        own = own_words(earlier)
        text = experiment_page(entries, self._newest(standing, parents), LONGEST_OF_EXPERIMENT - len(own)) + own
        if text != earlier:
            runs.server.set_experiment_tag(runs.experiment_id, NOTE_TAG, text)

    @property
    def _server(self) -> str | None:
        """The server without a login; None for the file in the study's own folder."""
        return None if self.uri == own_uri(self.folder) else hide_login(self.uri)

    def _set_note(self, run_id: str, tags: dict[str, str], write: Callable[[int], str]) -> None:
        """Set the description of a run if it changed; what a user wrote below it stays.

        Args:
            run_id: The run.
            tags: Its tags as they are known, which are kept up to date.
            write: Returns the description, given how many characters it may have.
        """
        known = tags.get(NOTE_TAG, "")
        if known.startswith(write(room_above(own_words(known)))):
            return
        own = own_words(self.runs.server.run(run_id).tags.get(NOTE_TAG))
        text = write(room_above(own)) + own
        if len(text) > LONGEST:
            if run_id not in self.crowded:
                logger.warning(
                    "the description of run %s is not brought up to date: your own text below it leaves no room of the "
                    "%d characters that MLflow keeps; shorten it",
                    run_id,
                    LONGEST,
                )
                self.crowded.add(run_id)
            return
        self.runs.server.set_tag(run_id, NOTE_TAG, text)
        tags[NOTE_TAG] = text


def _always(text: str) -> Callable[[int], str]:
    """Return a description that is the same however much room it has."""
    return lambda _: text


def _address(experiment: str, name: str, run_id: str, parents: Sequence[Run]) -> str:
    """Return a study as commands take it.

    It goes by the name of its run, or by the run's id if another study has the name too.
    """
    is_clear = "/" not in name and sum(each.name == name for each in parents) == 1
    return f"mlflow:{experiment}/{name if is_clear else run_id}"


def refresh(study: Described) -> None:
    """Bring up to date what people read of a study that has ended or runs elsewhere.

    Raises:
        MedcoreError: The server is away, or a file of the study is corrupt.
    """
    status = study.runs.server.run(study.runs.parent).status
    study.send(rows := all_rows(study.folder), study.standing(rows, read_study(study.folder), status))


def models_of(wanted: str, info: StudyInfo, trials: pd.DataFrame) -> list[str]:
    """Return the trials whose models go to a server.

    Args:
        wanted: A value of `tracking.models`.
        info: The study.
        trials: Its trials, where a repeated trial has one row.
    """
    standing = Standing(info, trials)
    if wanted == KNEE:
        return [] if standing.knee is None else [standing.knee]
    return [str(record["trial_id"]) for record in standing.front] if wanted == FRONT else []
