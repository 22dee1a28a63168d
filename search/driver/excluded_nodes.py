"""Nodes that joined during a search and are unfit for its trials; the search continues without them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import ray
from ray import tune

from search.nodes.every_node import Silence, ask, node_names
from search.nodes.probe import Ready
from search.nodes.session import NAMES, dead_nodes, room

logger = logging.getLogger(__name__)

#: More unfit nodes than this mean a wrong setup. An autoscaling cluster would start more of them forever.
_MOST = 5
#: The search stands still while nodes answer. They look at no image, which is what can take longer.
_SECONDS = 60.0


class ExcludedNodes:
    """Which nodes get no trials, and why."""

    def __init__(self, ready: Ready | None) -> None:
        """Start without an excluded node.

        Args:
            ready: Run on a node, returns why it should run no trial. None if every node may run trials.
        """
        self._ready = ready
        self._why: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._why)

    @property
    def lines(self) -> list[str]:
        """Each node and why it is excluded."""
        return list(self._why.values())

    def add(self, node: str, why: str) -> None:
        """Exclude a node from the next run of Tune on, and warn the user once.

        Args:
            node: The node's id.
            why: The reason, in one line.
        """
        if node in self._why:
            return
        name = node_names(ray.nodes()).get(node, f"node {node[:8]}")  # type: ignore[no-untyped-call]
        self._why[node] = f"{name}: {why}"
        logger.warning("the search continues without %s", self._why[node])

    def look(self, stop: threading.Event) -> None:
        """Ask all other nodes whether they may run trials.

        A node on which no worker can start cannot report that by itself.

        Keep a node that does not answer; it may just be busy. Where no process starts at all, no trial does either.

        Args:
            stop: Ends the waiting when it is set.
        """
        if self._ready is None:
            return
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
        asked = {node["NodeID"]: self._ready for node in nodes if node["NodeID"] not in self._why}
        replies = ask(_answer, asked, _SECONDS, stop)
        dead = dead_nodes()
        for node, reply in replies.items():
            why = reply if isinstance(reply, str) else reply[0]
            if why is not None and node not in dead and not isinstance(reply, Silence):
                self.add(node, why)

    def around(self, wanted: Mapping[str, float]) -> tune.PlacementGroupFactory:
        """Return what a trial requests from Ray, on any other node.

        Args:
            wanted: Amounts by kind, as `search.nodes.session.request` returns them.
        """
        bundle = {NAMES[kind]: amount for kind, amount in wanted.items()}
        if not self._why:
            return tune.PlacementGroupFactory([bundle])
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._why)})"}
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])

    def room(self, wanted: Mapping[str, float]) -> int:
        """Return how many trials the other nodes hold at once."""
        return room(wanted, without=self._why)

    def problem(self, wanted: Mapping[str, float]) -> str | None:
        """Return why a search cannot continue without the excluded nodes.

        The reason is one line; None if the search can continue.
        """
        if not self._why:
            return None
        last = self.lines[-1]
        if len(self._why) >= _MOST:
            return f"{len(self._why)} nodes are unfit for trials, which is too many; the last is {last}"
        if self.room(wanted) == 0:
            return f"no other node has room for a trial than {last}"
        return None


def _answer(ready: Ready) -> tuple[str | None]:
    return (ready(),)
