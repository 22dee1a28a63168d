"""A study's files on its parent run in MLflow."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.plots.front import save_front_html
from results.stats.pareto import front_table
from results.store.trials import compact, read_with_intervals
from search.base.logins import hide_login
from search.tracking import mlflow_client

if TYPE_CHECKING:
    from search.tracking.mlflow_client import Client

logger = logging.getLogger(__name__)

#: Files of the study that go along with the parent run, so that it can be brought back from there.
STUDY_FILES = ("study.json", "config.yaml", "trials.parquet", "images.parquet", "latency.json")


class StudyFiles:
    """Puts a study's files on a run. A bucket may refuse them while runs are written as ever, and that is no error.

    Args:
        uri: the server's, for messages.
        before_each: called before each file; what it raises ends the sending.

    Attributes:
        refused: the server has refused a file, and gets no other until this is taken back.
    """

    def __init__(self, study: Path, uri: str, before_each: Callable[[], None]) -> None:
        self._study, self._uri, self._before_each = study, uri, before_each
        self.refused = self._told = False

    def send_front(self, client: Client, run_id: str, objectives: list[Any], title: str) -> None:
        """Picture and table of the front, and the study's own files."""
        compact(self._study)
        frame = read_with_intervals(self._study, objectives)
        with tempfile.TemporaryDirectory() as folder:
            table = front_table(frame, objectives)
            if len(table):
                save_front_html(frame, objectives, Path(folder) / "front.html", title)
                table.to_csv(Path(folder) / "front.csv", index=False)
            self._put(client, run_id, Path(folder))
        self.send(client, run_id, STUDY_FILES)

    def send(self, client: Client, run_id: str, names: Sequence[str]) -> None:
        """Files of the study that are there; the configuration without logins."""
        with tempfile.TemporaryDirectory() as folder:
            for path in (self._study / name for name in names):
                self._before_each()
                if path.name == "config.yaml" and path.is_file():
                    public = Path(folder) / path.name
                    public.write_text(hide_login(path.read_text()))
                    path = public
                if path.is_file():
                    self._put(client, run_id, path)

    def _put(self, client: Client, run_id: str, path: Path) -> None:
        """A file, or what is in a folder. Raises what MLflow does if the server is away; a refusal is said once."""
        if self.refused:
            return
        try:
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path))
        except Exception as error:  # noqa: BLE001 - MLflow raises what its transports raise
            mlflow_client.check_alive(client, run_id)
            self.refused = True
            if not self._told:
                logger.warning(
                    "MLflow at %s takes no files (%s): trials are sent without them; mend its artifact store",
                    *(hide_login(self._uri), mlflow_client.first_line(error)),
                )
            self._told = True
