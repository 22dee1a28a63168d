"""MLflow follows the study: one parent run a search, one child run a trial.

Rows on disk are the truth, and this module only sends them on. It may be killed or cut off from the server at any
moment: runs are found again by the tags `medcore.study` and `medcore.trial_id`, so each trial ends up as exactly one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcore.errors import MedcoreError
from results.store.trials import Row, finished_ids, read_phases, read_row, read_study_info
from search.base.lock import locked
from search.base.logins import hide_login
from search.tracking import mlflow_client
from search.tracking import points as data
from search.tracking.artifacts import StudyFiles
from search.tracking.note import FILE, earlier_uri, own_uri, read_note, write_note

if TYPE_CHECKING:
    from search.tracking.mlflow_client import Client, Run

logger = logging.getLogger(__name__)

_ENDED = ("FINISHED", "FAILED")
FOLDER_WANTED = "give the folder that `medcore search` wrote"
#: Most of the time that uploads of pictures and tables may take: those of a thousand trials take eight seconds.
_UPLOADING = 0.005
#: Set last on a parent run: it says all that it should of the study.
_DESCRIBED = "medcore.described"
#: What an ended search may go on sending: a thousand trials and their tables take two and a half minutes.
_END_SECONDS = 300.0


class _OutOfTime(Exception):
    """The search has ended, and sending has taken as long as it then may."""


class Tracker:
    """Sends a study's rows to MLflow. `sync` may be called at any time, from any thread, and never raises.

    Args:
        tracking_uri: an MLflow server; by default the one that the study went to before, else a SQLite file in its
            folder. A login in it is used and kept nowhere; MLFLOW_TRACKING_USERNAME and _PASSWORD are the place for it.
        artifact_seconds: least time between two uploads of the front's picture and table; longer where they take long.
        end_seconds: how long sending may go on after `hurry`.

    Raises `MedcoreError` if the server that the study went to before needs a login which is not given.
    """

    def __init__(
        self,
        study_dir: Path,
        tracking_uri: str | None = None,
        experiment: str = "medcore",
        run_name: str | None = None,
        artifact_seconds: float = 60.0,
        end_seconds: float = _END_SECONDS,
    ) -> None:
        self._dir = study_dir.absolute()
        self.uri = tracking_uri or earlier_uri(self._dir) or own_uri(self._dir)
        self.experiment, self._name, self._pause = experiment, run_name or study_dir.name, artifact_seconds
        self._end_seconds, self._end = end_seconds, math.inf
        self._about: dict[str, Any] = {}
        self._searching = False
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()
        self._warned = self._troubled = False  # told that the server is away; anything has failed so far
        self._drawn, self._next = 0, 0.0  # rows in the last picture, when the next one may be sent
        self._sent: set[str] = set()  # as far as the server has told
        self._parent = ""
        self._skipped: set[str] = set()  # trials with corrupt files
        self._files = StudyFiles(self._dir, self.uri, self._check_time)
        self._forget()

    @classmethod
    def of_study(cls, study_dir: Path, tracking_uri: str | None = None) -> Tracker:
        """The tracker that a search left behind. Raises `MedcoreError` if the folder has none."""
        about = read_note(study_dir)
        if not {"study_id", "experiment", "run_name", "tags", "params", "datasets"} <= about.keys():
            raise MedcoreError(f"{study_dir / FILE}: missing or incomplete; {FOLDER_WANTED}")
        tracker = cls(study_dir, tracking_uri, about["experiment"], about["run_name"])
        tracker._about = about
        return tracker

    @property
    def study_id(self) -> str:
        """What the parent run's tag `medcore.study` says."""
        return str(self._about["study_id"])

    def start(self, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Note what the parent run says of the study; it is made by the first `sync` that reaches the server.

        `config`: the resolved configuration. `tags`: git revision, machine, … An earlier start's identity is kept.
        """
        self._searching = True
        self._about = write_note(
            self._dir,
            self.uri,
            {
                "experiment": self.experiment,
                "run_name": self._name,
                "tags": dict(tags or {}),
                "params": data.flat_config(config),
                "datasets": [str(folder) for folder in config.get("data", {}).get("folders", ())],
            },
        )

    def sync(self, end_as: str | None = None) -> bool:
        """Send what has not been sent. Returns whether everything on disk is at the server now.

        `end_as`: upload picture, table and files whatever time has passed, and end the parent run with this status.
        """
        if not self._about:
            raise RuntimeError("call start before sync")
        with self._lock:
            try:
                with self._turn():
                    self._send_or_again(end_as)
            except _OutOfTime:  # `finish` says so
                self._forget()
                return False
            except Exception as error:  # noqa: BLE001 - tracking follows the search and never stops it
                self._forget()
                self._troubled = True
                if not self._warned:
                    self._warned = True
                    if isinstance(error, MedcoreError):  # the study's own files, not the server
                        logger.warning("nothing is sent to MLflow: %s", hide_login(str(error)))
                    else:
                        logger.warning(
                            "MLflow at %s cannot be reached (%s); rows are on disk and are sent when it is back",
                            hide_login(self.uri),
                            mlflow_client.first_line(error),
                        )
                return False
        self._warned = False
        return not self._skipped and not self._files.refused

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A search and `medcore sync` side by side take turns."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self._dir / "tracking.lock", wait=False))
                except BlockingIOError:
                    self._check_time()
                    time.sleep(0.5)
                else:
                    break
            yield

    def unsent(self) -> int:
        """Trials that have ended and whose arrival at the server was never confirmed."""
        return len(finished_ids(self._dir) - self._sent)

    def hurry(self) -> None:
        """The search has ended: from now on sending may take `end_seconds`, so that a slow server does not hold it."""
        self._end = min(self._end, time.monotonic() + self._end_seconds)

    def finish(self, complete: bool = True) -> str | None:
        """Last sync; the parent run ends as FINISHED, or as KILLED if the search is not complete.

        Returns (and logs) what to do if the server is still away, or too slow.
        """
        self.hurry()
        if self.sync("FINISHED" if complete else "KILLED"):
            return None
        slow = f" within {self._end_seconds:g} seconds" if time.monotonic() > self._end else ""
        left = self.unsent()
        rest = "the study's files" if self._files.refused else "the end of the study"
        what = f"{left} trials" if left else rest
        message = (
            f"{what} could not be sent to MLflow at {hide_login(self.uri)}{slow}; "
            f"send what is missing later with: medcore sync {self._dir}"
        )
        logger.warning(message)
        return message

    def _forget(self) -> None:
        """After a failure it is not certain whether the last request was carried out: ask the server again.

        Only the parent is remembered: runs may still arrive that were to hang on it.
        """
        self._client: Client | None = None
        self._experiment_id = ""
        self._runs: dict[str, str] = {}  # trial -> run
        self._front: set[str] = set()
        self._ranks: dict[str, int] = {}
        self._followed = 0  # trials in the parent's curves

    def _send_or_again(self, end_as: str | None) -> None:
        """A second try, because a connection that broke while nothing was sent says nothing of the server."""
        try:
            self._send(end_as)
        except (MedcoreError, _OutOfTime):
            raise
        except Exception:  # noqa: BLE001 - MLflow raises what its transports raise
            self._forget()
            self._troubled = True
            self._send(end_as)

    def _send(self, end_as: str | None) -> None:
        for trial_id in finished_ids(self._dir) - self._rows.keys():
            with self._skipping(trial_id):
                row = read_row(self._dir, trial_id)
                if row is not None:
                    self._rows[trial_id] = row
        self._check_time()
        self._files.refused = False  # it may have been mended
        client = self._client or self._connect()
        rows = sorted(self._rows.values(), key=lambda row: row["number"])
        new = [row for row in rows if row["trial_id"] not in self._sent]
        for row in new:
            self._check_time()
            with self._skipping(str(row["trial_id"])):
                self._send_trial(client, row)
        if rows and (self._dir / "study.json").is_file():
            info = read_study_info(self._dir)
            ranks = data.front_ranks_of(rows, info)
            self._tag_front(client, {trial_id for trial_id, rank in ranks.items() if rank == 1})
            if len(rows) > self._followed:
                mlflow_client.log(client, self._parent, data.study_points(rows, info, self._followed))
                self._followed = len(rows)
            begun = time.monotonic()
            if end_as or (len(rows) > self._drawn and begun > self._next):
                self._tag_ranks(client, ranks)
                if not self._skipped:  # they are made of all rows together
                    self._files.send_front(client, self._parent, info["objectives"], self._name)
                now = time.monotonic()
                self._drawn, self._next = len(rows), now + max(self._pause, (now - begun) / _UPLOADING)
        self._troubled |= self._files.refused
        if end_as:
            if self._troubled:  # a request that was given up may have been carried out after the server was asked again
                self._connect()
            client.set_terminated(self._parent, end_as)

    @contextmanager
    def _skipping(self, trial_id: str) -> Iterator[None]:
        """Leave out a trial whose own files are corrupt, and say once which it is: the others go on."""
        try:
            yield
            self._skipped.discard(trial_id)
        except MedcoreError as error:
            if trial_id not in self._skipped:
                logger.warning("trial %s is not sent to MLflow: %s", trial_id, error)
            self._skipped.add(trial_id)

    def _connect(self) -> Client:
        """Find or make experiment and parent run, and take in the children that are there already."""
        # MLflow would repeat what creates a run too: a server that is only slow then makes two of them
        client = mlflow_client.connect(self.uri, retries=0)
        self._experiment_id = mlflow_client.experiment_id(client, self.uri, self.experiment)
        known = mlflow_client.all_runs(client, self._experiment_id, f"tags.`medcore.study` = '{self.study_id}'")
        self._parent = self._one(client, known) if known else self._make_parent(client)
        curve = client.get_metric_history(self._parent, "trials_done") if known else []
        self._followed = max((point.step for point in curve), default=0)
        if self._searching:  # others must not wake a run that its search has ended
            client.update_run(self._parent, status="RUNNING")
        self._describe(client)
        by_trial: dict[str, list[Run]] = {}
        for run in self._children(client, self._parent):
            by_trial.setdefault(run.data.tags.get("medcore.trial_id", ""), []).append(run)
        sent = set()
        for trial_id, runs in by_trial.items():
            keep = self._runs[trial_id] = self._one(client, runs)
            run = next(run for run in runs if run.info.run_id == keep)
            if run.info.status in _ENDED:
                sent.add(trial_id)
            if run.data.tags.get("medcore.front") == "true":
                self._front.add(trial_id)
            if rank := run.data.tags.get("medcore.front_rank"):
                self._ranks[trial_id] = int(rank)
        self._client, self._sent = client, sent
        return client

    def _make_parent(self, client: Client) -> str:
        tags = {"medcore.study": self.study_id}
        tags |= {f"medcore.{key}": value for key, value in self._about["tags"].items()}
        begun = min((start for row in self._rows.values() if (start := data.run_times(row)[0])), default=None)
        run = client.create_run(self._experiment_id, start_time=begun, tags=tags, run_name=self._name)
        return str(run.info.run_id)

    def _describe(self, client: Client) -> None:
        """Say of the parent run what it does not say yet; it may have been cut off at any point of an earlier try."""
        present = client.get_run(self._parent).data
        if present.tags.get(_DESCRIBED) == "true":
            return
        # MLflow refuses another value for a parameter, and a resumed study may have one
        params = {key: value for key, value in self._about["params"].items() if key not in present.params}
        mlflow_client.log(client, self._parent, [], params)
        if self._about["datasets"]:
            mlflow_client.log_datasets(client, self._parent, self._about["datasets"])
        text = data.description(self._about, read_study_info(self._dir), str(self._dir))
        client.set_tag(self._parent, "mlflow.note.content", text)
        self._files.send(client, self._parent, ["config.yaml", "scores.png"])
        if not self._files.refused:
            client.set_tag(self._parent, _DESCRIBED, "true")

    def _children(self, client: Client, run_id: str) -> list[Run]:
        return mlflow_client.all_runs(client, self._experiment_id, f"tags.`mlflow.parentRunId` = '{run_id}'")

    def _one(self, client: Client, runs: list[Run]) -> str:
        """The run to keep of several with one identity; the others are deleted, and what hangs on them.

        The one with most children, then the one in use, an ended one, the oldest, and by id: it stays the same whoever
        asks. A second one appears when a request to create was carried out but its answer got lost or came too late.
        """
        if len(runs) == 1:
            return str(runs[0].info.run_id)

        below = {str(run.info.run_id): self._children(client, run.info.run_id) for run in runs}

        def order(run: Run) -> tuple[int, bool, bool, int, str]:
            info = run.info
            used = info.run_id != self._parent, info.status not in _ENDED
            return -len(below[info.run_id]), *used, info.start_time, info.run_id

        keep, *others = sorted(runs, key=order)
        for run in others:
            for gone in (*below[run.info.run_id], run):
                client.delete_run(gone.info.run_id)
        return str(keep.info.run_id)

    def _send_trial(self, client: Client, row: Row) -> None:
        """One run: create, fill, end. Its end is what marks it as sent, so a half-filled one is filled again."""
        trial_id = str(row["trial_id"])
        start, end = data.run_times(row)
        if trial_id not in self._runs:
            tags = data.run_tags(row) | {"mlflow.parentRunId": self._parent}
            run = client.create_run(self._experiment_id, start_time=start, tags=tags, run_name=data.run_name(row))
            self._runs[trial_id] = run.info.run_id
        run_id = self._runs[trial_id]
        mlflow_client.log(client, run_id, data.run_points(row, read_phases(self._dir, trial_id)), data.run_params(row))
        client.set_terminated(run_id, "FINISHED" if row["status"] == "done" else "FAILED", end or None)
        self._sent.add(trial_id)

    def _check_time(self) -> None:
        if time.monotonic() > self._end:
            raise _OutOfTime

    def _tag_front(self, client: Client, front: set[str]) -> None:
        for trial_id in sorted((front ^ self._front) & self._runs.keys()):
            self._check_time()
            client.set_tag(self._runs[trial_id], "medcore.front", "true" if trial_id in front else "false")
        self._front = front

    def _tag_ranks(self, client: Client, ranks: Mapping[str, int]) -> None:
        """One new trial may move many ranks, so this goes along with the pictures, at their bounded rate."""
        for trial_id, rank in ranks.items():
            if self._ranks.get(trial_id) != rank and trial_id in self._runs:
                self._check_time()
                client.set_tag(self._runs[trial_id], "medcore.front_rank", str(rank))
                self._ranks[trial_id] = rank


class TrackingThread:
    """Context manager: syncs every few seconds beside the search, so that no trial waits for a server."""

    def __init__(self, tracker: Tracker, seconds: float = 5.0) -> None:
        self._tracker, self._seconds = tracker, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="medcore-tracking", daemon=True)

    def __enter__(self) -> TrackingThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._tracker.hurry()
        self._thread.join()

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            reached = self._tracker.sync()
            wait = self._seconds if reached else min(60.0, max(self._seconds, 2 * wait))
