"""Check nodes and tracking server before the first trial: same software, same data, a study folder that all share.

All problems are collected, so that one start shows all that must be done. Otherwise a search would fail on its third
node an hour later. Nodes that join later check themselves, see `for_late_nodes`.
"""

from __future__ import annotations

import functools
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.formats.content import all_files
from medcore.models.spec import Architecture, ModelSpec
from search.base.sections.inputs import ModelConfig
from search.driver.placement import Peak, gpu_count, gpu_memory_problem, kept_peak, measured_need
from search.nodes.every_node import Node, ask, node_names
from search.nodes.probe import DRIVER, Question, Ready, Report, answer, differences, look, why_unlike
from search.nodes.problems import ManyProblems, listed
from search.nodes.session import cluster_address, dead_nodes

#: A trial moves the dense weights to the GPU, in float32; gradients and AdamW's moments are of the pruned ones.
_BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Needs:
    """What the trials of a study need of every node.

    Attributes:
        study: The study's folder.
        folders: Data folders.
        files: Checkpoints, and the files that describe their architecture.
        arch: Architecture of the adapted checkpoint.
        gpu: Share of a GPU that a trial requests.
    """

    study: Path
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    arch: Architecture
    gpu: float


def check(needs: Needs, address: str | None, tracking_problems: Callable[[], list[str]] = list) -> int:
    """Check tracking server and nodes before trials start.

    Nodes are checked if there is more than this process's own Ray.

    Args:
        needs: What the trials need, with absolute paths.
        address: The cluster's address; None for a Ray of this process's own.
        tracking_problems: Returns what is wrong with the tracking server, one line each.

    Returns:
        How many nodes were checked.

    Raises:
        MedcoreError: There are problems; the message has them all.
    """
    problems = tracking_problems()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    checked = nodes if address is not None or len(nodes) > 1 else []
    if checked:
        problems += node_problems(needs, checked)
    if problems:
        raise ManyProblems(listed(problems))
    return len(checked)


def for_late_nodes(model: ModelConfig, address: str | None) -> Ready | None:
    """Return what each worker process calls before its first trial.

    Nodes of a cluster may join after `check`.

    It compares the node's software and checkpoints, which is what trials take from their node, with those of this
    process.

    Args:
        model: The checkpoints.
        address: The cluster, as the user gave it.

    Returns:
        A function that returns why its node should run no trial; None if there is only this process's own Ray.
    """
    if cluster_address(address) is None and len(ray.nodes()) == 1:  # type: ignore[no-untyped-call]
        return None
    return functools.partial(why_unlike, look((), checkpoint_files(model)))


def node_problems(needs: Needs, nodes: Sequence[Node]) -> list[str]:
    """Return what is wrong with each node, one line each."""
    probe = needs.study / f".preflight-{secrets.token_hex(4)}"
    token = secrets.token_hex(16)
    try:
        probe.mkdir()
        (probe / DRIVER).write_text(token)
    except OSError as error:
        raise MedcoreError(f"{needs.study}: cannot be written ({error.strerror}); choose another `output`") from None
    try:
        questions = {
            node["NodeID"]: Question(needs.folders, needs.files, probe, node["NodeID"], gpu_count(node["Resources"]))
            for node in nodes
        }
        here = answer(Question(needs.folders, needs.files, probe, "here", 0))
        names = node_names(nodes)
        peak = kept_peak(needs.study)
        lines: list[str] = []
        replies = ask(answer, questions)
        dead = dead_nodes()  # a node that was taken away meanwhile gets no trial
        for node, reply in replies.items():
            if node in dead:
                continue
            if isinstance(reply, str):
                problems = [reply]
            else:
                problems = differences(here, reply)
                problems += study_folder_problems(needs.study, reply, _arrived(probe / node, token))
                problems += _gpu_problems(needs, reply, peak)
            lines += [f"{names[node]}: {text}" for text in problems]
        return lines
    finally:
        shutil.rmtree(probe, ignore_errors=True)  # a node's file may be held open for a moment by its file system


def checkpoint_files(model: ModelConfig) -> tuple[Path, ...]:
    """Return both checkpoints, and the files that describe their architecture."""
    origins = (model.base, model.adapted)
    checkpoints = [file for path in origins for file in (all_files(path) if path.is_dir() else [path])]
    descriptions = [path.with_suffix(".json") for path in checkpoints]
    if model.architecture is not None:
        descriptions.append(Path(model.architecture))
    existing = (path for path in descriptions if path.suffix == ".json" and path.is_file())
    return tuple(dict.fromkeys([*checkpoints, *existing]))


def study_folder_problems(folder: Path, report: Report, arrived: bool) -> list[str]:
    """Return why node and driver do not share the study's folder, at most one line.

    Args:
        folder: The study's folder.
        report: The node's report.
        arrived: Whether the driver saw what the node wrote.
    """
    if report.unwritten is not None:
        return [f"study folder {folder} cannot be written ({report.unwritten}); make it writable for that node's user"]
    if report.unread is None and arrived:
        return []
    reason = report.unread or "its files do not arrive"
    return [f"study folder {folder} is not shared ({reason}); put `output` on storage that all nodes mount"]


def least_gpu_bytes(arch: Architecture) -> int:
    """Return the bytes of the unpruned encoder's weights.

    A trial needs more, never less.
    """
    return _BYTES_PER_PARAMETER * int(cost(ModelSpec.dense(arch)).encoder_params)


def _gpu_problems(needs: Needs, report: Report, peak: Peak | None) -> list[str]:
    """Return why a trial's share of the node's smallest GPU is too small.

    There is at most one line.
    """
    if needs.gpu <= 0 or not report.gpu_bytes:
        return []
    smallest = min(report.gpu_bytes)
    needed = max(least_gpu_bytes(needs.arch), measured_need(peak, smallest) if peak else 0)
    problem = gpu_memory_problem(needed, smallest, needs.gpu)
    return [] if problem is None else [problem]


def _arrived(file: Path, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
