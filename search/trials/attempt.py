"""Which start of a trial counts if there are several: the last one.

A worker whose node is cut off looks dead, and its trial starts on another node. The first worker may still be running
and see the storage again. `STUDY/trials/<trial_id>/attempt.json` names the start that counts. The others stop at the
end of their phase at the latest and write no phase, row or result. The state within a recovery is the same from any
writer.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from medcore.errors import MedcoreError
from results.store.files import read_json, write_by_rename
from results.store.trials import trial_folder


class Superseded(Exception):
    """The trial was started again elsewhere, so what is done here no longer counts."""


@dataclass(frozen=True)
class Attempt:
    """One start of a trial.

    Attributes:
        study: The study's folder.
        trial_id: The trial.
        node: Id of the Ray node.
        token: Unlike any other start's.
    """

    study: Path
    trial_id: str
    node: str
    token: str

    def check(self) -> None:
        """Raise unless this start counts. Call it before anything of the trial is written.

        Raises:
            Superseded: The trial was started again elsewhere.
        """
        now = last_attempt(self.study, self.trial_id)
        if now is not None and now.token != self.token:
            raise Superseded(f"trial {self.trial_id} was started again on node {now.node}; this one's work is dropped")


def begin(study: Path, trial_id: str, node: str) -> Attempt:
    """Make a new start the one that counts.

    Raises:
        StorageError: The file cannot be written.
    """
    attempt = Attempt(study, trial_id, node, secrets.token_hex(8))
    content = {key: value for key, value in asdict(attempt).items() if key in ("node", "token")}
    write_by_rename(_file(study, trial_id), (json.dumps(content) + "\n").encode())
    return attempt


def last_attempt(study: Path, trial_id: str) -> Attempt | None:
    """Return the start that counts; None if the trial never started.

    Raises:
        MedcoreError: The file is damaged.
    """
    path = _file(study, trial_id)
    if not path.is_file():
        return None
    try:
        return Attempt(study, trial_id, **read_json(path, "delete it"))
    except TypeError:
        raise MedcoreError(f"{path}: corrupt; delete it") from None


def _file(study: Path, trial_id: str) -> Path:
    return trial_folder(study, trial_id) / "attempt.json"
