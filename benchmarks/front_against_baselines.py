"""Claim: at equal FLOPs and equal recovery the searched front keeps more of the boundary than hand-made budgets.

For each FLOPs fraction that the study's warm starts have, the front member is chosen on the search images alone (best
Boundary F1 within the fraction) and measured on the report images with the unpruned model, uniform budgets and the
paper's rule. Only sampled trials count as searched, as the baselines have one run too.
The baselines are run twice: with the study's own recovery settings, and with those of the front member
they are compared with; both have the same number of steps.

    python -m benchmarks.front_against_baselines search/configs/polyps.yaml --out results/published/polyps
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from benchmarks.comparison_picture import comparison_png
from medcore.errors import ConfigError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from medcore.quality.evaluate import evaluate, summarise
from results.plots.panels import origin_kind
from results.stats.intervals import macro_interval
from results.stats.labels import NOT_RECOVERED, short_title, title
from results.store.study_info import read_study_info
from results.store.trial_row import row_of
from results.store.trials import read_study
from search.base.config import load_config
from search.base.device import best_device
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, cost_metrics, load_split
from search.study.prepare import prepare
from search.trials.phases import phases
from search.trials.sampling.space import Plan, decode, domain_of, schedule_fields
from search.trials.sampling.warm import warm_starts

METRICS = ("dice", "boundary_f1", "hd95", "nsd")


class Report:
    """Collects one row per model, measured on the report images, and one per comparison of two."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.images = shared.search_images
        self.rows: list[dict[str, Any]] = []
        self.differences: list[dict[str, Any]] = []
        self.per_image: dict[str, pd.DataFrame] = {}

    def add(self, name: str, method: str, model: MedSam) -> None:
        measured = evaluate(model.to(best_device()), self.images, autocast=self.shared.settings.recovery.autocast)
        frame = pd.DataFrame(measured)
        row: dict[str, Any] = {"model": name, "method": method, **cost_metrics(model.cpu().spec)}
        summary = summarise(measured)
        for metric in METRICS:
            row[metric] = summary[metric]
            row[f"{metric}_lo"], row[f"{metric}_hi"] = macro_interval(frame[metric], frame["dataset"])
        self.rows.append(row)
        self.per_image[name] = frame

    def compare(self, searched: str, baseline: str) -> None:
        self.differences.append(
            {"searched": searched, "baseline": baseline}
            | differences(self.per_image[searched], self.per_image[baseline])
        )


def differences(searched: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, float]:
    """Searched − baseline, image by image: macro mean and 95 % interval of each metric."""
    found: dict[str, float] = {}
    for metric in METRICS:
        gain = searched[metric] - baseline[metric]
        found[metric] = float(gain.groupby(searched["dataset"].to_numpy()).mean().mean())
        found[f"{metric}_lo"], found[f"{metric}_hi"] = macro_interval(gain, searched["dataset"])
    return found


def chosen_member(trials: pd.DataFrame, fraction: float, cost: str) -> pd.Series[Any] | None:
    """The sampler's own trial with the best Boundary F1 on the search images within the fraction (to half a group).

    Starts made by hand, knapsack budgets among them, are not searched. None if the sampler has none that is so cheap.
    """
    own = trials[(trials["status"] == "done") & (trials["origin"].map(origin_kind) == "sampled")]
    within = own[own[f"{cost}_fraction"] <= fraction + 0.001]
    return None if within.empty else within.loc[within["boundary_f1"].idxmax()]


def member_name(member: pd.Series[Any], fraction: float, cost: str) -> str:
    """`searched ≤ 0.3 (t0029, 14.1 %)`: two fractions may have chosen one trial, which the reader should see."""
    return f"searched ≤ {fraction:g} ({member['trial_id']}, {100 * member[f'{cost}_fraction']:.1f} %)"


