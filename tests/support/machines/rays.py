"""The Ray of a test process: a local one that tests share, or a cluster whose nodes come and go."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


class Rays:
    """At most one Ray at a time, because a process can use only one. It starts with the first test that wants it.

    Ray is imported where it is used: most tests need not wait for it.
    """

    def __init__(self) -> None:
        self._local = False
        self._cluster: Cluster | None = None

    def local(self) -> None:
        """Connect this process to a local Ray with two CPUs, which later tests find again."""
        import ray

        if self._local and ray.is_initialized():
            return
        self.stop()
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # workers read it: they keep this process's folder
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": threads},
        )
        self._local = True

    def cluster(self) -> Cluster:
        """Connect this process to a cluster whose head has one CPU. Later tests find it again without its nodes."""
        from ray.cluster_utils import Cluster

        if self._cluster is None:
            self.stop()
            # without processes that no test needs: one scales clusters, one passes logs on
            head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
            self._cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
        return self._cluster

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
        self._local = False
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None
