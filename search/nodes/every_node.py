"""Run one function on every node of the cluster, and name the nodes for people."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medcore.errors import brief

#: As `ray.nodes()` describes it.
Node = Mapping[str, Any]

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Silence(str):
    """Why there is no answer.

    The node may be busy, short of memory or dying; its software may still be fine.
    """


def ask(
    function: Callable[[Question], Answer],
    questions: Mapping[str, Question],
    seconds: float = 180.0,
    stop: threading.Event | None = None,
) -> dict[str, Answer | str]:
    """Run a function once on each node, on all nodes at the same time.

    It reserves no CPU, so it also runs on nodes that other jobs fill.

    Args:
        function: Returns a node's answer, which must not be a string.
        questions: The function's argument by the node's id.
        seconds: Time until a node counts as silent. Most nodes answer at once, but reading many images from slow
            storage may take minutes.
        stop: Set when the user wants no answer any more.

    Returns:
        By the node's id the answer, a line that says why the function cannot run there, or a `Silence`.
    """
    pending = {node: _start(function, node, question) for node, question in questions.items()}
    done = _done(list(pending.values()), seconds, stop)
    replies: dict[str, Answer | str] = {}
    for node, ref in pending.items():
        if ref not in done:
            replies[node] = Silence(f"no answer within {seconds:g} seconds; look at `ray status`")
            continue
        try:
            replies[node] = ray.get(ref)
        except (RayTaskError, RuntimeEnvSetupError, ImportError) as error:
            replies[node] = f"cannot run medcore ({brief(error, last=200)}); install it there, or submit with --pip"
        except RayError as error:
            replies[node] = Silence(f"does not answer ({brief(error, last=200)}); look at `ray status`")
    return replies


def node_names(nodes: Sequence[Node]) -> dict[str, str]:
    """Return host name and address of each node by its id.

    The start of the id is added if nodes share a machine.
    """
    plain = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}" for node in nodes}
    count = Counter(plain.values())
    return {key: f"node {text}, {key[:8]})" if count[text] > 1 else f"node {text})" for key, text in plain.items()}


def _done(refs: list[Any], seconds: float, stop: threading.Event | None) -> set[Any]:
    """Return the tasks that are done after at most so many seconds.

    `stop` is checked every second.
    """
    done, waiting, end = set[Any](), refs, time.monotonic() + seconds
    while waiting and time.monotonic() < end and not (stop is not None and stop.is_set()):
        more, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
        done |= set(more)
    return done


def _start(function: Callable[[Question], Answer], node: str, question: Question) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(question)