def compare(config_path: Path, out: Path, console: Console) -> None:
    config = load_config(config_path)
    if config.search.space.sides:
        raise ConfigError(f"{config_path}: search.space.side: baselines have one side; compare searches of one side")
    # nothing is searched here, so the report images take the place of the search images
    adapted = adapted_model(config.model)
    images = load_split(config.datasets, config.data.report_split, adapted.arch.frame)
    shared = prepare(trial_settings(config), study_jobs(config), images)
    # uniform and the rule's budgets meet shares of a counted figure also where the study's cost is measured time
    study, cost = config.folder, config.search.metric
    trials = read_study(study)
    report = Report(shared)
    report.add(NOT_RECOVERED, "unpruned", adapted)
    budgets = config.search.warm_starts
    for fraction in sorted({*budgets.uniform, *budgets.rule}, reverse=True):
        member = chosen_member(trials, fraction, cost)
        if member is None:
            console.print(f"no searched trial has {fraction:g} of the {cost} or less", markup=False)
            continue
        searched = member_name(member, fraction, cost)
        report.add(searched, "searched", load(study / member["checkpoint"]))
        for start in warm_starts(shared):
            if start["origin"] in (f"uniform {fraction:g}", f"rule {fraction:g}"):
                method = start["origin"].split()[0]
                report.add(start["origin"], method, own_model(trials, start, shared, study))
                report.compare(searched, start["origin"])
                plan = with_schedule_of(member, decode(start["params"], domain_of(shared)))
                rerun = f"{start['origin']}, schedule of the searched"
                report.add(rerun, f"{method}, schedule of the searched", run(plan, shared, int(member["seed"])))
                report.compare(searched, rerun)
    write(report.rows, report.differences, out, read_study_info(study).name, cost)
    console.print(f"wrote comparison.csv, differences.csv, comparison.md, comparison.png in {out}", markup=False)


def with_schedule_of(member: pd.Series[Any], plan: Plan) -> Plan:
    """The plan's budget and scores, cut and recovered like a member of the front."""
    return replace(plan, **schedule_fields(row_of(member).params))


def own_model(trials: pd.DataFrame, start: dict[str, Any], shared: Shared, study: Path) -> MedSam:
    """The model of a baseline that the study ran; it is run here if the study's scheduler stopped it."""
    own = trials[trials["origin"] == start["origin"]].iloc[0]
    if own["status"] == "done":
        return load(study / own["checkpoint"])
    return run(decode(start["params"], domain_of(shared)), shared, int(own["seed"]))


def run(plan: Plan, shared: Shared, seed: int) -> MedSam:
    """Prune and recover outside of the study."""
    work = phases(plan, shared, seed)
    while True:
        try:
            next(work)
        except StopIteration as end:
            model, _ = end.value
            return model.cpu()


def write(rows: list[dict[str, Any]], differences: list[dict[str, Any]], out: Path, study: str, cost: str) -> None:
    """Both tables as CSV and, for readers, in one Markdown file; the first one as a picture too."""
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(out / "comparison.csv", index=False, float_format="%.5g")
    pd.DataFrame(differences).to_csv(out / "differences.csv", index=False, float_format="%.5g")
    lines = [
        f"| model ({study}, report images) | {title('flops_fraction')} | {short_title('flops_paper_fraction')} | Dice "
        "| Boundary F1 (95 %) | HD95 (95 %) | NSD |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['flops_fraction']:.1%} | {row['flops_paper_fraction']:.1%} | {row['dice']:.4f} "
        f"| {row['boundary_f1']:.4f} ({row['boundary_f1_lo']:.3f}–{row['boundary_f1_hi']:.3f}) "
        f"| {row['hd95']:.2f} ({row['hd95_lo']:.1f}–{row['hd95_hi']:.1f}) | {row['nsd']:.4f} |"
        for row in rows
    ]
    lines += [
        "",
        f"A searched model is the one with the best Boundary F1 on the search images within that share of `{cost}` "
        f"({title(f'{cost}_fraction')}); its trial and its own share are in brackets.",
        "",
        "Searched − baseline on the same images:",
        "",
        "| searched | baseline | Boundary F1 (95 %) | HD95 (95 %) |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {pair['searched']} | {pair['baseline']} "
        f"| {pair['boundary_f1']:+.4f} ({pair['boundary_f1_lo']:+.4f} … {pair['boundary_f1_hi']:+.4f}) "
        f"| {pair['hd95']:+.2f} ({pair['hd95_lo']:+.2f} … {pair['hd95_hi']:+.2f}) |"
        for pair in differences
    ]
    lines += [
        "",
        "Intervals resample images within each data set and nothing else: every model was recovered with one seed, so "
        "what another seed would change is not in them.",
    ]
    (out / "comparison.md").write_text("\n".join(lines) + "\n")
    curves = {str(name): part for name, part in table.groupby("method", sort=False)}
    comparison_png(curves, ["boundary_f1", "hd95"], out / "comparison.png", share=f"{cost}_fraction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    compare(arguments.config, arguments.out, Console(width=200))


if __name__ == "__main__":
    main()
