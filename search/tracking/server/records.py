"""What passes between MLflow's client and the rest of the program, as plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.tracking import view

#: Tags by which runs are found again.
STUDY_TAG = "medcore.study"
TRIAL_TAG = "medcore.trial_id"
PARENT_TAG = view.PARENT
#: Tags of a trial's run that change while the search runs.
FRONT_TAG = view.FRONT
RANK_TAG = "medcore.front_rank"
KNEE_TAG = view.KNEE
#: Tags of a trial's run: files of it, and the newest registered version of its model.
MODEL_TAG = "medcore.model"
BUDGET_TAG = "medcore.budget"
SHEET_TAG = "medcore.contact_sheet"
REGISTERED_TAG = "medcore.registered"
#: Tag of the study's run: picture of the front among its files.
PICTURE_TAG = "medcore.picture"
#: Tag of the study's run: a line on how the study stands, for the description of the experiment.
STANDING_TAG = "medcore.standing"
#: Tag of the study's run: where the model of its knee is, either the study's folder or `AT_SERVER`.
TAKE_TAG, AT_SERVER = "medcore.take", "server"
#: Tag with the description of a run or an experiment, in Markdown.
NOTE_TAG = "mlflow.note.content"


@dataclass(frozen=True)
class NewRun:
    """A run to create.

    Attributes:
        name: Shown in lists of runs.
        start: Milliseconds; None for now.
        tags: Tags that it has from the beginning.
    """

    name: str
    start: int | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A run as the server described it when it was looked up.

    Attributes:
        run_id: The server's identifier.
        experiment_id: Of the experiment that the run belongs to.
        name: Shown in lists of runs.
        status: MLflow's word for its state.
        start: Milliseconds.
        tags: By name.
        params: Names of the parameters that it has.
        metrics: Latest values by name.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    start: int
    tags: Mapping[str, str] = field(default_factory=dict)
    params: frozenset[str] = frozenset()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Return whether the run ended by itself.

        A trial's run does once all its data are there.
        """
        return self.status in ("FINISHED", "FAILED")


@dataclass(frozen=True)
class ModelFolder:
    """What an MLflow model folder is written from.

    Attributes:
        script: The model's code.
        artifacts: Files that the script finds in its context by these names.
        inputs: Type of each input column. A type is the name of one of MLflow's, or `any`; a list of one type is an
            array of it.
        outputs: Type of each output column.
        example: One row of input.
        requirements: Packages as for pip.
        config: Settings that a loader of the model may override.
    """

    script: Path
    artifacts: Mapping[str, Path]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    example: Mapping[str, Any]
    requirements: Sequence[str]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model to create.

    Attributes:
        name: Of the registered model.
        alias: A name that points to the newest version.
        tags: Of the version.
        description: Markdown.
    """

    name: str
    alias: str
    tags: Mapping[str, str]
    description: str
