"""A real cluster of several raylets on this machine: a search as its job, and a node that is not as it should be."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from results.store.trials import finished_ids
from tests.support.helpers import held_port
from tests.support.machines.command_line import Done
from tests.support.machines.command_server import CommandServer
from tests.support.machines.ray_nodes import Nodes
from tests.support.studies.rows import all_columns
from tests.support.studies.study_files import write_tiny_study

SECONDS = 280


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head and one worker."""
    found = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        found.wait(1)
        found.add("worker")
        found.wait(2)
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def shell(nodes: Nodes) -> Iterator[CommandServer]:
    """Where a user of the cluster types commands."""
    with CommandServer(nodes.environment()) as found:
        yield found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_study(
        tmp_path_factory.mktemp("live"), search={"concurrency": 1, "scheduler": "none", "finalists": 0}
    )


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def refused(done: Done) -> str:
    """The one line of a command that was refused."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("medcore: ")
    return line


@pytest.mark.timeout(900)
def test_a_search_is_submitted_followed_stopped_and_resumed(
    nodes: Nodes, shell: CommandServer, study: Path, tmp_path: Path
) -> None:
    """From a folder without the configuration, which comes along; the cluster needs nothing else of this folder."""
    address = ("--address", nodes.dashboard)
    done = shell.medcore("cluster", "submit", study, *address, "--trials", "600", "--name", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    job = re.match(r"submitted (\S+)\n", done.stdout)[1]
    assert f"cluster submit {study} --address {nodes.dashboard} --trials 600 --name job --resume\n" in done.stdout
    folder = study.parent / "runs" / "job"
    until(lambda: len(finished_ids(folder)) > 0)
    assert f"{job}: stopping" in shell.medcore("cluster", "stop", job, *address, cwd=tmp_path).stdout
    text = shell.medcore("cluster", "logs", job, "--follow", *address, cwd=tmp_path).stdout
    assert "stopped by request" in text and f"go on with: medcore cluster submit {study}" in text
    stopped = all_columns(folder)
    assert 0 < len(stopped) < 600

    wanted = str(len(stopped) + 1)
    arguments = ("--trials", wanted, "--name", "job", "--resume")
    again = shell.medcore("cluster", "submit", study, *address, *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    other = re.match(r"submitted (\S+)\n", again.stdout)[1]
    text = shell.medcore("cluster", "logs", other, "--follow", *address, cwd=tmp_path).stdout
    assert f"{wanted}/{wanted} done" in text
    everything = shell.medcore("cluster", "status", *address, cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in everything] == [[other, "SUCCEEDED"], [job, "STOPPED"]]
    assert all(str(folder) in line for line in everything)
    rows = all_columns(folder)
    assert len(rows) == int(wanted) and all(row["status"] == "done" for row in rows)
    before = {row["trial_id"]: row["finished"] for row in stopped}
    assert before.items() <= {row["trial_id"]: row["finished"] for row in rows}.items()
    assert all(row["git"] != "unknown" for row in rows)  # though a job has no checkout


def test_what_the_dashboard_refuses_is_one_line(nodes: Nodes, shell: CommandServer, tmp_path: Path) -> None:
    token = 40 * "x"

    def ask(*arguments: str, address: str = nodes.dashboard) -> str:
        return refused(shell.medcore("cluster", *arguments, "--address", address, cwd=tmp_path))

    def status_with(**more: str) -> str:
        with CommandServer(nodes.environment(**more)) as other:
            return refused(other.medcore("cluster", "status", "--address", nodes.dashboard, cwd=tmp_path))

    with held_port() as port, ThreadPoolExecutor() as pool:
        dead = f"http://127.0.0.1:{port}"
        wrong = pool.submit(status_with, RAY_AUTH_TOKEN=token)
        none = pool.submit(status_with, RAY_AUTH_MODE="disabled")
        assert "Job absent does not exist; `medcore cluster status`" in ask("logs", "absent", "--follow")
        assert f"{dead}: no Ray dashboard" in ask("status", address=dead)
    assert "does not accept this token" in wrong.result() and token not in wrong.result()
    assert "asks for a token" in none.result()


@pytest.mark.timeout(600)
def test_every_problem_of_a_node_is_told_before_the_first_trial(
    nodes: Nodes, shell: CommandServer, study: Path, tmp_path: Path
) -> None:
    """A node with another NumPy that sees neither data nor checkpoint nor study.

    Paths through /proc/self/cwd are another folder on each node, as a mount that one machine lacks.
    """
    fake = tmp_path / "site" / "numpy-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    nodes.add("bare", fake.parent)
    (nodes.folder / "runs").mkdir()
    places = [nodes.head, nodes.folder / "worker", tmp_path]
    for place in places:
        (place / "runs").symlink_to(nodes.folder / "runs")
        (place / "polyps").symlink_to(study.parent / "polyps")
        (place / "base.safetensors").symlink_to(study.parent / "base.safetensors")
    values = yaml.safe_load(study.read_text())
    here = "/proc/self/cwd"
    values |= {"output": f"{here}/runs", "data": values["data"] | {"folders": [f"{here}/polyps"]}}
    values["model"]["base"] = f"{here}/base.safetensors"
    config = tmp_path / "here.yaml"
    config.write_text(yaml.safe_dump(values))
    nodes.wait(3)
    done = shell.medcore("search", config, "--ray-address", nodes.address, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    *_, message = done.stderr.splitlines()  # what the command did comes before
    first, *lines = [part.strip() for part in re.split(r";? \(\d\) ", message)]
    assert first == "medcore: nothing was started, there are 4 problems:"
    assert len({line.partition(":")[0] for line in lines}) == 1  # one node, and not the other two
    assert all(line.startswith("node ") for line in lines)
    version, data, checkpoint, folder = (line.partition("): ")[2] for line in lines)
    assert version.startswith("numpy 1.0 (here ") and "constraints.txt" in version
    assert data.startswith(f"{here}/polyps is not visible (No such file or directory)")
    assert checkpoint.startswith(f"{here}/base.safetensors is not visible (No such file or directory)")
    assert folder.startswith(f"study folder {here}/runs/tiny is not shared (No such file or directory)")
    assert not list((nodes.folder / "runs" / "tiny").glob(".preflight*"))
    assert not list((nodes.folder / "runs" / "tiny").glob("trials/*"))
