"""The tracker `files`: a study as text files in a folder, without a server.

FOLDER/study.json       name, status, tags, configuration and data sets
FOLDER/trials.jsonl     a line for each trial: name, status, tags, parameters, metrics and their points
FOLDER/held_out.jsonl   a line for each model that was measured on held-out images
FOLDER/files/           attached files
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medcore.errors import MedcoreError, TrackingError, brief
from medcore.files import refuse_links, refuse_links_below, replacing
from results.store.files import write_by_rename
from results.store.held_out import Measurement, held_out_means
from results.store.trial_row import TrialRow
from results.store.trials import finished_ids, read_phases, read_row
from search.tracking import points
from search.tracking.delivery import Delivery
from search.tracking.note import StudyNote, earlier_uri, read_note, sync_command, write_note
from search.tracking.tracker import TRACKERS, Destination, End

logger = logging.getLogger(__name__)

#: Name of the tracker in the configuration.
KIND = "files"


@TRACKERS.register(KIND)
class FilesTracker:
    """Writes a study as text files.

    Every file appears by rename, so a reader sees it whole.

    Args:
        destination: By default `tracking` in the study's folder. Below a folder that is given, each study has the
            folder EXPERIMENT/RUN.

    Raises:
        MedcoreError: The study went to a folder before that the user does not give now, or its names are no names of
            folders, or its own place holds links.
    """

    name: ClassVar[str] = "the tracking folder"

    def __init__(self, destination: Destination) -> None:
        self._dir = destination.study_dir.absolute()
        self._experiment = destination.experiment
        self._run_name = destination.run_name or self._dir.name
        self._note = read_note(self._dir)
        self._uri = str(Path(destination.uri).absolute()) if destination.uri else earlier_uri(self._dir, KIND)
        names = (self._experiment, self._run_name)
        if wrong := [name for name in names if Path(name).is_absolute() or {".", ".."} & {*Path(name).parts}]:
            raise TrackingError(f"{self._dir}: '{wrong[0]}' leaves the folder of the tracker; give it another name")
        if self._uri is None:
            refuse_links(self._dir, "tracking")
            refuse_links_below(self._dir / "tracking")
        self._delivery = Delivery(self.name)
        self._lines: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """The folder of this study's files."""
        return Path(self._uri) / self._experiment / self._run_name if self._uri else self._dir / "tracking"

    @property
    def page(self) -> str:
        """A line that names the folder."""
        return f"trials as text: {self.address}"

    @property
    def address(self) -> str:
        """The folder, as text."""
        return str(self.folder)

    def check(self) -> str | None:
        """Return why nothing can be written to the folder; None if it can."""
        probe = self.folder / "probe"
        try:
            write_by_rename(probe, b"")
            probe.unlink()
        except (MedcoreError, OSError) as error:
            return f"cannot be written ({error})"
        return None

    def start(self, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Write the note that describes the study. An earlier identity is kept."""
        note = StudyNote(
            kind=KIND,
            experiment=self._experiment,
            run_name=self._run_name,
            uri=self._uri,
            tags=dict(tags or {}),
            params=points.flat_config(config),
            datasets=[str(folder) for folder in config.get("data", {}).get("folders", ())],
        )
        self._note = write_note(self._dir, note)

    def sync(self, end_as: End | None = None) -> bool:
        """Write the lines of trials that have ended since the last call."""
        try:
            before = len(self._lines)
            for trial_id in finished_ids(self._dir) - self._lines.keys():
                with self._delivery.skipping(trial_id):
                    row = read_row(self._dir, trial_id)
                    if row is not None:
                        self._lines[trial_id] = _line(row, read_phases(self._dir, trial_id))
            if end_as or len(self._lines) > before or not (self.folder / "study.json").is_file():
                self._write_study(end_as or "RUNNING")
                _write_lines(self.folder / "trials.jsonl", [self._lines[key] for key in sorted(self._lines)])
            self._delivery.arrived = set(self._lines)
        except (MedcoreError, OSError) as error:
            self._delivery.warn_once("folder", "%s cannot be written (%s)", self.address, error)
            return False
        self._delivery.settle("folder")
        return self._delivery.complete

    def set_deadline(self) -> None:
        """Do nothing, because a folder does not keep a search waiting."""

    def finish(self, complete: bool = True) -> str | None:
        """Write for the last time, as `Tracker.finish`."""
        if self.sync("FINISHED" if complete else "KILLED"):
            return None
        left = len(finished_ids(self._dir) - self._delivery.arrived)
        message = (
            f"{f'{left} trials' if left else 'the end of the study'} could not be written to {self.address}; "
            f"write what is missing later with: {sync_command(self._dir, self._uri)}"
        )
        logger.warning(message)
        return message

    def attach(self, files: Mapping[str, Path]) -> None:
        """Copy files into the folder, as `Tracker.attach`."""
        try:
            for place, file in files.items():
                target = self.folder / "files" / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copyfile(file, temporary)
        except OSError as error:
            raise TrackingError(f"{self.address} cannot be written ({error.strerror})") from error

    def add_held_out(self, measurement: Measurement, candidates: int) -> None:
        """Write the line of a measured model, or replace it."""
        path = self.folder / "held_out.jsonl"
        model = {"trial_id": measurement.trial_id, "fine_tuned": measurement.fine_tuned}
        others = [json.dumps(record) for record in _read_records(path) if not model.items() <= record.items()]
        about = {"split": measurement.split, "images": measurement.images, "candidates": candidates}
        _write_lines(path, [*others, json.dumps(model | about | {"metrics": held_out_means(measurement)})])

    def _write_study(self, status: str) -> None:
        if self._note is None:
            raise RuntimeError("call start first")
        about = {
            "study_id": self._note.study_id,
            "name": self._note.run_name,
            "status": status,
            "tags": dict(self._note.tags),
            "params": dict(self._note.params),
            "datasets": list(self._note.datasets),
        }
        write_by_rename(self.folder / "study.json", (json.dumps(about, indent=1) + "\n").encode())


def _line(row: TrialRow, phases: Sequence[Mapping[str, Any]]) -> str:
    """Return what is written of a trial: what a server gets too."""
    record = {
        "name": points.run_name(row),
        "status": points.run_status(row),
        "tags": points.run_tags(row),
        "params": points.run_params(row),
        "metrics": points.run_metrics(row),
        "points": [[point.key, point.step, point.value] for point in points.run_points(row, phases)],
    }
    return json.dumps({"trial_id": row.trial_id, **record})


def _read_records(path: Path) -> list[dict[str, Any]]:
    """Return the object in each line of a file. There are none if the file is absent.

    Raises:
        TrackingError: The file cannot be read, or a line holds something else.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line holds no object")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        reason = brief(error, first=120)
        raise TrackingError(f"{path}: cannot be read ({reason}); delete it, and `medcore sync` writes it") from None
    return records


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_by_rename(path, "".join(f"{line}\n" for line in lines).encode())
