"""`medcore analyse`: one question about the method, answered on the user's own checkpoints and images.

    criteria       which criterion keeps the boundary, right after pruning and after recovery?
    ablation       what do zero scores, reset scores and the boundary weight contribute?
    displacement   does |δz|/|∇z| predict how far the boundary moves, and what metrics lose?
    leverage       do head steps move the boundary more than MLP steps (method §8)?

Cases of the first three run like trials of a search: on Ray, resumable, with a row each. Table and picture come from
the rows. A leverage grid is kept for each seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcore.errors import ConfigError, MedcoreError
from medcore.models.checkpoint import file_hash
from medcore.quality.catalogue import headlines
from medcore.scoring.score_table import table_key
from results.pages.analysis import write_criteria, write_displacement, write_leverage
from results.stats.objectives import Direction, Objective, names_of
from results.store.study_info import StudyInfo, structure_of, write_study
from results.store.trials import all_rows, compact, read_images, read_study, trial_folder
from search.base.config import Config
from search.base.device import release_memory
from search.base.provenance import git_revision, machine
from search.base.samplers import SamplerSettings
from search.base.terminal.status import Status
from search.commands.analyse.cases import FRACTIONS, Inputs, cases, compare_criteria, compare_displacements, gather
from search.commands.analyse.leverage import leverage
from search.commands.sections import job_resources
from search.driver.job import Execution, Hooks, SearchJob, Task
from search.driver.outcome import Outcome
from search.driver.preflight import for_late_nodes
from search.driver.progress.search_progress import SearchProgress
from search.driver.run import run_search
from search.nodes.session import connected
from search.study.inputs import adapted_model, dense_metrics
from search.study.prepare import Report

KINDS = ("criteria", "ablation", "displacement", "leverage")
#: What the progress line shows. Nothing is optimised.
_SHOWN = (Objective("boundary_f1", Direction.MAX),)


@dataclass(frozen=True)
class Analysis:
    """The question, and how often it is answered.

    Attributes:
        kind: One of `KINDS`.
        seeds: Each draws its own calibration images and recovery batches.
        fractions: Shares of the FLOPs to keep; empty for the kind's own.
        command: The call that makes these results. It goes into the notes.
    """

    kind: str
    seeds: Sequence[int]
    fractions: Sequence[float] = ()
    command: str = "the same command"

    def __post_init__(self) -> None:
        """Check kind and fractions.

        Raises:
            MedcoreError: The kind is unknown, or a fraction is out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"unknown analysis '{self.kind}'; known are {', '.join(KINDS)}")
        if any(not 0 < fraction <= 1 for fraction in self.fractions):
            raise ConfigError(f"--fractions: shares of the FLOPs lie above 0 and up to 1, got {list(self.fractions)}")


