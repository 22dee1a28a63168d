"""Sending a study to its runs in MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medcore.errors import TrackingError
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.store.held_out import FOLDER as HELD_OUT
from results.store.held_out import held_out_files
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import checkpoint_file, compact, read_phases, read_row, read_with_intervals
from search.base.logins import hide_login
from search.tracking import points
from search.tracking.delivery import Deadline, Delivery
from search.tracking.pages.standing import Standing
from search.tracking.server.attach import copied, shrink
from search.tracking.server.descriptions import Described
from search.tracking.server.records import (
    BUDGET_TAG,
    FRONT_TAG,
    MODEL_TAG,
    NOTE_TAG,
    PARENT_TAG,
    PICTURE_TAG,
    RANK_TAG,
    NewRun,
)
from search.tracking.server.runs import StudyRuns
from search.tracking.tracker import End

#: Files from which a study can be brought back, see `search.tracking.remote`.
STUDY_FILES = ("study.json", "config.yaml", "trials.parquet", "images.parquet", "latency.json", HELD_OUT)
#: Names of pictures among the files of runs: the front, and the budget of a trial.
PICTURE, BUDGET = "front.png", "budget.png"
#: Set on the parent run when it has everything that describes the study.
_DESCRIBED = "medcore.described"


class Sender:
    """Sends a study's rows and remembers what its runs have.

    After a failure it is unknown whether the server carried out the last request, so the tracker then drops this
    object and makes another one from what the server has.

    Args:
        described: The study, and its runs as they are at the server.
        delivery: Receives what has arrived.
    """

    def __init__(self, described: Described, delivery: Delivery) -> None:
        self.runs = described.runs
        self.files = StudyFiles(described.folder, delivery, described.deadline)
        self._described = described
        self._study_dir = described.folder
        self._info = read_study_info(described.folder)
        self._delivery = delivery
        self._deadline = described.deadline
        delivery.arrived = set(self.runs.ended)

    def describe(self) -> None:
        """Add to the parent run what it lacks.

        An earlier attempt may have stopped at any point.

        Raises:
            MedcoreError: The server is away, or the study's own files are corrupt.
            OutOfTimeError: The deadline has passed.
        """
        server, parent, note = self.runs.server, self.runs.parent, self._described.note
        present = server.run(parent)
        if present.tags.get(_DESCRIBED) == "true":
            return
        # MLflow refuses another value for a parameter, and a resumed study may have one
        params = {key: value for key, value in note.params.items() if key not in present.params}
        server.log(parent, [], params)
        if note.datasets:
            server.log_datasets(parent, note.datasets)
        if NOTE_TAG not in present.tags:
            self.send_texts([], pd.DataFrame(), "RUNNING")
        self.files.send(self.runs, ["config.yaml", "scores.png"])
        if not self._delivery.files_refused:
            server.set_tag(parent, _DESCRIBED, "true")

    def send_trials(self, rows: Sequence[TrialRow]) -> None:
        """Send the trials that have not arrived. One with corrupt files is left out.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        for row in rows:
            if row.trial_id not in self._delivery.arrived:
                self._deadline.check()
                with self._delivery.skipping(row.trial_id):
                    self._send_trial(row)

    def _send_trial(self, row: TrialRow) -> None:
        """Create a run, fill it and end it.

        Only a run that has ended counts as sent; another one is filled again.
        """
        server, runs = self.runs.server, self.runs
        start, end = points.run_times(row)
        params = points.run_params(row)
        run_id = runs.children.get(row.trial_id)
        if run_id is None:
            tags = points.run_tags(row) | {PARENT_TAG: runs.parent}
            tags |= {NOTE_TAG: self._described.new_trial(row, self._info)}
            new = NewRun(points.run_name(row), start, tags)
            run_id = runs.children[row.trial_id] = server.create_run(runs.experiment_id, new)
            runs.tags[row.trial_id] = tags
        else:  # MLflow refuses another text for a parameter, and earlier versions wrote some values differently
            present = server.run(run_id).params
            params = {key: value for key, value in params.items() if key not in present}
        phases = read_phases(self._study_dir, row.trial_id)
        server.log(run_id, points.run_points(row, phases), params)
        if self._described.note.datasets:
            server.log_datasets(run_id, self._described.note.datasets)
        runs.figures[row.trial_id] = {points.clean_key(key): value for key, value in points.run_metrics(row).items()}
        server.end_run(run_id, points.run_status(row), end or None)
        self._delivery.arrived.add(row.trial_id)

    def send_curves(self, rows: Sequence[TrialRow], info: StudyInfo) -> None:
        """Add to the study's curves the points of trials that they lack.

        Raises:
            TrackingError: The server is away.
        """
        if len(rows) > self.runs.curve_length:
            self.runs.server.log(self.runs.parent, points.study_points(rows, info, self.runs.curve_length))
            self.runs.curve_length = len(rows)

    def tag_front(self, front: set[str]) -> None:
        """Tag the trials that came to the front or left it.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        for trial_id in sorted((front ^ self.runs.front) & self.runs.children.keys()):
            self._deadline.check()
            value = "true" if trial_id in front else "false"
            self.runs.server.set_tag(self.runs.children[trial_id], FRONT_TAG, value)
        self.runs.front = front

    def tag_ranks(self, ranks: Mapping[str, int]) -> None:
        """Tag the trials whose rank changed.

        One new trial may change many, so this is done as rarely as uploads.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        for trial_id, rank in ranks.items():
            if self.runs.ranks.get(trial_id) != rank and trial_id in self.runs.children:
                self._deadline.check()
                self.runs.server.set_tag(self.runs.children[trial_id], RANK_TAG, str(rank))
                self.runs.ranks[trial_id] = rank

    def send_texts(self, rows: Sequence[TrialRow], trials: pd.DataFrame, end: str) -> None:
        """Bring descriptions and the view of the front up to date.

        A server may refuse them while it still accepts runs, which is no error.

        Args:
            rows: The rows of all runs that have ended.
            trials: The same as a table in which a repeated trial has one row.
            end: MLflow's word for the state of the study's run.

        Raises:
            MedcoreError: The server is away, or the study's files are corrupt.
            OutOfTimeError: The deadline has passed.
        """
        standing = self._described.standing(rows, trials, end)
        self.files.send_of_front(self.runs, standing)
        for is_last in (False, True):  # one connection that broke proves nothing about the server
            try:
                self._described.send(rows, standing)
            except TrackingError as error:
                self.runs.check_alive()
                if is_last:
                    self._delivery.warn_once(
                        "texts",
                        "MLflow at %s refuses descriptions (%s): trials are sent without them",
                        hide_login(self.runs.server.uri),
                        error,
                    )
            else:
                self._delivery.settle("texts")
                return

    def end(self, status: End) -> None:
        """End the parent run.

        Raises:
            TrackingError: The server is away.
        """
        self.runs.server.end_run(self.runs.parent, status)


