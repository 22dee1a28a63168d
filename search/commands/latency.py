"""`medcore latency`: measured time and memory of a checkpoint or of a study, and times of an encoder's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import load
from medcore.models.formats.content import is_checkpoint
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture
from medcore.quality.machine import Moment, conditions_since
from medcore.quality.site_times import measure_sites
from medcore.quality.time_table import TimeTable, write_time_table
from results.stats.pareto import front_table
from results.store.latency import Record, accept_latency, add_latency, read_latency
from results.store.study_info import read_study_info
from results.store.trial_row import row_of
from results.store.trials import checkpoint_file, read_study
from search.base.config import load_config
from search.base.device import best_device
from search.export.timing import Progress, dense_of, setup_for, timed
from search.study.gone import removes_weights
from search.study.inputs import adapted_model
from search.tracking.remote import send_again

SELECTIONS = ("front", "all")


def latency(
    checkpoint: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    *,
    architecture: str | None = None,
    autocast: bool = False,
    progress: Progress = lambda *_: None,
) -> list[Record]:
    """Measure time and memory of one model next to the dense one.

    Args:
        checkpoint: File of the model.
        batches: Images per call.
        threads: CPU threads; None for torch's own number.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.
        autocast: Run the models in bfloat16.
        progress: Called with the numbers of finished and of all batch sizes.

    Returns:
        A record per batch size.

    Raises:
        MedcoreError: The checkpoint cannot be read, or the GPU's memory does not suffice.
    """
    model = load(checkpoint, architecture)
    records: list[Record] = []
    progress(0, len(batches))
    for record in timed(model, dense_of(model.arch), checkpoint.name, batches, setup_for(threads, autocast)):
        records.append(record)
        progress(len(records), len(batches))
    return records


def study_latency(
    study: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    *,
    select: str = "front",
    autocast: bool = False,
    again: bool = False,
    accept: bool = False,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Record]:
    """Measure time and memory of a study's models.

    The figures are kept in the study's `latency.json`. Every model's figures are written as soon as they are known, so
    an interrupted call loses at most one model's.

    Args:
        study: The study's folder.
        batches: Images per call.
        threads: CPU threads; None for torch's own number.
        select: `front` for its members, `all` for every finished trial.
        autocast: Run the models in bfloat16.
        again: Measure also what was measured before with this device, number of threads, precision and torch.
        accept: Let rules use the times as they are, also those of before.
        progress: Called with the numbers of finished and of all measurements.
        say: Receives lines about models that cannot be measured, and about the study's tracker, which gets the figures.

    Returns:
        The records of the selected models, old and new.

    Raises:
        MedcoreError: The folder is no study or has no model to measure, `select` is unknown, or the GPU's memory does
            not suffice.
    """
    sources = _checkpoints(study, select)
    present = _present(study, sources, say)
    setup = setup_for(threads, autocast)
    known = {(each.trial_id, each.batch) for each in read_latency(study) if each.setup == setup and not again}
    missing = {trial_id: [batch for batch in batches if (trial_id, batch) not in known] for trial_id in present}
    done, total, info = 0, sum(map(len, missing.values())), read_study_info(study)
    progress(done, total)
    dense: MedSam | None = None
    for trial_id, sizes in missing.items():
        if not sizes:
            continue
        model = load(present[trial_id])
        dense = dense or dense_of(info.unpruned(model.arch))
        for record in timed(model, dense, trial_id, sizes, setup):
            add_latency(study, [record])
            done += 1
            progress(done, total)
    if accept:
        accept_latency(study)
    if done:
        send_again(study, say)
    return [each for each in read_latency(study) if each.setup == setup and each.trial_id in sources]


def _present(study: Path, sources: Mapping[str, Path], say: Callable[[str], None]) -> dict[str, Path]:
    """Return the checkpoints that are there, and name those that are not.

    Raises:
        CheckpointError: There are none.
    """
    present = {trial_id: path for trial_id, path in sources.items() if path.is_file()}
    if not present:
        raise CheckpointError(
            f"{study}: no finished trial has a checkpoint to measure; give the folder that a search wrote"
        )
    if gone := [trial_id for trial_id in sources if trial_id not in present]:
        reason = "search.keep: front removed their weights" if removes_weights(study) else "their checkpoints are gone"
        say(f"not measured, as {reason}: {', '.join(gone)}")
    return present


def time_table(
    target: Path,
    out: Path,
    *,
    batch: int = 1,
    threads: int = 1,
    architecture: str | None = None,
    autocast: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> TimeTable:
    """Measure the time of every site of an encoder by width, and write the table.

    Args:
        target: Folder of a study, configuration, checkpoint, JSON file of an architecture, or its name.
        out: File to write.
        batch: Images in a call.
        threads: CPU threads.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.
        autocast: Run the encoders in bfloat16.
        say: Receives a line if the machine was busy.

    Raises:
        MedcoreError: The target names no architecture, the file cannot be written, or the GPU's memory does not
            suffice.
    """
    arch = _architecture(target, architecture)
    if not out.parent.is_dir():
        raise ConfigError(f"--table {out}: its folder does not exist; choose another file")
    start = Moment()
    try:
        table = measure_sites(arch, best_device(), threads=threads, batch=batch, autocast=autocast)
    except torch.OutOfMemoryError:
        raise MedcoreError(
            f"--table: out of GPU memory for {arch.name} with {batch} images a call; give a smaller --batch"
        ) from None
    if trouble := conditions_since(start).trouble:
        say(f"{out}: do not trust these times: {trouble}")
    write_time_table(out, table)
    return table


def _architecture(target: Path, architecture: str | None) -> Architecture:
    """Return the dense architecture that a study, configuration, checkpoint, file or name stands for.

    Raises:
        MedcoreError: It stands for none.
    """
    config = target / "config.yaml" if target.is_dir() and not is_checkpoint(target) else target
    if config.suffix in (".yaml", ".yml"):
        return adapted_model(load_config(config).model).arch
    if is_checkpoint(target):
        return load(target, architecture).arch
    return resolve_architecture(target)


def _checkpoints(study: Path, select: str) -> dict[str, Path]:
    """Return the checkpoints of the selected trials by trial.

    Raises:
        MedcoreError: The folder is no study, or `select` is unknown.
    """
    if select not in SELECTIONS:
        raise ConfigError(f"--select {select}: unknown; known are {', '.join(SELECTIONS)}")
    trials, objectives = read_study(study), read_study_info(study).objectives
    table = front_table(trials, objectives) if select == "front" else trials[trials["status"] == "done"]
    rows = [row_of(record) for record in table.to_dict("records")]
    return {row.trial_id: checkpoint_file(study, row) for row in rows}
