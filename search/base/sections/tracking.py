"""Section `tracking`: where the runs are logged."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from search.base.sections.fields import Section

#: What lies next to a configuration that is the copy in a study's folder.
_OF_A_STUDY = ("study.json", "tracking.json", "trials")


class TrackingConfig(Section):
    """Where a search sends its trials."""

    kind: str = Field("mlflow", description="a name in `search.tracking.tracker.TRACKERS`")
    uri: str | None = Field(
        None,
        description="MLflow server (login: MLFLOW_TRACKING_USERNAME and _PASSWORD), or the folder of kind `files`; "
        "default: a SQLite file or a folder in the study folder",
    )
    experiment: str = "medcore"


def is_of_a_study(config: Path) -> bool:
    """Tell whether a configuration lies in a study's folder, whatever its name; the study may be someone else's."""
    return any((config.parent / name).exists() for name in _OF_A_STUDY)