class StudyFiles:
    """Uploads a study's files.

    A bucket may refuse files while the server still accepts runs, which is no error.
    """

    def __init__(self, study_dir: Path, delivery: Delivery, deadline: Deadline) -> None:
        self._study_dir = study_dir
        self._delivery = delivery
        self._deadline = deadline

    def send_front(self, runs: StudyRuns, objectives: Sequence[Objective], title: str) -> pd.DataFrame:
        """Send pictures and table of the front, and the study's own files; return the table of all trials.

        Raises:
            MedcoreError: The server is away, or the study's files are corrupt.
            OutOfTimeError: The deadline has passed.
        """
        compact(self._study_dir)
        frame = read_with_intervals(self._study_dir, objectives)
        with tempfile.TemporaryDirectory() as folder:
            table = front_table(frame, objectives)
            if len(table):
                from results.plots.front import save_front  # plotly would slow down `medcore front`

                save_front(frame, objectives, Path(folder), title)
                shrink(Path(folder) / PICTURE)
                table.to_csv(Path(folder) / "front.csv", index=False)
            self._upload(runs, Path(folder))
        if len(table) and not self._delivery.files_refused and runs.parent_tags.get(PICTURE_TAG) != PICTURE:
            runs.server.set_tag(runs.parent, PICTURE_TAG, PICTURE)
            runs.parent_tags[PICTURE_TAG] = PICTURE
        self.send(runs, STUDY_FILES)
        self._upload_all(runs, held_out_files(self._study_dir))
        return frame

    def send_of_front(self, runs: StudyRuns, standing: Standing) -> None:
        """Send the picture of its budget to each trial on the front that has none.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        families = [family.name for family in standing.info.prunable()]
        for record in standing.front:
            trial_id = str(record["trial_id"])
            lacks = [name for name in families if not isinstance(record.get(name), (list, np.ndarray))]
            if lacks or trial_id not in runs.children or BUDGET_TAG in runs.tags.get(trial_id, {}):
                continue
            from results.plots.pictures import budget_picture  # matplotlib

            self._deadline.check()
            with tempfile.TemporaryDirectory() as folder:
                budget_picture(pd.DataFrame([record]), Path(folder) / BUDGET, standing.info)
                shrink(Path(folder) / BUDGET)
                self._upload(runs, Path(folder) / BUDGET, runs.children[trial_id])
            if self._delivery.files_refused:
                return
            runs.set_tag(trial_id, BUDGET_TAG, BUDGET)

    def send_models(self, runs: StudyRuns, trial_ids: Collection[str]) -> bool:
        """Send the models of trials that have not been sent. They may be large.

        A server may refuse a model, for example because of its size, while it still takes other files.

        Returns:
            Whether a model was sent.

        Raises:
            MedcoreError: The server is away, or a row of the study is corrupt.
            OutOfTimeError: The deadline has passed.
        """
        sent = False
        for trial_id in () if self._delivery.files_refused else trial_ids:
            row = read_row(self._study_dir, trial_id)
            if row is None or trial_id not in runs.children or MODEL_TAG in runs.tags.get(trial_id, {}):
                continue
            file = checkpoint_file(self._study_dir, row)
            if not file.is_file():
                continue
            self._deadline.check()
            try:
                runs.server.upload(runs.children[trial_id], file, large=True)
            except TrackingError as error:
                runs.check_alive()
                self._delivery.warn_once(
                    "models",
                    "MLflow at %s did not store the model of trial %s (%s); it is in the study's folder",
                    hide_login(runs.server.uri),
                    trial_id,
                    error,
                )
            else:
                runs.set_tag(trial_id, MODEL_TAG, file.name)
                sent = True
        return sent

    def send(self, runs: StudyRuns, names: Sequence[str]) -> None:
        """Send those of the study's files that exist, the configuration without logins.

        Raises:
            TrackingError: The server is away.
            OutOfTimeError: The deadline has passed.
        """
        with tempfile.TemporaryDirectory() as folder:
            for path in (self._study_dir / name for name in names):
                self._deadline.check()
                if not path.is_file():
                    continue
                if path.name == "config.yaml":
                    public = Path(folder) / path.name
                    public.write_text(hide_login(path.read_text()))
                    path = public
                self._upload(runs, path)

    def _upload_all(self, runs: StudyRuns, files: Mapping[str, Path]) -> None:
        """Add files to the study's run, each at its path below the run."""
        if files:
            with tempfile.TemporaryDirectory() as folder:
                copied(files, Path(folder))
                self._upload(runs, Path(folder))

    def _upload(self, runs: StudyRuns, path: Path, run_id: str | None = None) -> None:
        """Add a file or folder to a run, by default that of the study."""
        if self._delivery.files_refused:
            return
        try:
            runs.server.upload(run_id or runs.parent, path)
        except TrackingError as error:
            runs.check_alive()
            self._delivery.files_refused = True
            self._delivery.warn_once(
                "files",
                "MLflow at %s stores no files (%s): trials are sent without them; fix its artifact store",
                hide_login(runs.server.uri),
                error,
            )
