"""`medcore latency`: time and memory of a checkpoint, or of a study's models, beside the dense model of the same kind.

The dense model has random weights: they decide nothing about time, and a study may have outlived its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from medcore.checkpoint import load
from medcore.cost import cost
from medcore.errors import MedcoreError
from medcore.files import first_line
from medcore.latency import Effort, compare, device_name
from medcore.memory import is_out_of_memory
from medcore.sam import MedSam, build
from medcore.spec import Architecture, EncoderSpec
from results.front import front_table
from results.latency import Record, Setup, add_latency, read_latency
from results.trials import checkpoint_file, read_study, read_study_info
from search.device import best_device, release_memory

SELECTIONS = ("front", "all")
Progress = Callable[[int, int], None]
#: At an export: seconds for one image a call, and the most that a round of larger batches may be expected to take.
_EXPORT_SECONDS = 3.0
_EXPORT_BATCH = 8


def latency(
    checkpoint: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    architecture: str | None = None,
    autocast: bool = False,
    progress: Progress = lambda *_: None,
) -> list[Record]:
    """Time and memory of one model, a record a batch size.

    Raises `MedcoreError` for a checkpoint that cannot be read, and where the GPU's memory does not suffice.
    """
    model = load(checkpoint, architecture)
    records: list[Record] = []
    progress(0, len(batches))
    for record in _pairs(model, _dense(model.arch), checkpoint.name, batches, _setup(threads, autocast)):
        records.append(record)
        progress(len(records), len(batches))
    return records


def study_latency(
    study: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    select: str = "front",
    autocast: bool = False,
    again: bool = False,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Record]:
    """Time and memory of a study's models, into its `latency.json`; returns the records of those models, old and new.

    Args:
        select: "front" for its members, "all" for every finished trial.
        again: measure also what was measured before with this device, number of threads, precision and torch.
        say: is told what cannot be measured.

    Each model's figures are written when they are there, so that an interrupted call loses at most one model's.
    Raises `MedcoreError` for a folder that is no study or has no model to measure, an unknown `select`, and where the
    GPU's memory does not suffice.
    """
    if select not in SELECTIONS:
        raise MedcoreError(f"--select {select}: unknown; known are {', '.join(SELECTIONS)}")
    setup, trials, objectives = _setup(threads, autocast), read_study(study), read_study_info(study)["objectives"]
    rows = (front_table(trials, objectives) if select == "front" else trials[trials["status"] == "done"]).to_dict(
        "records"
    )
    sources = {str(row["trial_id"]): checkpoint_file(study, row) for row in rows}
    gone = [trial_id for trial_id, path in sources.items() if not path.is_file()]
    if len(gone) == len(sources):
        raise MedcoreError(
            f"{study}: no finished trial has a checkpoint to measure; give the folder that a search wrote"
        )
    if gone:
        say(f"not measured, as their checkpoints are gone: {', '.join(gone)}")
    known = {(each.trial_id, each.batch) for each in read_latency(study) if each.setup == setup and not again}
    missing = {
        trial_id: left
        for trial_id in sources
        if trial_id not in gone and (left := [batch for batch in batches if (trial_id, batch) not in known])
    }
    done, total = 0, sum(map(len, missing.values()))
    progress(done, total)
    dense: MedSam | None = None
    for trial_id, left in missing.items():
        model = load(sources[trial_id])
        dense = dense or _dense(model.arch)
        for record in _pairs(model, dense, trial_id, left, setup):
            add_latency(study, [record])
            done += 1
            progress(done, total)
    return [each for each in read_latency(study) if each.setup == setup and each.trial_id in sources]


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
