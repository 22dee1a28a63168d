"""`medcore analyse`: one question about the method, answered on the user's own checkpoints and images.

    criteria       which criterion keeps the boundary, right after pruning and after recovery?
    ablation       what do zero scores, reset scores and the boundary weight contribute?
    displacement   does |δz|/|∇z| predict how far the boundary moves, and what metrics lose?
    leverage       do head steps move the boundary more than MLP steps (method §8)?

Cases of the first three run like trials of a search: on Ray, resumable, one row each; table and picture are made from
the rows. A leverage grid is kept for each seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from medcore.models.checkpoint import file_hash
from medcore.scoring.fisher import Progress
from medcore.scoring.score_table import table_key
from results.pages.analysis import write_criteria, write_displacement, write_leverage
from results.store.trials import all_rows, compact, read_images, read_study, trial_folder, write_study
from search.base.config import Config
from search.base.device import release_memory
from search.base.objectives import Objective
from search.base.provenance import git_revision, machine
from search.commands.analyse.cases import FRACTIONS, Inputs, cases, compare_criteria, compare_displacements, gather
from search.commands.analyse.leverage import leverage
from search.driver.preflight import for_late_nodes
from search.driver.progress import SearchProgress
from search.driver.run import Outcome, run_search
from search.nodes.probe import Ready
from search.nodes.session import Resources, connected
from search.study.inputs import adapted_model, dense_metrics

KINDS = ("criteria", "ablation", "displacement", "leverage")
#: What the progress line shows; nothing is optimised.
_SHOWN = (Objective("boundary_f1", "max"),)


def analyse(
    kind: str,
    config: Config,
    out: Path,
    seeds: Sequence[int],
    fractions: Sequence[float] = (),
    ray_address: str | None = None,
    command: str = "the same command",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Run an analysis (or go on with one) and write its table, picture and notes into `out`. Returns the files.

    Args:
        seeds: each draws its own calibration images and recovery batches.
        fractions: FLOPs left; default: `FRACTIONS`.
        command: what makes these results; goes into the notes.

    Raises:
        MedcoreError: not all cases could be completed; starting it again goes on.
    """
    if any(not 0 < fraction <= 1 for fraction in fractions):
        raise MedcoreError(f"--fractions: shares of the FLOPs lie above 0 and up to 1, got {list(fractions)}")
    config = config.absolute()
    notes: dict[str, Any] = {"command": command, "git": git_revision(), "machine": machine(), "seeds": list(seeds)}
    if kind == "leverage":
        if fractions or ray_address:
            raise MedcoreError("leverage walks its own grid in this process; leave --fractions and --ray-address out")
        return write_leverage(_leverages(config, seeds, progress), out, notes)
    points = cases(kind, config, seeds, fractions or FRACTIONS[kind])
    study = _folder(config, kind, points)
    say(f"study folder: {study}")
    _forget_failures(study)
    with connected(ray_address, _resources(config)):
        ready = for_late_nodes(config, ray_address)
        inputs = gather(config, seeds, progress)
        arch = adapted_model(config).arch
        dense = dense_metrics(config, inputs.report)
        info = {
            "name": f"{config.study}-{kind}",
            "objectives": [objective.record() for objective in _SHOWN],
            "reference": {"boundary_f1": 0.0},
            "dense": dense,
            "widths": {"heads": arch.num_heads, "channels": arch.mlp_dim},
        }
        write_study(study, info)
        release_memory()
        notes["dense"] = {name: dense[name] for name in ("boundary_f1", "hd95", "dice")}
        outcome = _run(kind, config, study, points, inputs, ready, ray_address, command)
    say(outcome.message)
    if not outcome.complete or outcome.failed:
        raise MedcoreError(f"{study}: {outcome.message}; a comparison needs every case, start it again to go on")
    compact(study)
    write = write_displacement if kind == "displacement" else write_criteria
    return write(read_study(study), read_images(study), out, notes)


def _run(
    kind: str,
    config: Config,
    study: Path,
    points: Sequence[Mapping[str, Any]],
    inputs: Inputs,
    ready: Ready | None,
    ray_address: str | None,
    command: str,
) -> Outcome:
    """Run the cases that have no row yet, as trials of a search that samples nothing."""
    with SearchProgress(_SHOWN, len(points), all_rows(study)) as seen:
        return run_search(
            study,
            lambda _: {},
            points,
            _SHOWN,
            len(points),
            compare_displacements if kind == "displacement" else compare_criteria,
            shared={"inputs": inputs},
            ready=ready,
            resources=_resources(config),
            concurrency=config.search.concurrency,
            sampler="random",
            ray_address=ray_address,
            resume=True,
            resume_command=command,
            on_row=seen.ended,
            on_start=seen.started,
        )


def _resources(config: Config) -> Resources:
    return Resources(config.search.cpus_per_trial, config.search.gpu_share)


def _leverages(config: Config, seeds: Sequence[int], progress: Progress | None) -> dict[str, list[dict[str, Any]]]:
    """Summaries by model: the adapted one, and the general one as a control for what is due to the architecture."""
    control = config.model_copy(update={"model": config.model.model_copy(update={"adapted": config.model.base})})
    found: dict[str, list[dict[str, Any]]] = {}
    for name, settings in (("adapted", config), ("general", control)):
        for seed in seeds:
            seeded = settings.model_copy(update={"seed": seed})
            folder = _folder(seeded, f"leverage-{name}", seed)
            file = folder / "leverage.json"
            if not file.is_file():
                leverage(seeded, folder, progress)
            found.setdefault(name, []).append(json.loads(file.read_text()))
    return found


def _folder(config: Config, kind: str, points: Any) -> Path:
    """Where an analysis keeps its cases: named by all that they depend on, so that none is taken for another's."""
    settings = config.model_dump(mode="json", exclude={"output", "tracking", "search"})
    hashes = [file_hash(path) for path in (config.model.base, config.model.adapted)]
    key = table_key(settings=settings, hashes=hashes, points=points)
    return config.output / f"{config.study}-{kind}-{key[:8]}"


def _forget_failures(study: Path) -> None:
    """Cases that failed are run again: their reason may have been a full disk or a busy GPU."""
    for row in all_rows(study):
        if row["status"] == "failed":
            (trial_folder(study, str(row["trial_id"])) / "row.json").unlink(missing_ok=True)
