"""Which beginning of a trial counts, where there are several: the last one.

A worker whose node was cut off is taken for dead, and its trial is begun on another node, while it may still be running
and see the storage again. `STUDY/trials/<trial_id>/attempt.json` names the beginning that counts. The others stop at
the end of their phase at the latest and write no phase, row or result; the state within a recovery is the same whoever
writes it.
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
    """The trial was begun again elsewhere, and what is done here counts no more."""


@dataclass(frozen=True)
class Attempt:
    """One beginning of a trial, on a Ray node. `token`: unlike any other's."""

    study: Path
    trial_id: str
    node: str
    token: str

    def check(self) -> None:
        """Raise `Superseded` unless this beginning counts. To be called before anything of the trial is written."""
        now = last_attempt(self.study, self.trial_id)
        if now is not None and now.token != self.token:
            raise Superseded(f"trial {self.trial_id} was begun again on node {now.node}; this one's work is dropped")


def begin(study: Path, trial_id: str, node: str) -> Attempt:
    """From now on this beginning counts. Raises `StorageError` if that cannot be written."""
    attempt = Attempt(study, trial_id, node, secrets.token_hex(8))
    content = {key: value for key, value in asdict(attempt).items() if key in ("node", "token")}
    write_by_rename(_file(study, trial_id), (json.dumps(content) + "\n").encode())
    return attempt


def last_attempt(study: Path, trial_id: str) -> Attempt | None:
    """The beginning that counts; None if the trial was never begun. Raises `MedcoreError` for a damaged file."""
    path = _file(study, trial_id)
    if not path.is_file():
        return None
    try:
        return Attempt(study, trial_id, **read_json(path, "delete it"))
    except TypeError:
        raise MedcoreError(f"{path}: corrupt; delete it") from None


def _file(study: Path, trial_id: str) -> Path:
    return trial_folder(study, trial_id) / "attempt.json"
