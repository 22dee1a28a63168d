"""Claim: logging costs less than 1 % of a trial, and a study of 1000 trials stays quick to open and small to send.

The rows, per-image metrics and phase curves of a finished study are multiplied (with noise on the metrics) to a study
of any size, which arrives in portions at a real MLflow server with a SQLite store, as a search sends it.

    python -m benchmarks.thousand_trials runs/polyps --trials 1000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from medcore.errors import MedcoreError
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, compact, read_images, read_phases, write_images, write_phases, write_row
from search.tracking.server.tracker import MlflowTracker
from search.tracking.tracker import Destination


def multiply(source: Path, target: Path, start: int, count: int) -> None:
    """Write trials `start` … `start + count − 1` of a larger study: the source's, over and over, with other metrics."""
    rows = [row for row in all_rows(source) if row.is_done]
    images = read_images(source)
    for number in range(start, start + count):
        row, random = rows[number % len(rows)], np.random.default_rng(number)
        trial_id = f"t{number:04}"
        own = images[images["trial_id"] == row.trial_id].drop(columns="trial_id")
        write_images(target, trial_id, own.to_dict("records"))
        write_phases(target, trial_id, read_phases(source, row.trial_id))
        write_row(target, replace(_varied(row, random), trial_id=trial_id, number=number))


def _varied(row: TrialRow, random: np.random.Generator) -> TrialRow:
    def noisy(value: Any) -> Any:
        return value * float(1 + 0.03 * random.standard_normal()) if isinstance(value, float) else value

    return TrialRow.from_flat({key: noisy(value) for key, value in row.to_flat().items()})


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real MLflow server on loopback with a SQLite store in `folder`; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [*command, *store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.5)
        else:
            raise MedcoreError("the MLflow server did not start within two minutes")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def runs_page(address: str, experiment: str) -> float:
    """Seconds for the first hundred runs, what the experiment's page asks for."""
    found = _ask(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={experiment}")
    body = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
    took, _ = seconds(lambda: _ask(f"{address}/api/2.0/mlflow/runs/search", body))
    return took


def _ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def medcore(*arguments: str | Path) -> float:
    """Seconds of a command in a process of its own."""
    words = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    took, _ = seconds(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))
    return took


def measure(source: Path, trials: int, portion: int) -> dict[str, Any]:
    """All figures, by what they are of."""
    work = float(np.median([row.timing.seconds or 0.0 for row in all_rows(source)]))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        study = root / "runs" / source.name
        study.mkdir(parents=True)
        for file in ("study.json", "config.yaml"):
            shutil.copy(source / file, study / file)
        with server(root) as address:
            tracker = MlflowTracker(Destination(study, address, "thousand", source.name))
            tracker.start({})
            wall = cpu = 0.0
            for start in track(range(0, trials, portion), description="trials"):
                multiply(source, study, start, min(portion, trials - start))
                took = seconds(tracker.sync)
                wall, cpu = wall + took[0], cpu + took[1]
            end, _ = seconds(tracker.finish)
            if tracker.unsent():
                raise MedcoreError(f"{tracker.unsent()} trials did not arrive at the server")
            page = runs_page(address, "thousand")
        compact(study)
        front = medcore("front", study)
        report = medcore("report", study, "--out", root / "report.html")
        return {
            "trials": trials,
            "median trial of the source study, s": work,
            "sending a trial, ms": 1000 * wall / trials,
            "of it CPU of the driver, ms": 1000 * cpu / trials,
            "sending, share of a trial, %": 100 * wall / trials / work,
            # the tracker uploads once a minute, or more seldom where an upload takes long
            "uploads, share of the time, %": 100 * end / max(60, end / 0.005, work),
            "upload of the study's files, s": end,
            "MLflow store, MB": (root / "mlflow.db").stat().st_size / 1e6,
            "first page of runs, s": page,
            "medcore front, s": front,
            "medcore report without models, s": report,
            "report, MB": (root / "report.html").stat().st_size / 1e6,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--portion", type=int, default=1, help="trials between two rounds of sending; 1: a round each")
    arguments = parser.parse_args()
    figures = measure(arguments.study, arguments.trials, arguments.portion)
    table = Table("", "figure")
    for title, value in figures.items():
        table.add_row(title, f"{value:,.4g}")
    Console().print(table)


if __name__ == "__main__":
    main()
