"""A training shared by several worker processes, with a GPU each, through Ray Train.

Ray Train starts the processes together and joins them with NCCL (Gloo without GPUs). If one dies, Ray Train restarts
all of them, and the training continues from its state file, which lies on storage that all nodes share.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError, RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from medcore.errors import ClusterError, MedcoreError, brief
from medcore.models.architectures import spec_from_json
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.training.train import EpochRow, TrainLog, TrainSettings, train
from medcore.training.world import FailedElsewhere, World
from search.base.device import pin_threads
from search.nodes.session import Resources, connected, request, room
from search.study.training_job import TrainingJob

logger = logging.getLogger(__name__)

#: Restarts of the processes after one has died.
_RETRIES = 3
#: Attempts to start the processes. A start may fail by Ray Train's time limit (a minute) or by the network.
_START_RETRIES = 10


@dataclass(frozen=True)
class _Inputs:
    """What every process receives. References point into Ray's object store."""

    spec: str
    weights: Any
    training: Any
    validation: Any
    settings: TrainSettings
    seed: int
    state: Path
    events: Queue


@dataclass(frozen=True)
class _Trained:
    """Result of the first process of a training: log and weights."""

    log: TrainLog
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Failed:
    """Why the training ended without a result.

    Attributes:
        reason: One line.
        elsewhere: Whether the reason is only that another process failed.
    """

    reason: str
    elsewhere: bool


@dataclass(frozen=True)
class _WorkerError:
    """Why a process other than the first failed.

    Ray Train returns the first one's result only.
    """

    rank: int
    reason: str


def train_on_workers(job: TrainingJob, model: MedSam) -> TrainLog:
    """Train on `job.workers` processes.

    `model`, on the CPU, ends with the same weights as in one, up to rounding.

    Raises:
        MedcoreError: The cluster has no room for so many processes, one kept dying, or `train` raised it.
    """
    resources = Resources(cpu=1, gpu=1.0)
    with connected(job.ray_address, resources):
        wanted = request(resources)
        if (places := room(wanted)) < job.workers:
            kind = "GPUs (with a CPU core each)" if "gpu" in wanted else "CPU cores"
            raise ClusterError(
                f"{job.name}.workers is {job.workers}, but Ray has {kind} for {places}; lower it or add nodes"
            )
        outcome = _run(job, wanted, _inputs(job, model))
    if isinstance(outcome, _Failed):
        raise ClusterError(outcome.reason)
    model.load_state_dict(_tensors(outcome.weights))
    return outcome.log


def _inputs(job: TrainingJob, model: MedSam) -> _Inputs:
    # the queue lives on this node, so that it cannot end with another node while this process waits for it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _Inputs(
        spec=model.spec.to_json(),
        weights=ray.put(_arrays(model)),
        training=ray.put(job.training),
        validation=ray.put(job.validation),
        settings=job.settings,
        seed=job.seed,
        state=job.state.absolute(),
        events=Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}),
    )


