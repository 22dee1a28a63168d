"""The Ray of a test process: a local one that tests share, or a cluster whose nodes come and go."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


#: Settings of a head without the processes that no test needs: one scales clusters, one passes logs on.
_LEAN_HEAD = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}


class Rays:
    """At most one Ray at a time, because a process can use only one. It starts with the first test that wants it.

    Ray is imported where it is used: most tests need not wait for it.
    """

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._cpus = 0

    def local(self) -> None:
        """Connect this process to a local Ray with two CPUs, which later tests find again."""
        import ray

        if self._cpus == 2 and ray.is_initialized():
            return
        self._start(cpus=2)
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        ray.init(
            address=self._started.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": threads},
        )

    def cluster(self) -> Cluster:
        """Connect this process to a cluster whose head has one CPU. Later tests find it again without its nodes."""
        if self._cpus != 1:
            self._start(cpus=1)
            self._started.connect()
        return self._started

    def leave_only_the_head(self) -> None:
        """Remove the nodes that a test added, and wait until Ray lists them as dead."""
        import ray

        if self._cluster is None:
            return
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node)
        while sum(node["Alive"] for node in ray.nodes()) > 1:
            time.sleep(0.05)

    def stop(self) -> None:
        """Disconnect, and end what was started, also a Ray that a test has left behind."""
        ray = sys.modules.get("ray")  # without an import there is no Ray
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        self._cpus = 0
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None

    @property
    def _started(self) -> Cluster:
        assert self._cluster is not None
        return self._cluster

    def _start(self, cpus: int) -> None:
        """Start a head with so many CPUs instead of what runs."""
        from ray.cluster_utils import Cluster

        self.stop()
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # workers read it: they keep this process's folder
        self._cluster, self._cpus = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, **_LEAN_HEAD}), cpus
