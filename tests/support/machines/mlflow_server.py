"""A real MLflow server in processes of its own, which tests start, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path


class Server:
    """A tracking server on a port that is held for it, with its store in `folder`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self._folder, self.artifacts = port, folder, folder / "artifacts"
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start without waiting for it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        self._process = subprocess.Popen(
            [*command, "--artifacts-destination", str(self.artifacts)],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until the server accepts requests; start it again if it was killed."""
        if self._process.poll() is not None:
            self.start()
        assert eventually(lambda: healthy(self.port), 150), "mlflow server did not start"

    def kill(self) -> None:
        """End the server and its workers, which share its session."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def healthy(port: int) -> bool:
    """Whether a server of MLflow answers at this port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within so many seconds; it is tried twenty times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
