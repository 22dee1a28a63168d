"""The tracker `mlflow`: one parent run for a study, one child run for each trial.

Rows on disk are the truth, and this module only sends them. It may be killed or lose the server at any moment,
because runs are found again by their tags, so that each trial has exactly one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from medcore.errors import MedcoreError, TrackingError
from results.store.held_out import Measurement, held_out_files
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import finished_ids, read_row
from search.base.logins import hide_login
from search.base.sections.tracking import NONE
from search.tracking import points
from search.tracking.delivery import Deadline, Delivery, OutOfTimeError, UploadSchedule, exclusive
from search.tracking.note import MLFLOW, StudyNote, destination_uri, own_uri, read_note, sync_command, write_note
from search.tracking.server.attach import attach_files, attach_held_out, attach_sheet
from search.tracking.server.client import Server
from search.tracking.server.descriptions import Described, models_of, refresh
from search.tracking.server.records import STUDY_TAG, NewRun
from search.tracking.server.runs import SentStudy, open_runs, why_not_writable
from search.tracking.server.sender import Sender
from search.tracking.tracker import SHEETS, TRACKERS, Destination, End
from search.tracking.view import front_page, link_line

logger = logging.getLogger(__name__)

#: How long an ended search may still send: a thousand trials and their tables take two and a half minutes.
_END_SECONDS = 300.0


@TRACKERS.register(MLFLOW)
class MlflowTracker:
    """Sends a study's rows to MLflow.

    `sync` may be called at any time and from any thread.

    Args:
        destination: By default the server that the study went to before, if `MLFLOW_TRACKING_URI` names it too, else a
            SQLite file in the study's folder. A login in the address is used and not kept; it belongs into
            MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        artifact_seconds: Least time between two uploads of the front's picture and table.
        end_seconds: How long sending may last after `set_deadline`.

    Raises:
        MedcoreError: Only the study names the server that it went to before, or that server needs a login which is not
            given, or the study's own file is a link.
    """

    name: ClassVar[str] = "MLflow"

    def __init__(
        self, destination: Destination, artifact_seconds: float = 60.0, end_seconds: float = _END_SECONDS
    ) -> None:
        self._dir = destination.study_dir.absolute()
        self.uri = destination_uri(self._dir, destination.uri)
        self.experiment = destination.experiment
        self._run_name = destination.run_name or self._dir.name
        self._note: StudyNote | None = None
        self._searching = False
        self._lock = threading.Lock()
        self._rows: dict[str, TrialRow] = {}
        self._delivery = Delivery(self.name)
        self._deadline = Deadline(end_seconds)
        self._uploads = UploadSchedule(artifact_seconds)
        self._sender: Sender | None = None
        self._parent = ""
        self._experiment_id = ""

    @property
    def page(self) -> str | None:
        """A line on where the front can be looked at, without a login; None before that is known."""
        if not self._experiment_id:
            return None
        return link_line(self.uri, front_page(self._experiment_id, self.study_id))

    @property
    def address(self) -> str:
        """The server without its login."""
        return hide_login(self.uri)

    @property
    def study_id(self) -> str:
        """Value of the parent run's tag `medcore.study`."""
        return self._description().study_id

    def check(self) -> str | None:
        """Return why nothing can be written to the server; None if it can."""
        return why_not_writable(self.uri, self.experiment)

    def start(self, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Write the note that the first successful `sync` creates the parent run from.

        An earlier identity is kept.
        """
        public = self.address
        earlier = read_note(self._dir)
        had_login = earlier is not None and earlier.login and earlier.uri == public
        self._searching = True
        self._note = write_note(
            self._dir,
            StudyNote(
                kind=MLFLOW,
                experiment=self.experiment,
                run_name=self._run_name,
                uri=None if self.uri == own_uri(self._dir) else public,
                login=public != self.uri or had_login,
                tags=dict(tags or {}),
                params=points.flat_config(config),
                datasets=[str(folder) for folder in config.get("data", {}).get("folders", ())],
            ),
        )

    def sync(self, end_as: End | None = None) -> bool:
        """Send what was not sent before, as `Tracker.sync`."""
        self._description()
        with self._lock:
            try:
                with exclusive(self._dir, self._deadline):
                    self._send_twice(end_as)
            except OutOfTimeError:  # `finish` tells the user
                self._sender = None
                return False
            except (MedcoreError, OSError) as error:
                self._sender = None
                self._report(error)
                return False
        self._delivery.settle("server")
        return self._delivery.complete

    def unsent(self) -> int:
        """Return the number of ended trials that did not arrive.

        A trial has arrived once the server confirms it.
        """
        return len(finished_ids(self._dir) - self._delivery.arrived)

    def set_deadline(self) -> None:
        """Let sending last `end_seconds` from now on."""
        self._deadline.set()

    def finish(self, complete: bool = True) -> str | None:
        """Send for the last time.

        The parent run ends as FINISHED, or as KILLED if the search is not complete.
        """
        self.set_deadline()
        if self.sync("FINISHED" if complete else "KILLED"):
            return None
        slow = f" within {self._deadline.seconds:g} seconds" if self._deadline.passed else ""
        left = self.unsent()
        rest = "the study's files" if self._delivery.files_refused else "the end of the study"
        message = (
            f"{f'{left} trials' if left else rest} could not be sent to MLflow at {self.address}{slow}; "
            f"send what is missing later with: {sync_command(self._dir, self.uri)}"
        )
        logger.warning(message)
        return message

    def attach(self, files: Mapping[str, Path]) -> None:
        """Add files to the parent run, as `Tracker.attach`."""
        study = self._identity()
        attach_files(study, files)
        for place, file in files.items():
            if place.startswith(SHEETS):
                attach_sheet(study, Path(place).stem, file)
        self.refresh()

    def add_held_out(self, measurement: Measurement, candidates: int) -> None:
        """Add figures to a trial's run, as `Tracker.add_held_out`.

        A study that was never sent is left alone.
        """
        if self.uri != own_uri(self._dir) or (self._dir / "mlflow.db").is_file():
            study = self._identity()
            attach_held_out(study, measurement, candidates)
            if files := held_out_files(self._dir):
                attach_files(study, files)
            self.refresh()

    def refresh(self) -> None:
        """Bring descriptions up to date after something was added from outside of a search.

        Raises:
            MedcoreError: The server is away, or a file of the study is corrupt.
        """
        with self._lock, exclusive(self._dir, self._deadline):
            server = Server(self.uri)
            runs = self._identity().runs(server)
            self._experiment_id = runs.experiment_id
            refresh(Described(self._dir, self._description(), self.uri, runs, self._deadline))

    def _identity(self) -> SentStudy:
        return SentStudy(self.uri, self.experiment, self._description().study_id, self._dir)

    def _description(self) -> StudyNote:
        """Return the note of the study.

        The note comes from `start` or, if another process started the study, from disk.
        """
        if self._note is None:
            self._note = read_note(self._dir)
        if self._note is None:
            raise RuntimeError("call start first")
        return self._note

    def _report(self, error: MedcoreError | OSError) -> None:
        if isinstance(error, TrackingError):
            self._delivery.uncertain = True
            self._delivery.warn_once(
                "server",
                "MLflow at %s cannot be reached (%s); rows are on disk and are sent when it is back",
                self.address,
                error,
            )
        else:  # the study's own files
            self._delivery.warn_once("server", "nothing is sent to MLflow: %s", hide_login(str(error)))

    def _send_twice(self, end_as: End | None) -> None:
        """Send, and try a second time after a failure.

        A connection that broke while nothing was sent proves nothing about the server.
        """
        try:
            self._send(end_as)
        except TrackingError:
            self._sender = None
            self._delivery.uncertain = True
            self._send(end_as)

    def _send(self, end_as: End | None) -> None:
        self._read_rows()
        self._deadline.check()
        self._delivery.files_refused = False  # the server may have been fixed
        sender = self._sender or self._connect()
        rows = sorted(self._rows.values(), key=lambda row: row.number)
        sender.send_trials(rows)
        if rows and (self._dir / "study.json").is_file():
            self._send_study(sender, rows, end_as)
        self._delivery.uncertain |= self._delivery.files_refused
        if end_as:
            if self._delivery.uncertain:  # a request that failed may have created a second run later
                sender = self._open()
            sender.end(end_as)

    def _send_study(self, sender: Sender, rows: list[TrialRow], end_as: End | None) -> None:
        """Send what depends on all rows together."""
        info = read_study_info(self._dir)
        ranks = points.front_ranks_of(rows, info)
        sender.tag_front({trial_id for trial_id, rank in ranks.items() if rank == 1})
        sender.send_curves(rows, info)
        if end_as or self._uploads.is_due(len(rows)):
            begun = time.monotonic()
            sender.tag_ranks(ranks)
            if not self._delivery.corrupt:
                trials = sender.files.send_front(sender.runs, info.objectives, self._run_name)
                sender.send_texts(rows, trials, end_as or "RUNNING")
                if end_as and self._send_models(sender, info, trials):
                    sender.send_texts(rows, trials, end_as)  # they say where models are
            self._uploads.uploaded(len(rows), begun)

    def _send_models(self, sender: Sender, info: StudyInfo, trials: pd.DataFrame) -> bool:
        """Send the models that the configuration names to a server, and return whether one was sent."""
        if self.uri == own_uri(self._dir):
            return False
        wanted = self._description().params.get("tracking.models", NONE)  # studies of earlier versions sent none
        return sender.files.send_models(sender.runs, models_of(wanted, info, trials))

    def _read_rows(self) -> None:
        for trial_id in finished_ids(self._dir) - self._rows.keys():
            with self._delivery.skipping(trial_id):
                row = read_row(self._dir, trial_id)
                if row is not None:
                    self._rows[trial_id] = row

    def _connect(self) -> Sender:
        """Find or create the study's runs, and describe the study on its parent run."""
        sender = self._open()
        sender.describe()
        self._sender = sender
        return sender

    def _open(self) -> Sender:
        """Find or create the study's runs."""
        note = self._description()
        # MLflow would repeat a request that creates a run, and a server that is only slow then creates two
        server = Server(self.uri, retries=0)
        starts = [start for row in self._rows.values() if (start := points.run_times(row)[0])]
        tags = {STUDY_TAG: note.study_id} | {f"medcore.{key}": value for key, value in note.tags.items()}
        runs = open_runs(server, self.experiment, NewRun(self._run_name, min(starts, default=None), tags), self._parent)
        self._parent = runs.parent
        if self._searching:  # another process must not restart a run that its search has ended
            server.set_running(runs.parent)
        self._experiment_id = runs.experiment_id
        return Sender(Described(self._dir, note, self.uri, runs, self._deadline), self._delivery)
