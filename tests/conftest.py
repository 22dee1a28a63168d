"""What all tests share: threads, the order of files, the Ray of their process, a store and a server of MLflow.

Two cores are shared by the tests and by the processes they start: one thread each, set before torch is imported. Ray
would let its workers have only what all others leave over, and a test that waits for one would wait in vain.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a worker starts when there is work for it
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from tests.support.machines import mlflow_store, sharing
from tests.support.machines.rays import Rays

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from tests.support.machines.mlflow_server import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    sharing.longest_first(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while test files are imported: it takes as long as several of their tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep files that share something in one process."""
    return sharing.make_scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap() -> None:
    """Keep what has been imported so far out of garbage collections, which take half a second otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def rays() -> Iterator[Rays]:
    """The Ray of this process."""
    found = Rays()
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def _no_ray_unless_wanted(request: pytest.FixtureRequest, rays: Rays) -> None:
    """End a Ray that other tests have used: the scoring job, for one, runs on a Ray wherever there is one."""
    if not {"local_ray", "cluster"} & set(request.fixturenames):
        rays.stop()


@pytest.fixture
def local_ray(rays: Rays) -> None:
    """A local Ray with two CPUs, on which searches of this process run. Use it for all tests of a file or for none."""
    rays.local()


@pytest.fixture
def cluster(rays: Rays) -> Iterator[Cluster]:
    """A cluster of one head with one CPU. Nodes that the test adds go when it ends."""
    yield rays.cluster()
    rays.leave_only_the_head()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def _one_migration(shared_folder: Path) -> None:
    """Let MLflow migrate one database in the whole run, and copy it for each store."""
    mlflow_store.quicken(shared_folder)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Path:
    """Create an empty SQLite store of MLflow, with its default experiment."""
    from mlflow import MlflowClient

    mlflow_store.quicken(shared_folder)
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of an empty MLflow store for one test."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copyfile(migrated, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server, which starts with the first test that names it; `wait` until it answers."""
    from tests.support.helpers import held_port
    from tests.support.machines.mlflow_server import Server

    with held_port() as port:
        server = Server(tmp_path_factory.mktemp("server"), port)
        yield server
        server.kill()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of this process draw none of their pictures, which takes as long as several tiny trials."""
    from search.commands import search

    for name in ("save_heatmaps", "save_curves"):
        monkeypatch.setattr(search, name, lambda *_: None)


@pytest.fixture
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports and `medcore latency` measure time for a moment only."""
    from medcore.quality.latency import Effort
    from search.export import timing

    compare = timing.compare

    def brief(
        models: Any, batch: int = 1, threads: int | None = None, autocast: bool = False, *_: Any, **__: Any
    ) -> Any:
        return compare(models, batch, threads, autocast, Effort(rounds=2, block_seconds=1e-4))

    monkeypatch.setattr(timing, "compare", brief)
