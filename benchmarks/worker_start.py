"""Claim: a cluster is at work as soon as its workers are ready, however long that takes them.

Workers of a search get ready side by side; left alone, Tune begins with the next one only when the last is ready, if a
searcher draws the trials. Trials only sleep, and so do workers before their first trial, as real ones do that read
packages and checkpoints from network storage. The ideal is one such wait and then no gap.

    python -m benchmarks.worker_start --nodes 6 --trials 24 --seconds 10 --ready 5
"""

from __future__ import annotations

import argparse
import functools
import os
import time

import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from benchmarks.trial_overhead import ours
from search.driver.job import Execution
from search.nodes.session import Resources, connected

#: How many workers Tune gets ready at once; its own for a searcher is 1.
_AT_ONCE = {"medcore search": "1000", "one worker after the other": "1"}


def get_ready(seconds: float) -> None:
    """What a worker does before its first trial; None is no objection to its node."""
    time.sleep(seconds)


def measure(at_once: str, address: str, trials: int, seconds: float, ready: float) -> float:
    """Wall seconds of a search on the cluster."""
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = at_once
    return ours(trials, seconds, Execution(ready=functools.partial(get_ready, ready), ray_address=address))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=6, help="nodes with a place for one trial each")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a trial")
    parser.add_argument("--ready", type=float, default=5.0, help="seconds until a worker is ready, after its start")
    arguments = parser.parse_args()
    ideal = arguments.ready + arguments.seconds * -(-arguments.trials // arguments.nodes)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(arguments.nodes):
            cluster.add_node(num_cpus=1)
        with connected(cluster.address, Resources()):
            measured = {
                name: measure(at_once, cluster.address, arguments.trials, arguments.seconds, arguments.ready)
                for name, at_once in _AT_ONCE.items()
            }
    finally:
        ray.shutdown()
        cluster.shutdown()
    table = Table(
        title=f"{arguments.trials} trials of {arguments.seconds:g} s on {arguments.nodes} nodes, workers ready after "
        f"{arguments.ready:g} s; ideal {ideal:.0f} s"
    )
    for title in ("", "wall (s)", "ratio to ours"):
        table.add_column(title, justify="right")
    for name, took in measured.items():
        table.add_row(name, f"{took:.1f}", f"{took / measured['medcore search']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
