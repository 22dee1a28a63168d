"""A Ray of this process's own: what its workers inherit, and what it leaves behind."""

from __future__ import annotations

import logging
import os
import tempfile

import pytest
import ray

from medcore.errors import ClusterError, MedcoreError
from medcore.registry import PLUGINS
from search.nodes.ports import is_listening
from search.nodes.session import Resources, connected
from tests.support.helpers import held_port


@ray.remote
def variables() -> dict[str, str]:
    return dict(os.environ)


def test_workers_get_threads_and_plug_ins_and_the_driver_its_environment_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, "json, xml")
    monkeypatch.delenv("RAY_CHDIR_TO_TRIAL_DIR", raising=False)
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "7")
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")
    before, level = dict(os.environ), logging.getLogger("ray.tune").level
    with connected(None, Resources(cpu=1)):
        assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
        assert os.environ["TUNE_GLOBAL_CHECKPOINT_S"] == "7"  # the user's own value
        with connected(None, Resources(cpu=1)):  # the same Ray
            pass
        assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
        there = ray.get(variables.remote(), timeout=120)
    assert (there[PLUGINS], there["OMP_NUM_THREADS"], there["GOMP_SPINCOUNT"]) == ("json, xml", "1", "9")
    ours = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    assert not {name for name in ours if name.startswith(("TUNE_", "RAY_CHDIR", "RAY_AIR"))}
    assert logging.getLogger("ray.tune").level == level and not ray.is_initialized()


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with held_port() as port:
        assert not is_listening(f"127.0.0.1:{port}")
        with pytest.raises(MedcoreError, match="nothing listens"), connected(f"127.0.0.1:{port}", Resources()):
            pass
    for address in ("auto", "localhost:99999999", "local host:1", ""):
        assert not is_listening(address)
    with pytest.raises(MedcoreError, match="must start on a node"), connected("ray://127.0.0.1:1", Resources()):
        pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes: /scratch/x/sockets/plasma_store"), "TMPDIR .* too long"),
        (RuntimeError("Could not determine home directory."), "set HOME to"),
        (PermissionError(13, "Permission denied", "/home/me/.ray/auth_token"), "auth_token .*set HOME to"),
        (OSError(30, "Read-only file system", f"{tempfile.gettempdir()}/ray"), "Read-only.*set TMPDIR to"),
        (FileNotFoundError(2, "No such file or directory", "/etc/x"), "TMPDIR .* and HOME .*/home/me"),
        (ConnectionError("nobody\nis there"), "is there"),
    ],
)
def test_what_ray_lacks_is_one_line_with_its_remedy(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(ClusterError, match=f"cannot start Ray on this machine: .*{words}") as caught,
        connected(None, Resources()),
    ):
        pass
    assert "\n" not in str(caught.value)
