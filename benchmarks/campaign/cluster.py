"""A Ray cluster and an MLflow server on machines of their own, started by the commands that people type."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.campaign.machines import ROOT, Machine, Program, SetupError, wait_for
from benchmarks.campaign.processes import Process

_BIN = Path(sys.executable).parent
_OBJECTS = 200_000_000  # bytes of each node's object store
_PORT = 6379


class Cluster:
    """A head without CPUs for trials, workers with one each, and a tracking server.

    Args:
        folder: receives logs and the tracking server's database. workers: number of worker nodes.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._wanted, self._number = folder, workers, 1
        self._token = secrets.token_hex(16)
        self._nodes: dict[Machine, Program] = {}
        self.server = self._machine("mlflow")
        self._serving: Program | None = None
        self.start_server()
        self.start()

    @property
    def address(self) -> str:
        return f"{self.head.address}:{_PORT}"

    @property
    def tracking_uri(self) -> str:
        return f"http://{self.server.address}:5000"

    def start(self) -> None:
        """Head and workers, all of them new."""
        self.head = self._machine("head")
        self._nodes = {}
        self._ray(self.head, "--head", f"--port={_PORT}", "--num-cpus=0", "--include-dashboard=false")
        wait_for("the head's port", lambda: _listens(self.head.address, _PORT))
        for _ in range(self._wanted):
            self._add_worker()

    @property
    def workers(self) -> list[Machine]:
        return [machine for machine in self._nodes if machine is not self.head]

    def lose(self, machine: Machine) -> None:
        machine.kill()
        del self._nodes[machine]

    def heal(self) -> None:
        """Nodes that are gone are replaced by new ones; without its head, the whole cluster is."""
        if self._nodes[self.head].status is not None or not self.head.processes("gcs_server"):
            for machine in list(self._nodes):
                self.lose(machine)
            self.start()
            return
        for machine in self.workers:
            if self._nodes[machine].status is not None or not machine.alive:
                self.lose(machine)
        for _ in range(self._wanted - len(self.workers)):
            self._add_worker()

    def wait_until_ready(self) -> None:
        """Every node and the tracking server are there."""
        wait_for("the nodes", lambda: all("runtime started" in node.output() for node in self._nodes.values()))
        wait_for("the MLflow server", self._server_answers, 180)

    def start_server(self) -> None:
        """The tracking server on its database; does not wait until it answers."""
        place = self._folder / "mlflow"
        place.mkdir(exist_ok=True)
        self._serving = self.server.start(
            [str(_BIN / "mlflow"), "server", "--backend-store-uri", f"sqlite:///{place}/mlflow.db",
             "--artifacts-destination", str(place / "artifacts"), "--host", "0.0.0.0", "--port", "5000",
             "--workers", "1"],
            "mlflow.log", self.environment()
        )  # fmt: skip

    def kill_server(self) -> None:
        """SIGKILL for all of its processes."""
        for process in self.server.processes():
            process.kill()
        wait_for("the MLflow server's end", lambda: not self.server.processes())

    def medcore(self, arguments: Sequence[str]) -> Program:
        """Start `medcore …` on the head, as a user does who is logged in there."""
        return self.head.start([sys.executable, "-m", "search.cli", *arguments], "medcore.log", self.environment())

    def trial_processes(self) -> list[Process]:
        return [process for worker in self.workers for process in worker.processes("ray::TrialWorker")]

    def environment(self) -> dict[str, str]:
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token, "RAY_USAGE_STATS_ENABLED": "0"}
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return keep | threads | ray | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def _machine(self, role: str) -> Machine:
        self._number += 1
        name = f"{role}-{self._number}"
        return Machine(name, self._number, self._folder / "machines" / name)

    def _ray(self, machine: Machine, *arguments: str) -> None:
        common = [f"--node-ip-address={machine.address}", f"--object-store-memory={_OBJECTS}", "--disable-usage-stats"]
        command = [str(_BIN / "ray"), "start", "--block", *arguments, *common]
        self._nodes[machine] = machine.start(command, "ray.log", self.environment())

    def _add_worker(self) -> None:
        """A new node joins; does not wait until Ray knows it."""
        self._ray(self._machine("worker"), f"--address={self.address}", "--num-cpus=1")

    def _server_answers(self) -> bool:
        if self._serving is not None and self._serving.status is not None:
            raise SetupError(f"the MLflow server ended, see {self._serving.log}")
        try:
            with urllib.request.urlopen(f"{self.tracking_uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False
