"""One function run on every node of the cluster, and what each answers; and what people call a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.session import one_line

#: As `ray.nodes()` describes it.
Node = Mapping[str, Any]

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def ask(
    function: Callable[[Question], Answer], questions: Mapping[str, Question], seconds: float = 180.0
) -> dict[str, Answer | str]:
    """Run `function` once on each node, side by side.

    It takes no CPU, so that it also runs beside somebody else's work.

    Args:
        questions: the function's argument by the node's id.
        seconds: until a node counts as silent. One that is up answers at once, but with slow storage and many images it
            may take minutes to look through them.

    Returns:
        By the node's id the answer, or in one line why there is none; so an answer must not be a string.
    """
    pending = {node: _start(function, node, question) for node, question in questions.items()}
    refs = list(pending.values())
    done = set(ray.wait(refs, num_returns=len(refs), timeout=seconds)[0]) if refs else set()
    replies: dict[str, Answer | str] = {}
    for node, ref in pending.items():
        if ref not in done:
            replies[node] = f"no answer within {seconds:g} seconds; look at `ray status`"
            continue
        try:
            replies[node] = ray.get(ref)
        except (RayError, ImportError) as error:
            replies[node] = f"cannot run medcore ({one_line(error)}); install it there, or submit with --pip"
    return replies


def node_names(nodes: Sequence[Node]) -> dict[str, str]:
    """Host name and address of each node by its id; with the start of the id where several share a machine."""
    plain = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}" for node in nodes}
    count = Counter(plain.values())
    return {key: f"node {text}, {key[:8]})" if count[text] > 1 else f"node {text})" for key, text in plain.items()}


def _start(function: Callable[[Question], Answer], node: str, question: Question) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(question)
