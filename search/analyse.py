"""`medcore analyse`: one question about the method, answered on the user's own checkpoints and images.

    criteria       which criterion keeps the boundary, right after pruning and after recovery?
    ablation       what do zero scores, reset scores and the boundary weight contribute?
    displacement   does |δz|/|∇z| predict how far the boundary moves, and what metrics lose?
    leverage       do head steps move the boundary more than MLP steps (method §8)?

Cases run like trials of a search: on Ray, resumable, one row each. The table and the picture are made from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from medcore.fisher import Progress
from results.analysis import write_criteria, write_displacement, write_leverage
from results.trials import all_rows, compact, read_images, read_study, write_study
from search.analyses import FRACTIONS, cases, compare_criteria, compare_displacements, gather
from search.config import Config
from search.leverage import leverage
from search.objectives import Objective
from search.progress import SearchProgress
from search.provenance import git_revision, machine
from search.run import run_search
from search.session import Resources, connected
from search.study import adapted_model, dense_metrics

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
    config = config.absolute()
    notes: dict[str, Any] = {"command": command, "git": git_revision(), "machine": machine(), "seeds": list(seeds)}
    if kind == "leverage":
        return write_leverage(_leverages(config, seeds, progress), out, notes)
    study = config.output / f"{config.study}-{kind}"
    say(f"study folder: {study}")
    points = cases(kind, config, seeds, fractions or FRACTIONS[kind])
    resources = Resources(config.search.cpus_per_trial, config.search.gpus_per_trial)
    with connected(ray_address, resources):
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
        notes["dense"] = {name: dense[name] for name in ("boundary_f1", "hd95", "dice")}
        with SearchProgress(_SHOWN, len(points), all_rows(study)) as seen:
            outcome = run_search(
                study,
                lambda _: {},
                points,
                _SHOWN,
                len(points),
                compare_displacements if kind == "displacement" else compare_criteria,
                shared={"inputs": inputs},
                resources=resources,
                concurrency=config.search.concurrency,
                sampler="random",
                resume=True,
                resume_command=command,
                on_row=seen.ended,
                on_start=seen.started,
            )
    compact(study)
    say(outcome.message)
    if not outcome.complete or outcome.failed:
        raise MedcoreError(f"{study}: {outcome.message}; a comparison needs every case")
    write = write_displacement if kind == "displacement" else write_criteria
    return write(read_study(study), read_images(study), out, notes)


def _leverages(config: Config, seeds: Sequence[int], progress: Progress | None) -> dict[str, list[dict[str, Any]]]:
    """Summaries by model: the adapted one, and the general one as a control for what is due to the architecture."""
    control = config.model_copy(update={"model": config.model.model_copy(update={"adapted": config.model.base})})
    found: dict[str, list[dict[str, Any]]] = {}
    for name, settings in (("adapted", config), ("general", control)):
        for seed in seeds:
            folder = config.output / f"{config.study}-leverage" / f"{name}-{seed}"
            file = folder / "leverage.json"
            if not file.is_file():
                leverage(settings.model_copy(update={"seed": seed}), folder, progress)
            found.setdefault(name, []).append(json.loads(file.read_text()))
    return found
