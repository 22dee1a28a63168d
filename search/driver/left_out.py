"""Nodes that joined during a search and are unfit for its trials: the search goes on without them."""

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

#: With so many of them there is something wrong with how nodes are made, and a cluster that grows by itself would make
#: such nodes for ever.
_MOST = 5
#: The search stands still while nodes are asked. They look at no image, which is what can take longer.
_SECONDS = 60.0


class LeftOut:
    """Which nodes get no trials, and why.

    Args:
        ready: asked on a node, tells why it should run no trial; None where nodes are not asked.
    """

    def __init__(self, ready: Ready | None) -> None:
        self._ready = ready
        self._why: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._why)

    @property
    def lines(self) -> list[str]:
        """Each node and why it is left out."""
        return list(self._why.values())

    def add(self, node: str, why: str) -> None:
        """Leave the node of this id out from the next run of Tune on; a user is told once."""
        if node in self._why:
            return
        name = node_names(ray.nodes()).get(node, f"node {node[:8]}")  # type: ignore[no-untyped-call]
        self._why[node] = f"{name}: {why}"
        logger.warning("the search goes on without %s", self._why[node])

    def look(self, stop: threading.Event) -> None:
        """Ask all other nodes. One that lacks so much that no worker can be got ready there cannot say so by itself.

        One that is silent stays: it may be busy, and where no process starts at all, no trial does.
        """
        if self._ready is None:
            return
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
        asked = {node["NodeID"]: self._ready for node in nodes if node["NodeID"] not in self._why}
        replies = ask(_answer, asked, _SECONDS, stop)
        gone = dead_nodes()
        for node, reply in replies.items():
            why = reply if isinstance(reply, str) else reply[0]
            if why is not None and node not in gone and not isinstance(reply, Silence):
                self.add(node, why)

    def around(self, wanted: Mapping[str, float]) -> tune.PlacementGroupFactory:
        """What a trial asks Ray for, on any other node. `wanted`: as `search.nodes.session.request` gives it."""
        bundle = {NAMES[kind]: amount for kind, amount in wanted.items()}
        if not self._why:
            return tune.PlacementGroupFactory([bundle])
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._why)})"}
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])

    def room(self, wanted: Mapping[str, float]) -> int:
        """How many trials the other nodes hold at once."""
        return room(wanted, without=self._why)

    def problem(self, wanted: Mapping[str, float]) -> str | None:
        """Why a search cannot go on without these nodes, in one line that has the last one's reason."""
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
