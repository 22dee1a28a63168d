"""A training shared out over several worker processes, a GPU each, by Ray Train.

Ray Train starts the processes together, joins them with NCCL (Gloo without GPUs) and starts them anew if one dies; the
training then goes on from its state file, on storage that all nodes share.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError, RayError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.spec import EncoderSpec
from medcore.training.train import EpochRow, TrainLog, TrainSettings, train
from medcore.training.world import FailedElsewhere, World
from search.base.device import pin_threads
from search.nodes.session import Resources, connected, one_line, request, room

logger = logging.getLogger(__name__)

#: Times the processes are started anew after one has died.
_RETRIES = 3
#: Times a start is tried that fails before any training, by Ray Train's time limit (a minute) or the network.
_START_RETRIES = 10


def train_on_workers(
    name: str,
    workers: int,
    model: MedSam,
    training: ImageSet,
    validation: ImageSet,
    settings: TrainSettings,
    seed: int,
    state: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
    ray_address: str | None = None,
) -> TrainLog:
    """`medcore.training.train.train` on `workers` processes; `model`, on the CPU, ends with the same weights.

    They are the same up to rounding.

    Args:
        name: of the configuration's section, for messages.
        state: the training's file, where every node sees it.

    Raises:
        MedcoreError: the cluster has no room for so many processes, one kept dying, or what `train` raises.
    """
    state = state.absolute()
    resources = Resources(cpu=1, gpu=1.0)
    with connected(ray_address, resources):
        wanted = request(resources)
        if (found := room(wanted)) < workers:
            kind = "GPUs (with a CPU core each)" if "gpu" in wanted else "CPU cores"
            raise MedcoreError(f"{name}.workers is {workers}, but Ray has {kind} for {found}; lower it or add nodes")
        # on this node: what this process waits for must not end with another node
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        inputs = {
            "spec": model.spec.to_json(),
            "weights": ray.put(_arrays(model)),
            "training": ray.put(training),
            "validation": ray.put(validation),
            "settings": settings,
            "seed": seed,
            "state": str(state),
            "news": news,
        }
        outcome = _run(name, workers, wanted, inputs, state, on_epoch)
    if "error" in outcome:
        raise MedcoreError(outcome["error"])
    model.load_state_dict(_tensors(outcome["weights"]))
    log: TrainLog = outcome["log"]
    return log


def _run(
    name: str,
    workers: int,
    wanted: Mapping[str, float],
    inputs: dict[str, Any],
    state: Path,
    on_epoch: Callable[[EpochRow], None] | None,
) -> dict[str, Any]:
    """What `_work` returned in the first process, or the reason of another one. Epochs are told while they end."""
    folder = state.with_suffix(".ray")
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config=inputs,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu="gpu" in wanted,
            resources_per_worker={kind.upper(): amount for kind, amount in wanted.items()},
        ),
        run_config=ray.train.RunConfig(
            name="workers",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=_RETRIES, controller_failure_limit=_START_RETRIES),
            callbacks=[_Deaths(name, inputs["news"])],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    ended: Future[Any] = Future()
    complaints: list[_Complaint] = []

    def fit() -> None:
        try:
            ended.set_result(trainer.fit())
        except Exception as error:  # noqa: BLE001 - raised again in the main thread
            ended.set_exception(error)

    # beside the main thread, where Ray Train would take over Ctrl-C and end with exit code 0
    Thread(target=fit, daemon=True).start()
    try:
        for item in _told(inputs["news"], ended):
            if isinstance(item, str):
                logger.warning("%s", item)
            elif isinstance(item, _Complaint):
                complaints.append(item)
            elif on_epoch is not None:
                on_epoch(item)
        outcome: dict[str, Any] = ended.result().return_value
    except (RayError, ray.train.TrainingFailedError) as error:
        failures = getattr(error, "worker_failures", None)
        cause = _cause(failures) if failures else one_line(error)
        raise MedcoreError(
            f"{name}: given up, {cause}; the same command goes on after the last epoch in {state}"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if outcome.get("elsewhere") and complaints:
        outcome["error"] = "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(complaints))
    return outcome


class _Complaint(NamedTuple):
    """Why the training failed in a process other than the first, whose return value alone comes back."""

    rank: int
    reason: str


def _told(news: Queue, ended: Future[Any]) -> Iterator[EpochRow | str | _Complaint]:
    """What comes through the queue, until the training has ended and nothing is left in it."""
    while True:
        last = ended.done()
        try:
            yield news.get(block=not last, timeout=0.5)
        except Empty:
            if last:
                return


def _work(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """One process of the training; the first returns log and weights, or why there are none.

    What `train` raises, it raises in all of them: no reason to start them anew.
    """
    pin_threads(1)
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    world = World(context.get_world_rank(), context.get_world_size(), device)
    weights = _tensors(ray.get(inputs["weights"]))
    model = adopt(build_empty(EncoderSpec.from_json(inputs["spec"])), weights).to(device)
    training, validation = ray.get([inputs["training"], inputs["validation"]])
    try:
        log = train(
            model,
            training,
            validation,
            inputs["settings"],
            inputs["seed"],
            on_epoch=inputs["news"].put,
            state_path=Path(inputs["state"]),
            world=world,
        )
    except MedcoreError as error:
        elsewhere = isinstance(error, FailedElsewhere)
        if world.rank and not elsewhere:
            inputs["news"].put(_Complaint(world.rank, str(error)))
        return {"error": str(error), "elsewhere": elsewhere}
    return {"log": log, "weights": _arrays(model)} if world.rank == 0 else {}


def _arrays(model: MedSam) -> dict[str, np.ndarray]:
    return {key: value.cpu().numpy() for key, value in model.state_dict().items()}


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copies, as Ray hands out arrays that cannot be written."""
    return {key: torch.tensor(value) for key, value in arrays.items()}


class _Deaths(ray.train.UserCallback):
    """Tells of processes that fail; runs beside Ray Train's controller."""

    def __init__(self, name: str, news: Queue) -> None:
        self._name, self._news = name, news

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        self._news.put(
            f"{self._name}: {_cause(worker_exceptions)}; "
            f"the training goes on after its last epoch, at most {_RETRIES} times"
        )


def _cause(failures: Mapping[int, Exception]) -> str:
    """One line about the process that failed; one that died comes before those that lost touch with it."""
    rank, error = min(failures.items(), key=lambda failure: not isinstance(failure[1], RayActorError))
    return f"worker {rank} {'died' if isinstance(error, RayActorError) else f'failed ({one_line(error)})'}"
