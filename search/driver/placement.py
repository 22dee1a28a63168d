"""What one trial needs of a machine, from one that is tried for a moment before the search.

Measured on a worker, with the dense model (no trial's is larger), the configured batch and a batch of the evaluation.
Kept in the study's `placement.json`, so that a resumed study places its trials as before. A trial may land on any node,
so its share is that of the smallest GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture
from medcore.quality.evaluate import evaluate
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.teacher import Teacher
from results.store.files import read_json, write_by_rename
from search.base.config import Config
from search.base.device import best_device, forget_peaks, gpu_peak, host_peak, pin_threads
from search.nodes.every_node import ask
from search.nodes.probe import gpu_memory
from search.nodes.session import Resources, fitting, one_line, places, request
from search.study.inputs import Shared, adapted_model

logger = logging.getLogger(__name__)

#: Above what was measured: other images, and what the allocator loses between its blocks.
MARGIN = 1.3
#: What a process needs of a GPU before its first tensor, bytes; the allocator does not count it.
CONTEXT = 512 * 2**20
#: Seconds until a user is told what the search waits for.
_PATIENCE = 60.0
#: Images of an evaluation batch.
_EVALUATED = 8


@dataclass(frozen=True)
class Peak:
    """Bytes at most in use during a dry run. `host` leaves out what processes share; `gpu_total` is the GPU's size.

    Both figures of the GPU are 0 where the dry run used none.
    """

    host: int
    gpu: int
    gpu_total: int


def gpu_share(peak: Peak, total_bytes: int) -> float:
    """Share of a GPU of that size, in eighths, rounded up; 1 where a trial fills it."""
    needed = (MARGIN * peak.gpu + CONTEXT) / total_bytes
    return min(1.0, math.ceil(8 * needed) / 8)


def measured_need(peak: Peak, total_bytes: int) -> int:
    """Bytes that a trial should have of a GPU of that size; no more than there are, as batches are taken in parts."""
    return min(peak.gpu + CONTEXT, total_bytes) if peak.gpu else 0


def gpu_memory_problem(needed_bytes: int, total_bytes: int, fraction: float) -> str | None:
    """Why a share of a GPU is too small for a trial, and which share would do.

    Args:
        needed_bytes: what one trial allocates at least.
        total_bytes: memory of the smallest GPU that it may get.
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