def _run(job: TrainingJob, wanted: Mapping[str, float], inputs: _Inputs) -> _Trained | _Failed:
    """Train, and call `job.on_epoch` as the epochs end.

    Return the first process's outcome or another one's reason.
    """
    folder = inputs.state.with_suffix(".ray")
    trainer = _trainer(job, wanted, inputs, folder)
    ended: Future[Any] = Future()

    def fit() -> None:
        try:
            ended.set_result(trainer.fit())
        except Exception as error:  # noqa: BLE001 - raised again in the main thread
            ended.set_exception(error)

    # in the main thread Ray Train would handle Ctrl-C itself and end with exit code 0
    Thread(target=fit, daemon=True).start()
    errors: list[_WorkerError] = []
    try:
        for event in _events(inputs.events, ended):
            if isinstance(event, str):
                logger.warning("%s", event)
            elif isinstance(event, _WorkerError):
                errors.append(event)
            elif job.on_epoch is not None:
                job.on_epoch(event)
        outcome: _Trained | _Failed = ended.result().return_value
    except (RayError, ray.train.TrainingFailedError) as error:
        failures = getattr(error, "worker_failures", None)
        cause = _cause(failures) if failures else brief(error, last=200)
        raise ClusterError(
            f"{job.name}: given up, {cause}; the same command continues after the last epoch in {inputs.state}"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if isinstance(outcome, _Failed) and outcome.elsewhere and errors:
        errors.sort(key=lambda failed: failed.rank)
        return _Failed("; ".join(f"worker {failed.rank}: {failed.reason}" for failed in errors), False)
    return outcome


def _trainer(job: TrainingJob, wanted: Mapping[str, float], inputs: _Inputs, folder: Path) -> Any:
    """Return Ray Train's trainer.

    Its stubs describe the first version of these classes, Ray runs the second.
    """
    configs: Any = ray.train
    return configs.torch.TorchTrainer(
        _work,
        train_loop_config={"inputs": inputs},
        scaling_config=configs.ScalingConfig(
            num_workers=job.workers,
            use_gpu="gpu" in wanted,
            resources_per_worker={kind.upper(): amount for kind, amount in wanted.items()},
        ),
        run_config=configs.RunConfig(
            name="workers",
            storage_path=str(folder),
            failure_config=configs.FailureConfig(max_failures=_RETRIES, controller_failure_limit=_START_RETRIES),
            callbacks=[_ReportDeaths(job.name, inputs.events)],
            logging_config=configs.LoggingConfig(log_level="ERROR"),
        ),
    )


def _events(queue: Queue, ended: Future[Any]) -> Iterator[EpochRow | str | _WorkerError]:
    """Yield what the processes put into the queue.

    The end is reached when the training has ended and the queue is empty.
    """
    while True:
        last = ended.done()
        try:
            yield queue.get(block=not last, timeout=0.5)
        except Empty:
            if last:
                return


def _work(config: dict[str, Any]) -> _Trained | _Failed | None:
    """Run one process of the training.

    The first one returns the log and the weights, or why there are none.

    A `MedcoreError` of `train` occurs in all processes. It is returned, because a restart would not help.
    """
    inputs: _Inputs = config["inputs"]
    pin_threads(1)
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    world = World(context.get_world_rank(), context.get_world_size(), device)
    weights = _tensors(ray.get(inputs.weights))
    model = adopt(build_empty(spec_from_json(inputs.spec)), weights).to(device)
    training, validation = ray.get([inputs.training, inputs.validation])
    try:
        log = train(
            model,
            training,
            validation,
            inputs.settings,
            inputs.seed,
            on_epoch=inputs.events.put,
            state_path=inputs.state,
            world=world,
        )
    except MedcoreError as error:
        elsewhere = isinstance(error, FailedElsewhere)
        if world.rank and not elsewhere:
            inputs.events.put(_WorkerError(world.rank, str(error)))
        return _Failed(str(error), elsewhere)
    return _Trained(log, _arrays(model)) if world.rank == 0 else None


def _arrays(model: MedSam) -> dict[str, np.ndarray]:
    return {key: value.cpu().numpy() for key, value in model.state_dict().items()}


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copy the arrays, because those that Ray returns are read-only."""
    return {key: torch.tensor(value) for key, value in arrays.items()}


class _ReportDeaths(ray.train.UserCallback):
    """Puts a line into the queue when processes fail; Ray Train's controller calls it."""

    def __init__(self, name: str, events: Queue) -> None:
        self._name = name
        self._events = events

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        self._events.put(
            f"{self._name}: {_cause(worker_exceptions)}; "
            f"the training continues after its last epoch, at most {_RETRIES} times"
        )


def _cause(failures: Mapping[int, Exception]) -> str:
    """Describe the process that failed in one line.

    Prefer one that died to those that lost contact with it.
    """
    rank, error = min(failures.items(), key=lambda failure: not isinstance(failure[1], RayActorError))
    return f"worker {rank} {'died' if isinstance(error, RayActorError) else f'failed ({brief(error, last=200)})'}"
