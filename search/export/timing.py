"""`medcore latency`: time and memory of a checkpoint, or of a study's models, beside the dense model of the same kind.

The dense model has random weights: they decide nothing about time, and a study may have outlived its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import torch

from medcore.devices import is_out_of_memory
from medcore.errors import MedcoreError
from medcore.files import first_line
from medcore.models.cost import cost
from medcore.models.sam import MedSam, build
from medcore.models.spec import Architecture, EncoderSpec
from medcore.quality.latency import Effort, compare, device_name
from results.store.latency import Record, Setup
from search.base.device import best_device, release_memory

Progress = Callable[[int, int], None]
#: At an export: seconds for one image a call, and the most that a round of larger batches may be expected to take.
_EXPORT_SECONDS = 3.0
_EXPORT_BATCH = 8


def export_latency(model: MedSam) -> tuple[list[Record], str]:
    """A short measurement of what is exported: records, and a sentence on what was left out.

    At least one call of a single image is timed, however long that takes. Larger batches are left out where a machine
    is too slow for them. Memory or disk that does not suffice ends the measurement, with what was measured till then.
    """
    records: list[Record] = []
    try:
        dense, setup = _dense(model.arch), _setup(None, False)
        effort = Effort(rounds=5, block_seconds=0.02, most_seconds=_EXPORT_SECONDS)
        records += _pairs(model, dense, "", [1], setup, effort=effort)
        # each timing begins with a call that does not count
        seconds = sum(
            2 * (each.encoder.median_ms + each.whole.median_ms) / 1e3 for each in (records[0].model, records[0].dense)
        )
        if _EXPORT_BATCH * seconds > 2 * _EXPORT_SECONDS:
            return records, f"Batches of {_EXPORT_BATCH} were left out, as this machine is too slow for them."
        records += _pairs(model, dense, "", [_EXPORT_BATCH], setup, effort=effort)
    except (MedcoreError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        what = f"Time of batches of {_EXPORT_BATCH}" if records else "Time"
        return records, f"{what} was not measured: {first_line(error)}."
    return records, ""


def _pairs(
    model: MedSam,
    dense: MedSam,
    name: str,
    batches: Sequence[int],
    setup: Setup,
    effort: Effort | None = None,
) -> Iterator[Record]:
    """Records of a model and the dense one, which take turns; both are on the CPU again when the last is out."""
    device, pair = best_device(), {"dense": dense, "model": model}
    share = cost(model.spec).flops / cost(dense.spec).flops
    too_much = "out of GPU memory for the model and the dense one; end what else runs there"
    try:
        for each in pair.values():
            each.to(device)
        for batch in batches:
            too_much = f"--batch {batch}: out of GPU memory; give smaller batches"
            found = compare(pair, batch, setup.threads, setup.autocast, effort)
            measured = datetime.now(UTC).isoformat(timespec="milliseconds")
            yield Record(name, share, batch, setup, measured, found["model"], found["dense"])
    except torch.OutOfMemoryError:
        raise MedcoreError(too_much) from None
    finally:
        for each in pair.values():
            each.cpu()
        release_memory()


def _setup(threads: int | None, autocast: bool) -> Setup:
    return Setup(device_name(best_device()), threads or torch.get_num_threads(), autocast, str(torch.__version__))


def _dense(arch: Architecture) -> MedSam:
    return build(EncoderSpec.dense(arch))