def analyse(
    analysis: Analysis,
    config: Config,
    out: Path,
    *,
    ray_address: str | None = None,
    status: Status | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Run an analysis, or resume it, and write its table, picture and notes.

    Args:
        analysis: The question.
        config: Checkpoints, images and settings.
        out: Folder for the files.
        ray_address: A running cluster; None for `RAY_ADDRESS`, else a Ray of this process's own.
        status: Shows what the analysis does; by default one of its own, on standard error.
        say: Receives one-line messages for people.

    Returns:
        The files.

    Raises:
        MedcoreError: Some cases could not be completed. The next call resumes.
    """
    config, status = config.absolute(), status or Status()
    with status:
        return _analyse(analysis, config, out, ray_address, status, say)


def _analyse(
    analysis: Analysis,
    config: Config,
    out: Path,
    ray_address: str | None,
    status: Status,
    say: Callable[[str], None],
) -> list[Path]:
    """Do what `analyse` says."""
    notes: dict[str, Any] = {
        "command": analysis.command,
        "git": git_revision(),
        "machine": machine(),
        "seeds": list(analysis.seeds),
    }
    if analysis.kind == "leverage":
        if analysis.fractions or ray_address:
            raise ConfigError("leverage walks its own grid in this process; leave --fractions and --ray-address out")
        return write_leverage(_leverages(config, analysis.seeds, status.report), out, notes)
    points = cases(analysis.kind, config, analysis.seeds, analysis.fractions or FRACTIONS[analysis.kind])
    study = _folder(config, analysis.kind, points)
    say(f"study folder: {study}")
    _forget_failures(study)
    status.doing("starting Ray")
    with connected(ray_address, job_resources(config)):
        ready = for_late_nodes(config.model, ray_address)
        status.doing("reading images")
        inputs = gather(config, analysis.seeds, status.report)
        status.doing("evaluating the dense model")
        dense = _describe(config, analysis.kind, study, inputs)
        release_memory()
        notes |= {"cost": config.search.metric, "dense": {name: dense[name] for name in headlines()}}
        execution = Execution(
            job_resources(config), concurrency=config.search.concurrency, ray_address=ray_address, ready=ready
        )
        outcome = _run(analysis, study, points, inputs, execution, status)
        status.doing("writing table and picture")
    say(outcome.message)
    if not outcome.complete or outcome.failed:
        raise MedcoreError(f"{study}: {outcome.message}; a comparison needs every case, start it again to resume")
    compact(study)
    write = write_displacement if analysis.kind == "displacement" else write_criteria
    return write(read_study(study), read_images(study), out, notes)


def _describe(config: Config, kind: str, study: Path, inputs: Inputs) -> dict[str, float]:
    """Write `study.json`, and return the dense model's metrics on the report images."""
    dense = dense_metrics(config.model, inputs.report, autocast=config.recovery.autocast)
    info = StudyInfo(
        name=f"{config.study}-{kind}",
        objectives=_SHOWN,
        reference=dict.fromkeys(names_of(_SHOWN), 0.0),
        dense=dense,
        **structure_of(adapted_model(config.model).spec),
    )
    write_study(study, info)
    return dense


def _run(
    analysis: Analysis,
    study: Path,
    points: Sequence[Mapping[str, Any]],
    inputs: Inputs,
    execution: Execution,
    status: Status,
) -> Outcome:
    """Run the cases that have no row yet, as trials of a search that samples nothing."""
    sampler = SamplerSettings("random")
    job = SearchJob(study, lambda _: {}, _SHOWN, len(points), warm_starts=points, sampler=sampler)
    task = Task(compare_displacements if analysis.kind == "displacement" else compare_criteria, {"inputs": inputs})
    with SearchProgress(_SHOWN, len(points), all_rows(study), status) as seen:
        hooks = Hooks(seen.ended, seen.started, seen.phase)
        return run_search(job, task, execution, hooks, resume=True, resume_command=analysis.command)


def _leverages(config: Config, seeds: Sequence[int], report: Report | None) -> dict[str, list[dict[str, Any]]]:
    """Return the summaries by model.

    The models are the adapted one and, as a control for the effect of the architecture, the general one.
    """
    control = config.model_copy(update={"model": config.model.model_copy(update={"adapted": config.model.base})})
    summaries: dict[str, list[dict[str, Any]]] = {}
    for name, settings in (("adapted", config), ("general", control)):
        for seed in seeds:
            seeded = settings.model_copy(update={"seed": seed})
            folder = _folder(seeded, f"leverage-{name}", seed)
            file = folder / "leverage.json"
            if not file.is_file():
                leverage(seeded, folder, report)
            summaries.setdefault(name, []).append(json.loads(file.read_text()))
    return summaries


def _folder(config: Config, kind: str, points: Any) -> Path:
    """Return the folder for the cases of an analysis.

    A hash of everything that they depend on names it.
    """
    settings = config.model_dump(mode="json", exclude={"output", "tracking", "search"})
    hashes = [file_hash(path) for path in (config.model.base, config.model.adapted)]
    key = table_key(settings=settings, hashes=hashes, points=points)
    return config.output / f"{config.study}-{kind}-{key[:8]}"


def _forget_failures(study: Path) -> None:
    """Remove the rows of failed cases, so that they run again.

    The reason may have been a full disk or a busy GPU.
    """
    for row in all_rows(study):
        if row.status == "failed":
            (trial_folder(study, row.trial_id) / "row.json").unlink(missing_ok=True)
