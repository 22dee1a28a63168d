"""One search, disturbed or not, from its first start to its last row, and what is found afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign import check
from benchmarks.campaign.cluster import Cluster
from benchmarks.campaign.faults import Fault, NotNow, Repair, strike
from benchmarks.campaign.machines import Program, SetupError, wait_for
from benchmarks.campaign.storage import Disk
from benchmarks.campaign.watch import Witness

_MOST_RESUMES = 12
_PATIENCE = 240.0  # seconds without a new row after which a search counts as hung
_GLANCE = 0.02  # seconds between two looks


@dataclass
class Round:
    """How a round went. `ends`: of each `medcore search`, its exit status and what it said last."""

    seconds: float = 0.0
    resumes: int = 0
    syncs: int = 0
    hung: int = 0
    ends: list[dict[str, Any]] = field(default_factory=list)
    struck: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[str, list[Any]] = field(default_factory=dict)


class Stage:
    """Cluster, disk and configuration of all rounds.

    Args:
        config: of the study; each round gives it another name. output: its `output`. trials: its number of trials.
    """

    def __init__(self, cluster: Cluster, disk: Disk, config: Path, output: Path, trials: int) -> None:
        self.cluster, self.disk, self._config, self._output, self._trials = cluster, disk, config, output, trials

    def study(self, name: str) -> Path:
        return self._output / name

    def play(self, name: str, faults: Sequence[Fault]) -> Round:
        """Run a search to its end under `faults`, resuming it as often as a user would have to, and check it."""
        result, waiting, repairs = Round(), list(faults), _Repairs()
        witness, study = Witness(self.study(name)), self.study(name)
        shutil.rmtree(study, ignore_errors=True)
        self.cluster.heal()
        self.cluster.wait_until_ready()
        begin = last_row = time.monotonic()
        driver, armed = self._search(name), float("inf")  # armed: when the next fault's rows were there
        while True:
            before = witness.rows
            witness.look()
            now = time.monotonic()
            last_row = now if witness.rows > before else last_row
            repairs.run_due(now)
            if waiting and witness.rows >= waiting[0].rows:
                armed = min(armed, now)
            if waiting and now >= armed + waiting[0].delay:
                try:
                    repairs.add(now + waiting[0].seconds, strike(waiting[0], self.cluster, self.disk, driver))
                except NotNow:
                    pass
                else:
                    told = {"at_seconds": round(now - begin, 2), "at_rows": witness.rows}
                    result.struck.append(asdict(waiting.pop(0)) | told)
                    armed = float("inf")
            if driver.status is None and now - last_row > _PATIENCE:
                result.hung += 1
                driver.kill()
            if driver.status is not None:
                end = {
                    "status": driver.status,
                    "at_seconds": round(now - begin, 2),
                    "said": driver.last_line("medcore"),
                }
                result.ends.append(end)
                if driver.status == 0 or result.resumes == _MOST_RESUMES:
                    break
                repairs.run_all()
                self.cluster.heal()
                self.cluster.wait_until_ready()
                result.resumes += 1
                driver, last_row = self._search(name, "--resume"), time.monotonic()
            time.sleep(_GLANCE)
        result.seconds = time.monotonic() - begin
        repairs.run_all()
        result.findings = self._check(name, driver, witness, result)
        return result

    def _search(self, name: str, *options: str) -> Program:
        where = ("--ray-address", self.cluster.address, "--tracking-uri", self.cluster.tracking_uri)
        return self.cluster.medcore(["search", str(self._config), "--name", name, *where, *options])

    def _check(self, name: str, driver: Program, witness: Witness, result: Round) -> dict[str, list[Any]]:
        leftovers = self._leftovers()
        self.cluster.heal()
        self.cluster.wait_until_ready()
        if "medcore sync" in driver.output():  # the search said so
            self._run(["sync", str(self.study(name))])
            result.syncs += 1
        found = check.check_files(self.study(name), self._trials, witness)
        found |= check.check_runs(self.cluster.tracking_uri, name, check.rows_of(self.study(name)))
        return found | {"leftover_processes": leftovers, "hung": ["search"] * result.hung}

    def _leftovers(self) -> list[str]:
        """Processes of the search that are there half a minute after its end."""

        def left() -> list[str]:
            machines = [self.cluster.head, *self.cluster.workers]
            parts = ("ray::TrialWorker", "search.cli", "ray::_write_shard_on_worker")
            return [
                f"{machine.name}: {process.command[:80]}"
                for machine in machines
                for part in parts
                for process in machine.processes(part)
            ]

        try:
            wait_for("the search's processes", lambda: not left(), 30)
        except SetupError:
            return left()
        return []

    def score(self) -> None:
        """Fill the score table that all rounds share."""
        self.cluster.wait_until_ready()
        self._run(["score", str(self._config)])

    def _run(self, arguments: Sequence[str]) -> None:
        program = self.cluster.medcore(arguments)
        wait_for(f"medcore {arguments[0]}", lambda: program.status is not None, 300)
        if program.status:
            raise SetupError(f"medcore {arguments[0]} ended with {program.status}: {program.output()[-300:]}")


class _Repairs:
    """What has to be put right, and when."""

    def __init__(self) -> None:
        self._open: list[tuple[float, Callable[[], None]]] = []

    def add(self, when: float, repair: Repair) -> None:
        if repair is not None:
            self._open.append((when, repair))

    def run_due(self, now: float) -> None:
        for item in [item for item in self._open if item[0] <= now]:
            self._open.remove(item)
            item[1]()

    def run_all(self) -> None:
        self.run_due(float("inf"))
