"""What Ray Tune runs in a worker process: one trial after another, each ending in a row on disk."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from medcore.errors import StorageError
from search.nodes.probe import Ready
from search.trials.ledger import is_visible
from search.trials.phase_result import StepResult
from search.trials.trial_run import TrialRun, release_memory


class TrialWorker(tune.Trainable):
    """An actor that Tune reuses between trials.

    So processes and shared inputs are paid for once.

    One step is one phase of a trial. The row on disk is the result; a step only reports the phase's figures to the
    scheduler and, at last, whether there is a row or why none could be written.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters adds arguments
        self,
        config: dict[str, Any],
        study_dir: str,
        ready: Ready | None,
        inputs: Sequence[ray.ObjectRef[Any]],
        threads: int,
    ) -> None:
        """Prepare the process.

        Args:
            config: Holds the id of the first trial.
            study_dir: The study's folder.
            ready: Returns why this node should run no trial; None where every node may.
            inputs: Reference to the work and its shared inputs. It is in a list, because Ray leaves references in
                lists as they are: a node with other packages may be unable to read the inputs, and shall say so first.
            threads: CPU threads for torch, because trials side by side must not compete for cores.
        """
        self._study = Path(study_dir)
        self._run: TrialRun | None = None
        self._unfit = ready() if ready is not None else None
        if self._unfit is None:
            with _no_collections():
                self._work, self._shared = ray.get(inputs[0])
            if (torch := sys.modules.get("torch")) is not None:  # loaded only by work that needs it
                torch.set_num_threads(threads)

    def step(self) -> dict[str, Any]:
        """Perform one phase of the trial and return a `StepResult`."""
        trial_id, node = self.config["trial_id"], ray.get_runtime_context().get_node_id()
        if self._run is None:
            if self._unfit is None and not is_visible(self._study, trial_id):  # a node that joined without the storage
                self._unfit = f"{self._study} cannot be seen from there; mount it"
            if self._unfit is not None:
                return dict(StepResult(done=True, unfit=self._unfit, node=node))
            self._run = TrialRun(self._work, self._study, trial_id, self._shared, node)
        try:
            result = self._run.step()
        except StorageError as error:
            result = {"done": True, "trouble": str(error)}
        if result["done"]:
            self._run = None
        return dict(result)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Reset this process for another trial."""
        self.cleanup()
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save nothing for a trial that a scheduler pauses.

        Each phase's state is in the study's folder.
        """
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing: the trial continues from the study's folder."""

    def cleanup(self) -> None:
        """Give up a trial that a scheduler stopped or paused."""
        if self._run is not None:
            self._run.close()
            self._run = None
            release_memory()


@contextmanager
def _no_collections() -> Iterator[None]:
    """Collect no garbage while modules are imported, and leave them out of later collections.

    Imports make hundreds of thousands of objects that stay. Each collection would look at all of them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
