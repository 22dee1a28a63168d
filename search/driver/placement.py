"""What one trial needs of a machine, measured by a dry run before the search.

A worker measures it with the dense model (no trial's is larger), the configured batch and one batch of the evaluation.
The study's `placement.json` keeps it, so that a resumed study places its trials as before. A trial may land on any
node, so its share is that of the smallest GPU.
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
from medcore.errors import MedcoreError, brief
from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.masks import keep_all
from medcore.models.sites import PerSite
from medcore.models.spec import DECODER, Architecture, ModelSpec
from medcore.quality.evaluate import evaluate
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.refit.dense_streams import DenseStreams
from medcore.training.refit.refit import refit
from medcore.training.teacher import Teacher
from results.store.files import read_json, write_by_rename
from search.base.device import best_device, forget_peaks, gpu_peak, host_peak, pin_threads
from search.nodes.every_node import ask
from search.nodes.probe import gpu_memory
from search.nodes.session import Resources, fitting, places, request
from search.study.inputs import Shared, TrialSettings, adapted_model, refit_settings

logger = logging.getLogger(__name__)

#: Factor on what was measured, for other images and for what the allocator loses between its blocks.
MARGIN = 1.3
#: Bytes that a process needs of a GPU before its first tensor; the allocator does not count them.
CONTEXT = 512 * 2**20
#: Seconds until the user learns what the search waits for.
_PATIENCE = 60.0
#: Images of an evaluation batch.
_EVALUATED = 8
_MEND = "delete it to measure again"


@dataclass(frozen=True)
class Peak:
    """Most bytes in use during a dry run.

    Both figures of the GPU are 0 if the dry run used none.

    Attributes:
        host: Main memory, without what processes share.
        gpu: GPU memory.
        gpu_total: Size of the GPU.
    """

    host: int
    gpu: int
    gpu_total: int


def gpu_share(peak: Peak, total_bytes: int) -> float:
    """Return the share of a GPU that a trial needs, in eighths, rounded up.

    The share is 1 if a trial fills a GPU of `total_bytes`.
    """
    needed = (MARGIN * peak.gpu + CONTEXT) / total_bytes
    return min(1.0, math.ceil(8 * needed) / 8)


def measured_need(peak: Peak, total_bytes: int) -> int:
    """Return the bytes that a trial should have of a GPU of `total_bytes`.

    At most all of them, because a batch can be split.
    """
    return min(peak.gpu + CONTEXT, total_bytes) if peak.gpu else 0


def gpu_memory_problem(needed_bytes: int, total_bytes: int, fraction: float) -> str | None:
    """Return why a share of a GPU is too small, and which share would do.

    None if the share is enough.

    Args:
        needed_bytes: What one trial allocates at least.
        total_bytes: Memory of the smallest GPU that it may get.
        fraction: Share of it that a trial requests from Ray, at most 1.
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


def rough_need(arch: Architecture, batch_size: int, train_decoder: bool = False) -> int:
    """Return a generous guess of the bytes of a trial on the CPU.

    It decides whether measuring can pay at all.

    It counts eight copies of the weights (models, gradient, AdamW, last good copy) of what trains and, for each image,
    twenty activations of every token in every block.
    """
    dense = cost(ModelSpec.dense(arch))
    weights, image = dense.encoder_params, arch.activations
    if DECODER in arch.parts or train_decoder:
        weights += dense.decoder_params
        image += 20 * (arch.decoder.depth + 1) * arch.grid**2 * arch.out_chans
    activations = max(batch_size, _EVALUATED) * image
    return int(4 * (8 * weights + activations)) + 2**29


def placed(shared: Shared, study: Path) -> Resources:
    """Return what each trial requests from Ray.

    These are the configured values, or measured ones where the configuration says `auto`.

    Nothing is measured if nothing depends on it: with a GPU's share given or without a GPU, and if the nodes have
    memory for twice as many trials as their CPUs and GPUs allow.

    Args:
        shared: Inputs of the trials.
        study: The study's folder, which keeps what was measured.

    Raises:
        MedcoreError: The dry run failed, or shows that the given share of a GPU is too small.
    """
    search = shared.settings.search
    resources = Resources(search.cpus_per_trial, search.gpu_share, search.memory_bytes)
    wanted = request(resources)
    on_gpu = "gpu" in wanted
    gpu_open = search.gpus_per_trial == "auto" and on_gpu
    recovery = shared.settings.recovery
    rough = rough_need(shared.arch, recovery.batch_size, recovery.train_decoder)
    memory_open = search.memory_per_trial == "auto"
    if not gpu_open and not (memory_open and _is_tight(wanted, rough)):
        return resources
    peak = kept_peak(study)
    if peak is None or bool(peak.gpu_total) != on_gpu:  # a trial on a CPU says nothing of one on a GPU
        peak = _measured(shared, study, on_gpu)
    if peak.gpu_total:
        smallest = _smallest_gpu(peak.gpu_total)
        if gpu_open:
            resources = dataclasses.replace(resources, gpu=gpu_share(peak, smallest))
            if peak.gpu + CONTEXT > smallest:
                logger.warning(
                    "a trial has used %.1f GB of GPU memory and the smallest GPU has %.1f GB: there its batches are "
                    "taken in parts, which is slower; a smaller recovery.batch_size avoids this",
                    *((peak.gpu + CONTEXT) / 1e9, smallest / 1e9),
                )
        elif problem := gpu_memory_problem(measured_need(peak, smallest), smallest, resources.gpu):
            raise MedcoreError(problem)
    if memory_open and peak.host and _is_tight(request(resources), rough):
        resources = dataclasses.replace(resources, memory=math.ceil(MARGIN * peak.host))
    return resources


