"""Names of the files that a trial keeps in its folder, next to its row."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from results.store.trials import trial_folder

#: The pruned model.
CHECKPOINT = "model.safetensors"
#: The state after the last phase that is done.
PHASE_CHECKPOINT = "phase.safetensors"
#: The state within a recovery.
RECOVERY_STATE = "recovery.pt"


def remove_state(study: Path, trial_id: str) -> None:
    """Remove the files that a trial needs only until its row exists.

    Keep files that the system refuses to remove.
    """
    folder = trial_folder(study, trial_id)
    with suppress(OSError):
        for name in (PHASE_CHECKPOINT, RECOVERY_STATE):
            (folder / name).unlink(missing_ok=True)
