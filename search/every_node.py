"""One function run on every node of the cluster, and what each answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.session import one_line

#: A node that is up answers in seconds; one with slow storage and many images may take longer.
_SECONDS = 180.0

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def ask(function: Callable[[Question], Answer], questions: Mapping[str, Question]) -> dict[str, Answer | str]:
    """Run `function` once on each node, side by side.

    It takes no CPU, so that it also runs beside somebody else's work.

    Args:
        questions: the function's argument by the node's id.

    Returns:
        By the node's id the answer, or in one line why there is none; so an answer must not be a string.
    """
    pending = {node: _start(function, node, question) for node, question in questions.items()}
    refs = list(pending.values())
    done = set(ray.wait(refs, num_returns=len(refs), timeout=_SECONDS)[0]) if refs else set()
    replies: dict[str, Answer | str] = {}
    for node, ref in pending.items():
        if ref not in done:
            replies[node] = f"no answer within {_SECONDS:g} seconds; look at `ray status`"
            continue
        try:
            replies[node] = ray.get(ref)
        except (RayError, ImportError) as error:
            replies[node] = f"cannot run medcore ({one_line(error)}); install it there, or submit with --pip"
    return replies


def _start(function: Callable[[Question], Answer], node: str, question: Question) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(question)
