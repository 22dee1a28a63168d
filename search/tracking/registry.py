"""MLflow's model registry: an exported MLflow model becomes a version that others fetch and serve by name."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from search.base.logins import hide_login
from search.tracking import mlflow_client
from search.tracking.remote import find_study
from search.tracking.tracker import Tracker

#: The alias that always is the version registered last.
ALIAS = "best"
_TAGS = ("trial_id", "flops_fraction", "boundary_f1", "report/boundary_f1")
#: Characters that MLflow refuses in the name of a logged or a registered model.
_REFUSED = set("/:.%\"'")
#: What MLflow's database holds of a description.
_MOST_CHARACTERS = 5000
_REST = "\n\n… the whole card is MODEL_CARD.md among the model's files.\n"


def check_registration(study: Path, kind: str, name: str) -> None:
    """Raises `MedcoreError` for what can be known to fail before anything is computed."""
    if kind != "mlflow":
        raise MedcoreError(f"--register {name}: only an MLflow model can be registered; add --format mlflow")
    if not name.strip() or set(name) & _REFUSED:
        raise MedcoreError(f"--register '{name}': give a name without any of / : . % \" '")
    Tracker.of_study(study)


def register(
    study: Path, folder: Path, files: Sequence[str], name: str, row: Mapping[str, Any], title: str, card: str
) -> str:
    """Log `files` of the exported `folder` on the study's parent run and register them. Returns what was done.

    Args:
        row, title: the exported trial's row and the study's name, for the version's tags. card: its description.

    Raises: MedcoreError if the server is away or refuses; the folder stays as it is.
    """
    tracker = Tracker.of_study(study)
    tags = {"study": title} | {key: str(row[key]) for key in _TAGS if key in row}
    try:
        client = mlflow_client.connect(tracker.uri)
        run_id = find_study(client, tracker.experiment, tracker.study_id, ["tags.`medcore.study`"])
        if run_id is None:
            sync = shlex.join(["medcore", "sync", str(study)])
            raise MedcoreError(f"{hide_login(tracker.uri)} has no run of this study; send it with `{sync}`, then again")
        # the folder may hold other files, which are nothing to send to a server
        with tempfile.TemporaryDirectory(prefix=".register-", dir=folder) as temporary:
            for file in files:
                target = Path(temporary) / file
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / file, target)
            version = mlflow_client.register_model(client, run_id, Path(temporary), name, ALIAS, tags, _shortened(card))
    except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
        reason = str(error) if isinstance(error, MedcoreError) else mlflow_client.first_line(error)
        raise MedcoreError(
            f"{folder} is written and checked, but not registered as {name} at {hide_login(tracker.uri)}: {reason}"
        ) from None
    uri = hide_login(tracker.uri)
    serve = shlex.join(["mlflow", "models", "serve", "-m", f"models:/{name}@{ALIAS}", "--env-manager", "local"])
    return (
        f"registered: models:/{name}@{ALIAS}, version {version}, at {uri}\n"
        f"serve it: MLFLOW_TRACKING_URI={shlex.quote(uri)} {serve} -p 5001"
    )


def _shortened(card: str) -> str:
    """A card that is too long goes without sections that the model's files tell as well, then without its end."""
    if len(card) <= _MOST_CHARACTERS:
        return card
    room = _MOST_CHARACTERS - len(_REST)
    for title in ("Structure", "Files and use", "Origin"):
        if len(card) > room:
            card = re.sub(rf"^## {title}\n.*?(?=^## )", "", card, flags=re.DOTALL | re.MULTILINE)
    return (card if len(card) <= room else card[:room].rpartition("\n")[0]) + _REST
