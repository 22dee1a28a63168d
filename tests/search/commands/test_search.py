"""`medcore search` before its first trial: whether the tracking server can be written."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from search.base.config import TrackingConfig, load_config
from search.commands.before.slow import tracking_problems
from search.tracking.tracker import TRACKERS
from search.trials.ledger import IssuedTrial, write_issued
from tests.support.helpers import held_port
from tests.support.studies.study_files import write_tiny_study


class ReadOnly(BaseHTTPRequestHandler):
    """Knows the experiment and takes nothing."""

    def do_GET(self) -> None:
        self._send(200, {"experiment": {"experiment_id": "1", "name": "medcore", "lifecycle_stage": "active"}})

    def do_POST(self) -> None:
        self._send(403, {"error_code": "PERMISSION_DENIED", "message": "Permission denied"})

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_new_study_wants_its_tracking_server_and_a_resumed_one_does_not(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))

    def problems(uri: str | None) -> list[str]:
        return tracking_problems(config.model_copy(update={"tracking": TrackingConfig(uri=uri)}))

    assert problems(None) == []
    with held_port() as port:
        dead = f"http://127.0.0.1:{port}"
        (line,) = problems(dead.replace("//", "//me:secret@"))
    assert line.startswith(f"MLflow at {dead} cannot be reached (") and "secret" not in line
    with HTTPServer(("127.0.0.1", 0), ReadOnly) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (line,) = problems(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "cannot be written (" in line and "ermission denied" in line
    write_issued(tmp_path / "runs" / "tiny", IssuedTrial("t0000", 0, 1, "dense", {}))
    with held_port() as port:
        assert problems(f"http://127.0.0.1:{port}") == []


def test_a_kind_of_tracker_is_a_name_in_the_registry(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))
    for kind, uri in (("mlflow", f"sqlite:///{tmp_path / 'mlflow.db'}"), ("files", str(tmp_path / "tracked"))):
        assert tracking_problems(config.model_copy(update={"tracking": TrackingConfig(kind=kind, uri=uri)})) == []
    (line,) = tracking_problems(config.model_copy(update={"tracking": TrackingConfig(kind="wandb")}))
    assert "wandb" in line and all(kind in line for kind in TRACKERS)
