"""Section `tracking`: where the runs are logged."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from search.base.sections.fields import Section

#: What lies next to a configuration that is the copy in a study's folder.
_OF_A_STUDY = ("study.json", "tracking.json", "trials")
#: Values of `tracking.models`.
KNEE: Final = "knee"
FRONT: Final = "front"
NONE: Final = "none"


class TrackingConfig(Section):
    """Where a search sends its trials."""

    kind: str = Field("mlflow", description="a name in `search.tracking.tracker.TRACKERS`")
    uri: str | None = Field(
        None,
        description="MLflow server (login: MLFLOW_TRACKING_USERNAME and _PASSWORD), or the folder of kind `files`; "
        "default: a SQLite file or a folder in the study folder",
    )
    experiment: str = "medcore"
    models: Literal["knee", "front", "none"] = Field(
        KNEE,
        description="whose models go to an MLflow server at the end of a search: of the front's knee, of the whole "
        "front, or none; `medcore export mlflow:EXPERIMENT/RUN` takes them from there. The study's own file holds none",
    )


def is_of_a_study(config: Path) -> bool:
    """Tell whether a configuration lies in a study's folder, whatever its name; the study may be someone else's."""
    return any((config.parent / name).exists() for name in _OF_A_STUDY)