def _is_tight(wanted: Mapping[str, float], rough: int) -> bool:
    """Return whether a node is short of memory.

    A node is short if it has less than twice the rough need of all trials that its CPUs and GPUs allow.
    """
    kinds = {kind: amount for kind, amount in wanted.items() if kind != "memory"}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    rooms = ((node.get("memory", math.inf), places(node, kinds)) for node in nodes)
    return min((memory / count for memory, count in rooms if count), default=math.inf) < 2 * rough


def _smallest_gpu(measured: int) -> int:
    """Return the bytes of the cluster's smallest GPU.

    `measured` are those of the dry run's GPU.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    gpus = {node["NodeID"]: gpu_count(node["Resources"]) for node in nodes if node["Alive"]}
    sizes = [measured]
    for node, reply in ask(gpu_memory, {node: count for node, count in gpus.items() if count}).items():
        if isinstance(reply, str):
            logger.warning("the GPUs of node %s are not counted: %s", node[:8], reply)
        else:
            sizes += reply
    return min(sizes)


def gpu_count(resources: Mapping[str, float]) -> int:
    """Return how many GPUs of a node Ray hands out."""
    return math.ceil(resources.get("GPU", 0))


def kept_peak(study: Path) -> Peak | None:
    """Return what a study has measured before; None if it has measured nothing.

    Raises:
        MedcoreError: The file is corrupt.
    """
    path = _file(study)
    if not path.is_file():
        return None
    try:
        return Peak(**read_json(path, _MEND))
    except TypeError:
        raise MedcoreError(f"{path}: corrupt; {_MEND}") from None


def _file(study: Path) -> Path:
    return study / "placement.json"


def _measured(shared: Shared, study: Path, on_gpu: bool) -> Peak:
    """Return the peak of a dry run on a worker, and keep it."""
    settings = shared.settings
    alone = Resources(settings.search.cpus_per_trial, 1.0 if on_gpu else 0.0)
    fitting(request(alone))  # a task that fits nowhere would wait for ever
    few = list(range(min(settings.recovery.batch_size, len(shared.recovery_images))))
    teacher = Teacher(shared.teacher.embeddings[few], shared.teacher.logits[few])
    judged = shared.search_images.subset(list(range(min(_EVALUATED, len(shared.search_images)))))
    task: Any = ray.remote(measure).options(num_cpus=alone.cpu, num_gpus=alone.gpu, max_retries=0)
    try:
        measured = task.remote(settings, shared.recovery_images.subset(few), teacher, judged, shared.streams)
        if not ray.wait([measured], timeout=_PATIENCE)[0]:
            logger.warning(
                "waiting for a free machine to measure a trial; set search.gpus_per_trial and "
                "search.memory_per_trial to skip this"
            )
        peak: Peak = ray.get(measured)
    except RayError as error:
        raise MedcoreError(
            f"the trial that was tried to see what one needs has failed ({brief(error, last=200)}); lower "
            "recovery.batch_size, or set search.gpus_per_trial and search.memory_per_trial"
        ) from None
    write_by_rename(_file(study), (json.dumps(dataclasses.asdict(peak)) + "\n").encode())
    return peak


def measure(
    settings: TrialSettings, images: ImageSet, teacher: Teacher, judged: ImageSet, streams: DenseStreams | None
) -> Peak:
    """Measure the memory that a trial of hardly any cut takes in this process.

    It refits a model that has lost one group of each site, and does two recovery steps and one evaluation.

    Args:
        settings: What the configuration says about trials.
        images: Images of one recovery batch.
        teacher: The unpruned model's answers on them.
        judged: Images of one evaluation batch.
        streams: The unpruned model's streams; None if trials do not refit.
    """
    pin_threads(settings.search.cpus_per_trial)
    forget_peaks()
    device = best_device()
    model = copy.deepcopy(adapted_model(settings.model)).to(device)
    recovery = settings.recovery
    if streams is not None and (refits := refit_settings(recovery)) is not None:
        model = prune(model, _hardly_cut(model.spec))
        refit(model, streams, refits)
    steps = RecoverySettings(
        2,
        recovery.rate(1.0),
        recovery.batch_size,
        recovery.lambdas,
        autocast=recovery.autocast,
        train_decoder=recovery.train_decoder,
        terms=recovery.terms,
    )
    recover(model, images, teacher, steps, seed=0)
    evaluate(model, judged, autocast=recovery.autocast)
    on_gpu = device.type == "cuda"
    return Peak(
        host=host_peak(),
        gpu=gpu_peak(),
        gpu_total=torch.cuda.get_device_properties(device).total_memory if on_gpu else 0,
    )


def _hardly_cut(spec: ModelSpec) -> PerSite:
    """Return masks that remove one group of each site that has more than one."""
    masks = keep_all(spec)
    for mask in masks:
        mask[:1] = len(mask) == 1
    return masks
