"""MLflow's model registry: an exported MLflow model becomes a version that others fetch and serve by name."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcore.errors import ConfigError, MedcoreError, TrackingError
from medcore.quality.catalogue import cost_shares, headlines
from results.stats.columns import HELD_OUT
from search.base.logins import hide_login
from search.tracking.note import FILE, MLFLOW, destination_uri, read_whole_note
from search.tracking.server.client import Server
from search.tracking.server.records import REGISTERED_TAG, ModelVersion
from search.tracking.server.runs import SentStudy, find_child
from search.tracking.server.tracker import MlflowTracker
from search.tracking.tracker import Destination

#: The alias that always points to the version registered last.
ALIAS = "best"
#: Characters that MLflow refuses in the name of a logged or a registered model.
_REFUSED = set("/:.%\"'")
#: Most characters of a description in MLflow's database.
_MOST_CHARACTERS = 5000
_REST = "\n\n… the whole card is MODEL_CARD.md among the model's files.\n"


@dataclass(frozen=True)
class Registration:
    """An exported model to register.

    Attributes:
        name: Of the registered model.
        files: Those of the exported folder that belong to the model, by their paths in it.
        study: The study's name.
        row: The exported trial's figures.
        card: The model card, in Markdown.
    """

    name: str
    files: Sequence[str]
    study: str
    row: Mapping[str, Any]
    card: str

    @property
    def version(self) -> ModelVersion:
        """The version to create."""
        main = headlines()[0]
        names = ("trial_id", cost_shares()[0], main, f"{HELD_OUT}{main}")
        tags = {"study": self.study} | {name: str(self.row[name]) for name in names if name in self.row}
        return ModelVersion(self.name, ALIAS, tags, shortened(self.card))


def check_registration(study: Path, kind: str, name: str, tracking_uri: str | None = None) -> None:
    """Check what can be known to fail before anything is computed.

    Args:
        study: The study's folder.
        kind: Format of the export.
        name: Of the registered model.
        tracking_uri: Another server than the one that the study went to.

    Raises:
        MedcoreError: The model cannot be registered.
    """
    if kind != "mlflow":
        raise ConfigError(f"--register {name}: only an MLflow model can be registered; add --format mlflow")
    if not name.strip() or set(name) & _REFUSED:
        raise ConfigError(f"--register '{name}': give a name without any of / : . % \" '")
    _sent_study(study, tracking_uri)


def register(study: Path, folder: Path, registration: Registration, tracking_uri: str | None = None) -> str:
    """Log an exported MLflow model on its trial's run, and register it.

    If the server has no run of the trial, the model goes to the study's run. Descriptions then name the version.

    Args:
        study: The study's folder.
        folder: The exported model, which stays as it is.
        registration: What to register.
        tracking_uri: Another server than the one that the study went to.

    Returns:
        Two lines: the registered version, and how to serve it.

    Raises:
        TrackingError: The server is away or refuses.
    """
    sent = _sent_study(study, tracking_uri)
    name, uri = registration.name, hide_login(sent.uri)
    try:
        server = Server(sent.uri)
        parent = sent.parent(server)
        child = find_child(server, parent, str(registration.row.get("trial_id")))
        # the folder may hold other files, which must not be sent
        with tempfile.TemporaryDirectory(prefix=".register-", dir=folder) as temporary:
            for file in registration.files:
                target = Path(temporary) / file
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / file, target)
            number = server.register(child or parent, Path(temporary), registration.version)
        if child is not None:
            server.set_tag(child, REGISTERED_TAG, f"{name}/{number}")
            MlflowTracker(Destination(study, tracking_uri, sent.experiment)).refresh()
    except (MedcoreError, OSError) as error:
        raise TrackingError(
            f"{folder} is written and checked, but not registered as {name} at {uri}: {error}"
        ) from None
    serve = shlex.join(["mlflow", "models", "serve", "-m", f"models:/{name}@{ALIAS}", "--env-manager", "local"])
    return (
        f"registered: models:/{name}@{ALIAS}, version {number}, at {uri}\n"
        f"serve it: MLFLOW_TRACKING_URI={shlex.quote(uri)} {serve} -p 5001"
    )


def shortened(card: str) -> str:
    """Return a card that is short enough for MLflow.

    Sections that the model's files repeat go first, then the card's end.
    """
    if len(card) <= _MOST_CHARACTERS:
        return card
    room = _MOST_CHARACTERS - len(_REST)
    for title in ("Structure", "Files and use", "Origin"):
        if len(card) > room:
            card = re.sub(rf"^## {title}\n.*?(?=^## )", "", card, flags=re.DOTALL | re.MULTILINE)
    return (card if len(card) <= room else card[:room].rpartition("\n")[0]) + _REST


def _sent_study(study: Path, tracking_uri: str | None) -> SentStudy:
    """Return where the study's runs are.

    Raises:
        MedcoreError: The study has no tracker, another one than MLflow, or a server that only the study names.
    """
    note = read_whole_note(study)
    if note.kind != MLFLOW:
        raise TrackingError(f"{study / FILE}: this study is tracked by '{note.kind}', and only MLflow registers models")
    folder = study.absolute()
    return SentStudy(destination_uri(folder, tracking_uri), note.experiment, note.study_id, study)
