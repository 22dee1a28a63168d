"""What one trial needs of a machine, from one that is tried for a moment before the search.

Measured on a worker, with the dense model (no trial's is larger), the configured batch and a batch of the evaluation.
Kept in the study's `placement.json`, so that a resumed study places its trials as before.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from medcore.data import ImageSet
from medcore.errors import MedcoreError
from medcore.evaluate import evaluate
from medcore.recovery import RecoverySettings, recover
from medcore.spec import Architecture
from medcore.teacher import Teacher
from results.files import read_json, write_by_rename
from search.config import Config
from search.device import best_device, pin_threads
from search.memory import forget_peaks, gpu_peak, host_peak
from search.session import Resources, fitting, one_line, request
from search.study import Shared, adapted_model

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
    """Bytes at most in use during a dry run. `host` leaves out what processes share; `gpu_total` is the GPU's size."""

    host: int
    gpu: int
    gpu_total: int


def gpu_share(peak: Peak) -> float:
    """Share of a GPU in eighths, rounded up; 1 where a trial fills it."""
    needed = (MARGIN * peak.gpu + CONTEXT) / peak.gpu_total
    return min(1.0, math.ceil(8 * needed) / 8)


def rough_need(arch: Architecture, batch_size: int) -> int:
    """A generous guess of a CPU trial's memory in bytes, to tell whether measuring can pay at all.

    Eight copies of the encoder's weights (models, gradient, AdamW, last good copy) and, for each image, twenty
    activations of every token in every block.
    """
    tokens = (arch.img_size // arch.patch_size) ** 2
    weights = arch.depth * (4 + 2 * arch.mlp_ratio) * arch.embed_dim**2
    activations = max(batch_size, _EVALUATED) * arch.depth * tokens * 20 * arch.embed_dim
    return int(4 * (8 * weights + activations)) + 2**29


def placed(config: Config, shared: Shared) -> Resources:
    """What each trial asks Ray for: the configured values and, where these say `auto`, measured ones.

    Nothing is measured where nothing depends on it: without a GPU, and if the nodes have room for twice as many trials
    as their CPUs allow.
    """
    search = config.search
    resources = Resources(search.cpus_per_trial, search.gpu_share, search.memory_bytes)
    on_gpu = "gpu" in request(resources)
    tight = _least_memory(resources) < 2 * rough_need(shared.arch, config.recovery.batch_size)
    gpu_open = search.gpus_per_trial == "auto" and on_gpu
    memory_open = search.memory_per_trial == "auto" and tight and not on_gpu
    if not (gpu_open or memory_open):
        return resources
    peak = _kept(config.folder / "placement.json", config, shared, gpu_open)
    if gpu_open and peak.gpu_total:
        resources = dataclasses.replace(resources, gpu=gpu_share(peak))
    if memory_open and peak.host:
        resources = dataclasses.replace(resources, memory=math.ceil(MARGIN * peak.host))
    return resources


def _least_memory(resources: Resources) -> float:
    """Bytes that a node has for each trial that its CPUs allow; the least of all nodes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min(
        (
            node.get("memory", math.inf) / (node["CPU"] // resources.cpu)
            for node in nodes
            if node.get("CPU", 0) >= resources.cpu
        ),
        default=math.inf,
    )


def _kept(path: Path, config: Config, shared: Shared, on_gpu: bool) -> Peak:
    """The peak in `path`, or a measured one, which is written there."""
    if path.is_file():
        try:
            return Peak(**read_json(path, "delete it to measure anew"))
        except TypeError:
            raise MedcoreError(f"{path}: corrupt; delete it to measure anew") from None
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
    write_by_rename(path, (json.dumps(dataclasses.asdict(peak)) + "\n").encode())
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
