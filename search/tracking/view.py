"""The page of MLflow that shows a study's front: its address, and the view that the page opens with.

MLflow keeps a saved view as a tag of the experiment. The tag's value is JSON with `name`, `createdAt`, `updatedAt` and
`state`, which is `deflate;` and the base64 of the compressed JSON of the view. The page's address names the tag in
`viewStateShareKey`. MLflow before 3.17 reads the view from the tag's own JSON, so its fields are there too.
"""

from __future__ import annotations

import base64
import json
import shlex
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from results.stats.labels import is_cost
from results.stats.objectives import Objective, names_of
from search.base.logins import hide_login

#: Tags of the experiment with saved views begin so.
VIEW_TAG = "mlflow.sharedViewState."
#: Tags of runs that the view reads.
PARENT, FRONT, ORIGIN, KNEE = "mlflow.parentRunId", "medcore.front", "medcore.origin", "medcore.knee"
#: What leads the view's columns, and the figure that `medcore latency` adds.
FLOPS_LEFT, LATENCY = "flops_fraction", "latency_ms"
_COMPRESSED = "deflate;"
#: Without it MLflow 3 opens its view of GenAI.
_TRAINING = "workflowType=machine_learning"
#: Columns with the name of a run, which says FLOPs and quality, and with the time since its start.
_NAME, _SINCE = "attributes.`Run Name`", "runDateAndNestInfo"
#: Widths in pixels, so that all columns fit next to the panels that MLflow opens.
_WIDTHS = {_NAME: 230, _SINCE: 50}
#: How the line begins that says where the front is.
LINK = "front in MLflow: "
#: Where `mlflow ui` listens by default.
_LOCAL = "http://127.0.0.1:5000"


def view_key(study_id: str) -> str:
    """Return the name of a study's view within its experiment."""
    return f"medcore-{study_id[:12]}"


def front_condition(parent: str) -> str:
    """Return the condition that runs on the front of a study meet, as MLflow searches."""
    return f"tags.`{PARENT}` = '{parent}' and tags.`{FRONT}` = 'true'"


def view_state(parent: str, objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return the view of a study's front: its runs by the first objective, best first.

    Args:
        parent: Id of the study's run.
        objectives: Of the study.
    """
    quality = [name for name in names_of(objectives) if not is_cost(name)]
    figures = dict.fromkeys([FLOPS_LEFT, *quality, LATENCY])
    metrics, tags = [f"metrics.`{name}`" for name in figures], [f"tags.`{name}`" for name in (KNEE, ORIGIN)]
    widths = _WIDTHS | {
        column: _width(name) for column, name in zip(metrics + tags, [*figures, KNEE, ORIGIN], strict=True)
    }
    return {
        "searchFilter": front_condition(parent),
        "orderByKey": f"metrics.`{objectives[0].name}`",
        "orderByAsc": objectives[0].lower_is_better,
        "selectedColumns": [*metrics, *tags],
        "columnOrder": [*widths],
        "columnWidths": widths,
    }


def _width(title: str) -> int:
    """Return the width in pixels of a column with this title."""
    return max(70, 24 + 11 * len(title) // 2)


def view_tag(study: str, state: dict[str, Any], created: int) -> str:
    """Return the value of the tag that holds a view.

    Args:
        study: Name of the study.
        state: The view.
        created: Milliseconds; shown in MLflow's list of views.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    about = {"name": f"front of {study}", "createdAt": created, "updatedAt": created}
    return json.dumps(about | {"state": _COMPRESSED + packed} | state)


def front_page(experiment_id: str, study_id: str) -> str:
    """Return the part of the front's address that is the same at every address of the server."""
    query = f"{_TRAINING}&viewStateShareKey={quote(view_key(study_id), safe='')}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the part of a run's address that is the same at every address of the server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def link_line(uri: str, page: str) -> str:
    """Return a line for people that says where a page is, without a login.

    Args:
        uri: Address of the server, or of a database that `mlflow ui` shows.
        page: As `front_page` gives it.
    """
    public = hide_login(uri)
    if public.startswith(("http://", "https://")):
        return f"{LINK}{public.rstrip('/')}/{page}"
    shown = shlex.join(["mlflow", "ui", "--backend-store-uri", public])
    return f"{LINK}{_LOCAL}/{page} after: {shown}"
