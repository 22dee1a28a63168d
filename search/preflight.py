"""Before the first trial: does every node see the same software, data and study, and does the tracking server listen?

All problems are collected, so that one look tells all that must be done; a search that would fail on its third node
an hour later does not start.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medcore.cost import cost
from medcore.errors import MedcoreError
from medcore.spec import Architecture, EncoderSpec
from search import mlflow_client
from search.config import Config
from search.ledger import all_issued
from search.node_probe import DRIVER, Question, Report, Seen, answer
from search.session import Resources, dead_nodes, one_line
from search.tracking_note import hide_login

#: A node that is up answers in seconds; one with slow storage and many images may take longer.
_SECONDS = 180.0
#: A trial moves the dense weights to the GPU, in float32; gradients and AdamW's moments are of the pruned ones.
_BYTES_PER_PARAMETER = 4

Node = Mapping[str, Any]


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
        problems += node_problems(config, asked, resources, least_gpu_bytes(arch))
    if problems:
        raise MedcoreError(listed(problems))
    return len(asked)


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


def node_problems(config: Config, nodes: Sequence[Node], resources: Resources, gpu_bytes: int) -> list[str]:
    """What is wrong with each node, one line each; `gpu_bytes`: what a trial needs at least."""
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
            node["NodeID"]: Question(folders, files, probe, node["NodeID"], bool(node["Resources"].get("GPU")))
            for node in nodes
        }
        pending = {node: _ask(node, question) for node, question in questions.items()}
        mine = answer(Question(folders, files, probe, "here", False))
        names = node_names(nodes)
        lines: list[str] = []
        replies = _collect(pending)
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
                    short = gpu_memory_problem(gpu_bytes, max(reply.gpu_bytes), resources.gpu)
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


def node_names(nodes: Sequence[Node]) -> dict[str, str]:
    """Host name and address of each node by its id; with the start of the id where several share a machine."""
    plain = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}" for node in nodes}
    count = Counter(plain.values())
    return {key: f"node {text}, {key[:8]})" if count[text] > 1 else f"node {text})" for key, text in plain.items()}


def differences(mine: Report, theirs: Report) -> list[str]:
    """What a node has other than the driver, as text to put behind the node's name.

    Files that the driver lacks too are not compared: what needs them says so itself.
    """
    lines = []
    other = [key for key, here in mine.versions.items() if theirs.versions.get(key) != here]
    if other:
        text = ", ".join(f"{key} {theirs.versions.get(key)} (here {mine.versions[key]})" for key in other)
        lines.append(f"{text}; install the versions of constraints.txt there, or submit with --pip")
    if theirs.code != mine.code:
        lines.append(f"medcore's code is another revision ({theirs.code}, here {mine.code}); install this one there")
    for path, here in mine.seen.items():
        there = theirs.seen[path]
        if here.reason is None and there.digest != here.digest:
            lines.append(_other_content(path, here, there))
    return lines


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


def gpu_memory_problem(needed_bytes: int, total_bytes: int, fraction: float) -> str | None:
    """Why a share of a GPU is too small for a trial, and which share would do.

    Args:
        needed_bytes: what one trial allocates at least.
        total_bytes: memory of the node's largest GPU.
        fraction: share of it that a trial asks Ray for, at most 1.
    """
    if needed_bytes <= fraction * total_bytes:
        return None
    text = (
        f"a trial needs at least {needed_bytes / 1e9:.1f} GB of GPU memory, and gpus_per_trial {fraction:g} gives it "
        f"{fraction * total_bytes / 1e9:.1f} GB of {total_bytes / 1e9:.1f} GB"
    )
    if needed_bytes > total_bytes:
        return f"{text}; this model needs a larger GPU"
    return f"{text}; set search.gpus_per_trial to {math.ceil(100 * needed_bytes / total_bytes) / 100:g} or more"


def _other_content(path: Path, here: Seen, there: Seen) -> str:
    if there.reason is not None:
        return f"{path} is not visible ({there.reason}); put it on storage that all nodes mount at this path"
    amounts = f"{there.files} files, {there.size} bytes; here {here.files} files, {here.size} bytes"
    return f"{path} has another content ({amounts}); give all nodes the same"


def _ask(node: str, question: Question) -> Any:
    """Start `answer` on one node; it takes no CPU, so that it also runs beside somebody else's work."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(question)


def _collect(pending: Mapping[str, Any]) -> dict[str, Report | str]:
    """The answer of each node, or why there is none."""
    refs = list(pending.values())
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=_SECONDS)
    done = set(ready)
    replies: dict[str, Report | str] = {}
    for node, ref in pending.items():
        if ref not in done:
            replies[node] = f"no answer within {_SECONDS:g} seconds; look at `ray status`"
            continue
        try:
            replies[node] = ray.get(ref)
        except (RayError, ImportError) as error:
            replies[node] = f"cannot run medcore ({one_line(error)}); install it there, or submit with --pip"
    return replies


def _arrived(file: Path, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
