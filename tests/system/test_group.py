"""`workers` above 1: real Ray, real worker processes, through the command line."""

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
from search import commands
from search.base.config import load_config
from tests.medcore.training.test_world import assert_close
from tests.support.study_files import command, environment, write_tiny_study
from tests.support.training_samples import weights


def adapt_section(folder: Path, workers: int) -> dict[str, object]:
    out = folder / f"adapted-by-{workers}.safetensors"
    return {"out": str(out), "epochs": 5, "batch_size": 5, "lr": 2e-4, "patience": 5, "workers": workers}


def worker_processes(driver: int) -> list[int]:
    """Ids of the training processes below a driver."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    below = {driver}
    for _ in range(4):  # driver, its raylet, workers
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    return sorted(int(pid) for pid, _, words in rows if int(pid) in below and "RayTrainWorker" in words)


def test_a_training_outlives_its_worker_and_ends_as_in_one_process(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path, adapt=adapt_section(tmp_path, 1))
    alone = commands.adapt(load_config(config))
    config = write_tiny_study(tmp_path, adapt=adapt_section(tmp_path, 2))
    soon = environment() | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    driver = subprocess.Popen(
        command("adapt", config), env=soon, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines, workers, killed = [], list[int](), False
    assert driver.stdout is not None
    for line in driver.stdout:
        lines.append(line)
        if not line.startswith("epoch") or killed:
            continue
        if workers:  # killed as soon as an epoch is told, and not in the middle of the end of the next one
            os.kill(workers[1], signal.SIGKILL)
            killed = True
        else:  # to find them takes a moment
            workers = worker_processes(driver.pid)
            assert len(workers) == 2
    output = "".join(lines)
    assert driver.wait() == 0, output
    # no epoch is told twice, none is left out
    assert [int(number) for number in re.findall(r"^epoch EpochRow\(epoch=(\d+)", output, re.M)] == list(range(5))
    # Ray may first see the process that died, or the other one that lost touch with it
    told = " ".join(output.split())
    assert re.search(r"adapt: worker \d (died|failed \(.*\)); the training goes on after its last epoch", told), output
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
        commands.adapt(config)
