"""`workers` above 1: real Ray, real worker processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, read_info
from medcore.training.train import EpochRow
from search.base.config import load_config
from search.commands.adapt import adapt
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import assert_close, weights

pytestmark = pytest.mark.usefixtures("local_ray")


def adapt_section(folder: Path, workers: int) -> dict[str, object]:
    out = folder / f"adapted-by-{workers}.safetensors"
    return {"out": str(out), "epochs": 5, "batch_size": 5, "lr": 2e-4, "patience": 5, "workers": workers}


def worker_processes() -> list[int]:
    """Ids of the training processes below this one."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    below = {os.getpid()}
    for _ in range(4):  # this process, its raylet, workers
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return sorted(int(pid) for pid, _, words in rows if int(pid) in below and "RayTrainWorker" in words)


def test_a_training_outlives_its_worker_and_ends_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # a process for each start of the workers, which asks clouds whether they will take machines away
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    epochs, workers = list[int](), list[int]()

    def on_epoch(row: EpochRow) -> None:
        """Kill a worker as soon as the second epoch is reported, and not in the middle of the end of the next one."""
        epochs.append(row.epoch)
        if row.epoch == 0:  # to find them takes a moment
            workers.extend(worker_processes())
            assert len(workers) == 2
        elif row.epoch == 1:
            os.kill(workers[1], signal.SIGKILL)

    alone = adapt(load_config(write_tiny_study(tmp_path, adapt=adapt_section(tmp_path, 1))))
    adapt(load_config(write_tiny_study(tmp_path, adapt=adapt_section(tmp_path, 2))), on_epoch)
    # no epoch is reported twice, none is left out
    assert epochs == list(range(5))
    # Ray may first see the process that died, or the other one that lost touch with it
    told = " ".join(caplog.text.split())
    assert re.search(r"adapt: worker \d (died|failed \(.*\)); the training continues after its last epoch", told), told
    together = tmp_path / "adapted-by-2.safetensors"
    assert_close(weights(load(alone)), weights(load(together)))
    logs = [json.loads(read_info(path)["log"]) for path in (alone, together)]
    assert logs[0]["best_epoch"] == logs[1]["best_epoch"]
    for ours, theirs in zip(logs[1]["epochs"], logs[0]["epochs"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert not list(tmp_path.glob("*.ray"))


def test_more_workers_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path, adapt=adapt_section(tmp_path, 999)))
    with pytest.raises(MedcoreError, match=r"^adapt\.workers is 999, but Ray has .* for \d+; lower it or add nodes$"):
        adapt(config)
