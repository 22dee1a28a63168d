"""Section `tracking`: where the runs are logged."""

from __future__ import annotations

from pydantic import Field

from search.base.sections.fields import Section


class TrackingConfig(Section):
    """Where a search sends its trials."""

    kind: str = Field("mlflow", description="a name in `search.tracking.tracker.TRACKERS`")
    uri: str | None = Field(
        None,
        description="MLflow server (login: MLFLOW_TRACKING_USERNAME and _PASSWORD), or the folder of kind `files`; "
        "default: a SQLite file or a folder in the study folder",
    )
    experiment: str = "medcore"
