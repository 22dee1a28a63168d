"""Before the first trial: does every node see the same software, data and study, and does the tracking server listen?

All problems are collected, so that one look tells all that must be done; a search that would fail on its third node
an hour later does not start. Nodes that join later look at themselves, see `for_late_nodes`.
"""

from __future__ import annotations

import functools
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import ray

from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import Architecture, EncoderSpec
from search.base.config import Config
from search.base.logins import hide_login
from search.driver.placement import Peak, gpu_count, gpu_memory_problem, kept_peak, measured_need
from search.nodes.every_node import Node, ask, node_names
from search.nodes.probe import DRIVER, Question, Report, answer, differences, look, why_unlike
from search.nodes.session import Resources, cluster_address, dead_nodes
from search.tracking import mlflow_client
from search.trials.ledger import all_issued

#: A trial moves the dense weights to the GPU, in float32; gradients and AdamW's moments are of the pruned ones.
_BYTES_PER_PARAMETER = 4


def check(config: Config, arch: Architecture, resources: Resources, address: str | None) -> int:
    """Check tracking server and nodes before trials start; returns how many nodes were looked at.

    Nodes are asked where there is more than this process's own Ray.

    Args:
        config: with absolute paths. arch: of the adapted checkpoint. resources: of one trial.
        address: of the cluster, None for a Ray of this process's own.

    Raises:
        MedcoreError: one line for each problem.
    """
    problems = tracking_problems(config)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    asked = nodes if address is not None or len(nodes) > 1 else []
    if asked:
        problems += node_problems(config, asked, resources, least_gpu_bytes(arch), kept_peak(config))
    if problems:
        raise MedcoreError(listed(problems))
    return len(asked)


def for_late_nodes(config: Config, address: str | None) -> Callable[[], str | None] | None:
    """What each worker process of a cluster asks about its node before its first trial: why it should do none.

    Nodes that join after `check` are seen by nobody else. Compared are software and checkpoints, which is what trials
    take from their node, with what this process finds now. None where there is only this process's own Ray.

    Args:
        address: as given by the user.
    """
    if cluster_address(address) is None and len(ray.nodes()) == 1:  # type: ignore[no-untyped-call]
        return None
    return functools.partial(why_unlike, look((), checkpoint_files(config)))


def listed(problems: Sequence[str]) -> str:
    """One problem as it is, several under a line that counts them."""
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"nothing was started, there are {len(problems)} problems:", *problems])


def tracking_problems(config: Config) -> list[str]:
    """Whether a new study can write to the MLflow server that it names, found out by writing; logins stay hidden.

    A study that has trials goes on without its server: rows are on disk first, and are sent when it is back.
    """
    uri = config.tracking.uri
    if uri is None or all_issued(config.folder):
        return []
    reason = mlflow_client.why_not_writable(uri, config.tracking.experiment)
    if reason is None:
        return []
    return [
        f"MLflow at {hide_login(uri)} {reason}; start it or mend its address and login, or leave the tracking address "
        "out: the study then keeps a file of its own, and `medcore sync` sends it later"
    ]


def node_problems(
    config: Config, nodes: Sequence[Node], resources: Resources, gpu_bytes: int, peak: Peak | None
) -> list[str]:
    """What is wrong with each node, one line each.

    Args:
        gpu_bytes: what a trial needs at least. peak: what one has used, if that was measured.
    """
    folders, files = tuple(config.data.folders), checkpoint_files(config)
    probe = config.folder / f".preflight-{secrets.token_hex(4)}"
    token = secrets.token_hex(16)
    try:
        probe.mkdir()
        (probe / DRIVER).write_text(token)
    except OSError as error:
        raise MedcoreError(f"{config.folder}: cannot be written ({error.strerror}); choose another `output`") from None
    try:
        questions = {
            node["NodeID"]: Question(folders, files, probe, node["NodeID"], gpu_count(node["Resources"]))
            for node in nodes
        }
        mine = answer(Question(folders, files, probe, "here", 0))
        names = node_names(nodes)
        lines: list[str] = []
        replies = ask(answer, questions)
        gone = dead_nodes()  # one that was taken away meanwhile gets no trial
        for node, reply in replies.items():
            if node in gone:
                continue
            if isinstance(reply, str):
                found = [reply]
            else:
                found = differences(mine, reply)
                found += study_folder_problems(config.folder, reply, _arrived(probe / node, token))
                if resources.gpu > 0 and reply.gpu_bytes:
                    smallest = min(reply.gpu_bytes)
                    needed = max(gpu_bytes, measured_need(peak, smallest) if peak else 0)
                    short = gpu_memory_problem(needed, smallest, resources.gpu)
                    found += [short] if short else []
            lines += [f"{names[node]}: {text}" for text in found]
        return lines
    finally:
        shutil.rmtree(probe, ignore_errors=True)  # a node's file may be held open for a moment by its file system


def checkpoint_files(config: Config) -> tuple[Path, ...]:
    """Both checkpoints, and the files that describe their architecture."""
    found = [config.model.base, config.model.adapted]
    beside = [path.with_suffix(".json") for path in found]
    if config.model.architecture is not None:
        beside.append(Path(config.model.architecture))
    return tuple(dict.fromkeys([*found, *(path for path in beside if path.suffix == ".json" and path.is_file())]))


def study_folder_problems(folder: Path, report: Report, arrived: bool) -> list[str]:
    """Whether node and driver share the study's folder. `arrived`: the driver saw what the node wrote."""
    if report.unwritten is not None:
        return [f"study folder {folder} cannot be written ({report.unwritten}); make it writable for that node's user"]
    if report.unread is None and arrived:
        return []
    reason = report.unread or "its files do not arrive"
    return [f"study folder {folder} is not shared ({reason}); put `output` on storage that all nodes mount"]


def least_gpu_bytes(arch: Architecture) -> int:
    """What the unpruned encoder's weights take: a trial needs more, never less."""
    return _BYTES_PER_PARAMETER * int(cost(EncoderSpec.dense(arch)).encoder_params)


def _arrived(file: Path, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
