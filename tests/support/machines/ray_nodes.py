"""Nodes of a real Ray cluster on this machine, each in a process group, a folder and an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.support.helpers import held_port

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token-of-the-tests-" + 32 * "0"


class Nodes:
    """A head with a dashboard; others join with `add`. Every one asks for the token."""

    def __init__(self, folder: Path) -> None:
        self._ports = ExitStack()
        self.folder, self.port = folder, self._ports.enter_context(held_port())
        self._ray = Path(tempfile.mkdtemp(prefix="mc-"))  # short, as paths of sockets must be
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        dashboard = self._ports.enter_context(held_port())
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.token = folder / "token"
        self.token.write_text(TOKEN)
        self.head = self._start(
            "head",
            *("--head", f"--port={self.port}", "--node-ip-address=127.0.0.1"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, first_on_path: Path | None = None) -> Path:
        """Start a node and do not wait for it; returns the folder that it runs in."""
        return self._start(name, f"--address={self.address}", first_on_path=first_on_path)

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process that may use the cluster."""
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}
        known |= {"RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "400", "OMP_NUM_THREADS": "1"}
        return {key: value for key, value in os.environ.items() if key[:4] != "RAY_"} | ours | known | more

    def wait(self, count: int, seconds: float = 240) -> None:
        """Until as many nodes are alive as the dashboard tells."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, process in self._started:
                assert process.poll() is None, f"{name}: {(self.folder / f'{name}.log').read_text()[-2000:]}"
            if self._alive() >= count:
                return
            time.sleep(0.2)
        raise AssertionError(f"{count} nodes did not come up in {seconds} seconds")

    def stop(self) -> None:
        """Every node with all its processes."""
        for _, process in reversed(self._started):
            process.terminate()
        for _, process in self._started:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._ports.close()
        shutil.rmtree(self._ray, ignore_errors=True)

    def _start(self, name: str, *options: str, first_on_path: Path | None = None) -> Path:
        place = self.folder / name
        place.mkdir()
        # a folder for Ray's own files for each node, as nodes of one machine would delete each other's packages
        command = ["ray", "start", "--block", "--num-cpus=1", f"--temp-dir={self._ray / name}"]
        paths = [str(path) for path in (first_on_path, ROOT) if path is not None]
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--dashboard-agent-listen-port=0", "--include-log-monitor=False", *options],
                cwd=place,
                env=self.environment(PYTHONPATH=os.pathsep.join(paths)),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((name, process))
        return place

    def _alive(self) -> int:
        request = urllib.request.Request(
            f"{self.dashboard}/nodes?view=summary", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                nodes = json.load(reply)["data"]["summary"]
        except (urllib.error.URLError, OSError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
