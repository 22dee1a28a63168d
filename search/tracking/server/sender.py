"""Sending a study to its runs in MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from medcore.errors import TrackingError
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import compact, read_phases, read_with_intervals
from search.base.logins import hide_login
from search.tracking import points
from search.tracking.delivery import Deadline, Delivery
from search.tracking.note import StudyNote
from search.tracking.server.records import FRONT_TAG, PARENT_TAG, RANK_TAG, NewRun
from search.tracking.server.runs import StudyRuns
from search.tracking.tracker import End

#: Files from which a study can be brought back, see `search.tracking.remote`.
STUDY_FILES = ("study.json", "config.yaml", "trials.parquet", "images.parquet", "latency.json")
#: Set on the parent run when it has everything that describes the study.
_DESCRIBED = "medcore.described"


class Sender:
    """Sends a study's rows and remembers what its runs have.

    After a failure it is unknown whether the server carried out the last request, so the tracker then drops this
    object and makes another one from what the server has.

    Args:
        study_dir: The study's folder.
        runs: The study's runs as they are at the server.
        delivery: Receives what has arrived.
        deadline: Ends the sending between two requests.
    """

    def __init__(self, study_dir: Path, runs: StudyRuns, delivery: Delivery, deadline: Deadline) -> None:
        self.runs = runs
        self.files = StudyFiles(study_dir, delivery, deadline)
        self._study_dir = study_dir
        self._delivery = delivery
        self._deadline = deadline
        delivery.arrived = set(runs.ended)

    def describe(self, note: StudyNote) -> None:
        """Add to the parent run what it lacks.

        An earlier attempt may have stopped at any point.

        Raises:
            MedcoreError: The server is away, or the study's own files are corrupt.
            OutOfTimeError: The deadline has passed.
        """
        server, parent = self.runs.server, self.runs.parent
        present = server.run(parent)
        if present.tags.get(_DESCRIBED) == "true":
            return
        # MLflow refuses another value for a parameter, and a resumed study may have one
        params = {key: value for key, value in note.params.items() if key not in present.params}
        server.log(parent, [], params)
        if note.datasets:
            server.log_datasets(parent, note.datasets)
        text = points.description(note, read_study_info(self._study_dir), str(self._study_dir))
        server.set_tag(parent, "mlflow.note.content", text)
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
            new = NewRun(points.run_name(row), start, tags)
            run_id = runs.children[row.trial_id] = server.create_run(runs.experiment_id, new)
        else:  # MLflow refuses another text for a parameter, and earlier versions wrote some values differently
            present = server.run(run_id).params
            params = {key: value for key, value in params.items() if key not in present}
        phases = read_phases(self._study_dir, row.trial_id)
        server.log(run_id, points.run_points(row, phases), params)
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

    def send_front(self, runs: StudyRuns, objectives: Sequence[Objective], title: str) -> None:
        """Send pictures and table of the front, and the study's own files.

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
                table.to_csv(Path(folder) / "front.csv", index=False)
            self._upload(runs, Path(folder))
        self.send(runs, STUDY_FILES)

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

    def _upload(self, runs: StudyRuns, path: Path) -> None:
        if self._delivery.files_refused:
            return
        try:
            runs.server.upload(runs.parent, path)
        except TrackingError as error:
            runs.check_alive()
            self._delivery.files_refused = True
            self._delivery.warn_once(
                "files",
                "MLflow at %s stores no files (%s): trials are sent without them; fix its artifact store",
                hide_login(runs.server.uri),
                error,
            )
