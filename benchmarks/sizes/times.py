"""Claim: FLOPs left become time left, though not one to one.

The pure knapsack budgets of a configuration at some shares of the cost, timed in turns with the dense model by the
rules of `medcore latency`: a busy machine or an interval too wide is in the table. Times follow from the structure
alone, so the weights are random; only the statistics that shape the budgets come from the checkpoints.

    python -m benchmarks.sizes.times search/configs/polyps.yaml --out results/published/polyps
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from medcore.budgets.knapsack import knapsack_budget
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from results.pages.markdown import table
from results.store.files import write_by_rename
from results.store.latency import Record
from search.base.config import load_config
from search.commands.sections import study_jobs
from search.export.timing import dense_of, setup_for, timed
from search.study.inputs import adapted_model
from search.study.needs import Needs
from search.study.prepare import statistics


def budgets(config: Path, shares: Sequence[float]) -> dict[float, ModelSpec]:
    """The pure knapsack at each share of the cost that the search of the configuration has."""
    settings = load_config(config).absolute()
    profile = statistics(study_jobs(settings), Needs(fisher=False, profile=True)).profile
    assert profile is not None
    arch = adapted_model(settings.model).arch
    curves = profile.dense_curves(arch)
    return {share: knapsack_budget(arch, curves, share, settings.search.metric) for share in shares}


def measured(specs: dict[float, ModelSpec], batches: Sequence[int]) -> list[Record]:
    """One record for each budget and batch."""
    arch = next(iter(specs.values())).arch
    dense, setup = dense_of(arch), setup_for(1, autocast=False)
    return [
        record for share, spec in specs.items() for record in timed(build(spec), dense, f"{share:g}", batches, setup)
    ]


def report(records: Sequence[Record]) -> str:
    """The page for readers."""
    rows = []
    for record in records:
        left = record.model.encoder.median_ms / record.dense.encoder.median_ms
        whole = record.model.whole.median_ms / record.dense.whole.median_ms
        rows.append(
            (
                record.trial_id,
                str(record.batch),
                f"{record.flops_fraction:.1%}",
                f"{record.model.encoder.median_ms:.1f}",
                f"{left:.1%}",
                f"{record.model.whole.median_ms:.1f}",
                f"{whole:.1%}",
                record.doubt or "none",
            )
        )
    head = ("knapsack", "batch", "FLOPs left", "encoder, ms", "of dense", "call, ms", "of dense", "doubt")
    parts = [
        "# Time of the knapsack's budgets",
        f"{records[0].setup}. Medians of one process; each model and the dense one took turns.",
        table(head, rows),
    ]
    return "\n\n".join(parts) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--out", type=Path, required=True, help="folder for times.md")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    text = report(measured(budgets(options.config, options.shares), options.batches))
    write_by_rename(options.out / "times.md", text.encode())
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