def rough_need(arch: Architecture, batch_size: int) -> int:
    """A generous guess of a trial's memory in bytes, to tell whether measuring can pay at all: of one on the CPU.

    Eight copies of the encoder's weights (models, gradient, AdamW, last good copy) and, for each image, twenty
    activations of every token in every block.
    """
    tokens = (arch.img_size // arch.patch_size) ** 2
    weights = arch.depth * (4 + 2 * arch.mlp_ratio) * arch.embed_dim**2
    activations = max(batch_size, _EVALUATED) * arch.depth * tokens * 20 * arch.embed_dim
    return int(4 * (8 * weights + activations)) + 2**29


def placed(config: Config, shared: Shared) -> Resources:
    """What each trial asks Ray for: the configured values and, where these say `auto`, measured ones.

    Nothing is measured where nothing depends on it: with a GPU's share given or without a GPU, and if the nodes have
    memory for twice as many trials as their CPUs and GPUs allow.

    Raises:
        MedcoreError: the dry run failed, or has shown that the given share of a GPU is too small.
    """
    search = config.search
    resources = Resources(search.cpus_per_trial, search.gpu_share, search.memory_bytes)
    wanted = request(resources)
    on_gpu = "gpu" in wanted
    gpu_open = search.gpus_per_trial == "auto" and on_gpu
    rough = rough_need(shared.arch, config.recovery.batch_size)
    memory_open = search.memory_per_trial == "auto"
    if not gpu_open and not (memory_open and _is_tight(wanted, rough)):
        return resources
    peak = kept_peak(config)
    if peak is None or bool(peak.gpu_total) != on_gpu:  # a trial on a CPU says nothing of one on a GPU
        peak = _measured(config, shared, on_gpu)
    if peak.gpu_total:
        smallest = _smallest_gpu(peak.gpu_total)
        if gpu_open:
            resources = dataclasses.replace(resources, gpu=gpu_share(peak, smallest))
            if peak.gpu + CONTEXT > smallest:
                logger.warning(
                    "a trial has used %.1f GB of GPU memory and the smallest GPU has %.1f GB: there its batches are "
                    "taken in parts, which is slower; a smaller recovery.batch_size spares that",
                    *((peak.gpu + CONTEXT) / 1e9, smallest / 1e9),
                )
        elif problem := gpu_memory_problem(measured_need(peak, smallest), smallest, resources.gpu):
            raise MedcoreError(problem)
    if memory_open and peak.host and _is_tight(request(resources), rough):
        resources = dataclasses.replace(resources, memory=math.ceil(MARGIN * peak.host))
    return resources


def _is_tight(wanted: Mapping[str, float], rough: int) -> bool:
    """Whether a node has less memory than twice the rough need for each trial that its CPUs and GPUs allow."""
    kinds = {kind: amount for kind, amount in wanted.items() if kind != "memory"}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = ((node.get("memory", math.inf), places(node, kinds)) for node in nodes)
    return min((memory / count for memory, count in rooms if count), default=math.inf) < 2 * rough


def _smallest_gpu(measured: int) -> int:
    """Bytes of the smallest GPU of the cluster. `measured`: of the one that a trial was tried on."""
    gpus = {node["NodeID"]: gpu_count(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    sizes = [measured]
    for node, reply in ask(gpu_memory, {node: count for node, count in gpus.items() if count}).items():
        if isinstance(reply, str):
            logger.warning("the GPUs of node %s are not counted: %s", node[:8], reply)
        else:
            sizes += reply
    return min(sizes)


def gpu_count(resources: Mapping[str, float]) -> int:
    """How many GPUs of a node Ray hands out."""
    return math.ceil(resources.get("GPU", 0))


def kept_peak(config: Config) -> Peak | None:
    """What this study has measured before. Raises `MedcoreError` if the file is corrupt."""
    path = _file(config)
    if not path.is_file():
        return None
    try:
        return Peak(**read_json(path, "delete it to measure anew"))
    except TypeError:
        raise MedcoreError(f"{path}: corrupt; delete it to measure anew") from None


def _file(config: Config) -> Path:
    return config.folder / "placement.json"


def _measured(config: Config, shared: Shared, on_gpu: bool) -> Peak:
    """The peak of a dry run on a worker; it is kept."""
    alone = Resources(config.search.cpus_per_trial, 1.0 if on_gpu else 0.0)
    fitting(request(alone))  # a task that fits nowhere would wait for ever
    few = list(range(min(config.recovery.batch_size, len(shared.calibration))))
    teacher = Teacher(shared.teacher.embeddings[few], shared.teacher.logits[few])
    judged = shared.search.subset(list(range(min(_EVALUATED, len(shared.search)))))
    task: Any = ray.remote(measure).options(num_cpus=alone.cpu, num_gpus=alone.gpu, max_retries=0)
    try:
        measured = task.remote(config, shared.calibration.subset(few), teacher, judged)
        if not ray.wait([measured], timeout=_PATIENCE)[0]:
            logger.warning(
                "waiting for a free machine to measure a trial; setting search.gpus_per_trial and "
                "search.memory_per_trial spares that"
            )
        peak: Peak = ray.get(measured)
    except RayError as error:
        raise MedcoreError(
            f"the trial that was tried to see what one needs has failed ({one_line(error)}); lower "
            "recovery.batch_size, or set search.gpus_per_trial and search.memory_per_trial"
        ) from None
    write_by_rename(_file(config), (json.dumps(dataclasses.asdict(peak)) + "\n").encode())
    return peak


def measure(config: Config, images: ImageSet, teacher: Teacher, judged: ImageSet) -> Peak:
    """Two recovery steps and one evaluation of the dense model in this process, and the memory that they took."""
    pin_threads(config.search.cpus_per_trial)
    forget_peaks()
    device = best_device()
    model = copy.deepcopy(adapted_model(config)).to(device)
    recovery = config.recovery
    settings = RecoverySettings(2, recovery.lr, recovery.batch_size, recovery.lambdas, autocast=recovery.autocast)
    recover(model, images, teacher, settings, seed=0)
    evaluate(model, judged, autocast=recovery.autocast)
    on_gpu = device.type == "cuda"
    return Peak(
        host=host_peak(),
        gpu=gpu_peak(),
        gpu_total=torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
    )
