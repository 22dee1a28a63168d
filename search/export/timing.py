"""Time and memory of models, compared with the dense model of the same architecture.

The dense model has random weights, because weights do not matter for time and a study's checkpoints may be gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import torch

from medcore.devices import is_out_of_memory
from medcore.errors import CheckpointError, MedcoreError, brief
from medcore.models.cost import cost
from medcore.models.sam import MedSam, build, build_empty
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.latency import Effort, compare, device_name
from medcore.quality.machine import Moment, conditions_since
from results.store.latency import Record, Setup
from search.base.device import best_device, release_memory

Progress = Callable[[int, int], None]
#: At an export: seconds for calls of one image, and the size of larger batches.
_EXPORT_SECONDS = 3.0
_EXPORT_BATCH = 8


def export_latency(model: MedSam, unpruned: Architecture) -> tuple[list[Record], str]:
    """Measure shortly what is exported.

    At least one call of a single image is timed, however long it takes. Larger batches are left out if the machine is
    too slow for them. If memory or disk runs out, the measurement ends with what was measured so far.

    Args:
        model: The model, on the CPU.
        unpruned: Architecture of the dense model to compare with.

    Returns:
        Records, one a batch size; and a sentence on what was left out, empty if nothing was.
    """
    records: list[Record] = []
    try:
        dense, setup = dense_of(unpruned), setup_for(None, False)
        effort = Effort(block_seconds=0.02, most_seconds=_EXPORT_SECONDS)
        records += timed(model, dense, "", [1], setup, effort=effort)
        # each timing begins with a call that does not count
        seconds = sum(
            2 * (each.encoder.median_ms + each.whole.median_ms) / 1e3 for each in (records[0].model, records[0].dense)
        )
        if _EXPORT_BATCH * seconds > 2 * _EXPORT_SECONDS:
            return records, f"Batches of {_EXPORT_BATCH} were left out, as this machine is too slow for them."
        records += timed(model, dense, "", [_EXPORT_BATCH], setup, effort=effort)
    except (MedcoreError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        what = f"Time of batches of {_EXPORT_BATCH}" if records else "Time"
        return records, f"{what} was not measured: {brief(error, first=120)}."
    return records, ""


def timed(
    model: MedSam,
    dense: MedSam,
    name: str,
    batches: Sequence[int],
    setup: Setup,
    effort: Effort | None = None,
) -> Iterator[Record]:
    """Yield records of a model and the dense one, which take turns.

    Both are on the CPU again after the last.

    Args:
        model: The model.
        dense: The dense model to compare with.
        name: Name in the records.
        batches: Images per call.
        setup: Device, threads and precision.
        effort: How long to measure; None for the default.

    Raises:
        MedcoreError: The GPU's memory does not suffice.
    """
    device, pair = best_device(), {"dense": dense, "model": model}
    share = cost(model.spec).flops / cost(dense.spec).flops
    too_much = "out of GPU memory for the model and the dense one; end what else runs there"
    try:
        for each in pair.values():
            each.to(device)
        for batch in batches:
            too_much = f"--batch {batch}: out of GPU memory; give smaller batches"
            start = Moment()
            times = compare(pair, batch, setup.threads, setup.autocast, effort)
            yield Record(
                trial_id=name,
                flops_fraction=share,
                batch=batch,
                setup=setup,
                measured=datetime.now(UTC).isoformat(timespec="milliseconds"),
                model=times["model"],
                dense=times["dense"],
                conditions=conditions_since(start),
            )
    except torch.OutOfMemoryError:
        raise MedcoreError(too_much) from None
    finally:
        for each in pair.values():
            each.cpu()
        release_memory()


def setup_for(threads: int | None, autocast: bool) -> Setup:
    """Return the set-up of this machine.

    `threads` is a number of CPU threads, None for torch's own.
    """
    return Setup(device_name(best_device()), threads or torch.get_num_threads(), autocast, str(torch.__version__))


def dense_of(arch: Architecture) -> MedSam:
    """Return a dense model with random weights, which do not change its speed.

    Raises:
        CheckpointError: This machine's memory cannot hold it. A small file may describe a pruned model of a large one.
    """
    spec = ModelSpec.dense(arch)
    needed = sum(tensor.nbytes for tensor in build_empty(spec).state_dict().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise CheckpointError(
            f"architecture {arch.name}: the dense model to compare with needs {needed / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB"
        )
    return build(spec)
