"""Question: how close is each criterion's ranking of attention heads to that by Shapley values?

The Shapley value of a head is what it adds on average when heads join the model in a random order, without a refit or
a recovery. Every image has orders of its own, in antithetic pairs; the scoring loss and Boundary F1 are measured in
the same passes. Each pair of each image is a file, so the benchmark resumes where it stopped. Criteria see the same
images. With `--halve`, every ranking also removes half of the heads of each block, as a check of the oracle itself.

    OMP_NUM_THREADS=1 python -m benchmarks.shapley.criteria search/configs/polyps.yaml \\
        --out results/published/shapley
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.shapley.grades import (
    difference_text,
    differences,
    graded,
    noise_of,
    random_rankings,
    random_row,
    text_of,
)
from benchmarks.shapley.oracle import (
    FAMILY,
    MEASURES,
    Ranking,
    config_of,
    contributions,
    folds_of,
    heads_of,
    is_head,
    ranking_of,
)
from medcore import api
from medcore.data.load import ImageSet
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import CRITERIA, OWN, ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.scoring.profile import Profile
from medcore.scoring.shapley import estimate
from search.base.config import Config, load_config
from search.base.terminal.status import Status
from search.study.inputs import adapted_model, base_model, calibration_images, load_split

#: Draws that the row of random rankings is the mean of.
DRAWS = 50
#: Of these, how many remove heads.
CUT_DRAWS = 3


def rankings_by_criteria(config: Config, images: ImageSet) -> dict[str, Ranking]:
    """Return the ranking of every registered criterion from some images, with each setting at its default."""
    adapted = adapted_model(config.model)
    profile = api.score(adapted, images, seed=config.seed)
    scores = build_table(base_model(config.model), adapted, images, config.scoring.nodes)
    whole = replace(scores, profile=profile)
    found = {}
    for name in CRITERIA.names():
        if name != "random":
            within = heads_of(adapted.spec, mix(whole, ScoringWeights(criterion=name), adapted.arch))
            found[name] = Ranking(within, np.concatenate(within))
    # places in an order do not compare across blocks, predicted losses do
    losses = np.concatenate(heads_of(adapted.spec, predicted_losses(profile)))
    return {**found, "second_order": Ranking(found["second_order"].within, losses)}


def predicted_losses(profile: Profile) -> PerSite:
    """The predicted loss at the width at which each group goes."""
    return tuple(
        curve[:-1][::-1][np.argsort(order, kind="stable")]
        for order, curve in zip(profile.orders, profile.curves, strict=True)
    )


def kept_rankings(config: Config, images: ImageSet, file: Path) -> dict[str, Ranking]:
    """`rankings_by_criteria`, from a file if there is one."""
    if not file.is_file():
        found = rankings_by_criteria(config, images)
        rows = {name: [[list(site) for site in each.within], list(each.overall)] for name, each in found.items()}
        file.write_text(json.dumps(rows))
    stored = json.loads(file.read_text())
    return {
        name: Ranking(tuple(np.array(site) for site in within), np.array(overall))
        for name, (within, overall) in stored.items()
    }


def halved(spec: ModelSpec) -> ModelSpec:
    """A model with half of the heads of each block and all channels."""
    widths = (width // 2 if is_head(site) else width for site, width in zip(spec.arch.sites, spec.widths, strict=True))
    return ModelSpec(spec.arch, tuple(widths))


def measure_halved(
    config: Config, rankings: dict[str, Ranking], work: Path, status: Status
) -> dict[str, dict[str, float]]:
    """Boundary F1 on the report images with the half of each block's heads that a ranking keeps.

    Right after the cut, and after a refit. A model that was measured before is not made again.
    """
    model = adapted_model(config.model)
    spec = halved(model.spec)
    fits = calibration_images(config.datasets, model.arch.frame)
    report = load_split(config.datasets, config.data.report_split, model.arch.frame)
    rows = {}
    for done, (name, ranking) in enumerate(rankings.items()):
        status.report("halved models", done, len(rankings))
        file = work / f"half-{name}.json"
        if not file.is_file():
            heads = iter(ranking.within)
            scores = tuple(next(heads) if is_head(site) else np.zeros(site.width) for site in model.arch.sites)
            cut = prune(model, select(scores, spec))
            row = {"cut": api.evaluate(cut, report)["boundary_f1"]}
            api.refit(cut, model, fits)
            file.write_text(json.dumps({**row, "refit": api.evaluate(cut, report)["boundary_f1"]}))
        rows[name] = json.loads(file.read_text())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of orders of each image")
    parser.add_argument("--per-dataset", type=int, default=12, help="images of each data set")
    parser.add_argument("--folds", type=int, default=4, help="parts of the images")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--halve", action="store_true", help="also measure models with half of the heads of each block")
    parser.add_argument("--work", type=Path, default=Path("runs/criteria-against-shapley"), help="folder for parts")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config, work = config_of(arguments.config, arguments.per_dataset), arguments.work
    images = calibration_images(config.datasets, adapted_model(config.model).arch.frame)
    folds, widths = folds_of(images, arguments.folds), adapted_model(config.model).spec.family(FAMILY)
    work.mkdir(parents=True, exist_ok=True)
    with Status() as status:
        samples = contributions(config, images, arguments.pairs, arguments.processes, work, status)
        criteria = []
        for number, part in enumerate([list(range(len(images))), *folds]):
            status.report("criteria on all images and on folds", number, 1 + len(folds))
            criteria.append(kept_rankings(config, images.subset(part), work / f"criteria-{number}.json"))
        found = estimate(samples)
        oracles = {name: ranking_of(widths, found.values[:, place]) for place, name in enumerate(MEASURES)}
        drawn = random_rankings(oracles["loss"], DRAWS)
        cut = {**oracles, **criteria[0], **{f"random-{number}": drawn[number] for number in range(CUT_DRAWS)}}
        whole = load_config(arguments.config).absolute()
        halves = measure_halved(whole, cut, work, status) if arguments.halve else {name: {} for name in cut}
    rows = []
    for place, (name, oracle) in enumerate(oracles.items()):
        of_folds = [ranking_of(widths, estimate(samples[:, fold]).values[:, place]) for fold in folds]
        rows.append({"ranking": f"oracle, {MEASURES[name]}", **graded(oracle, of_folds, oracles), **halves[name]})
    for name, ranking in criteria[0].items():
        of_folds = [fold[name] for fold in criteria[1:]]
        rows.append({"ranking": name, **graded(ranking, of_folds, oracles), **halves[name]})
    by_chance = pd.DataFrame([halves[f"random-{number}"] for number in range(CUT_DRAWS)]).mean().to_dict()
    rows.append({"ranking": "random", **random_row(drawn, oracles), **by_chance})
    arguments.out.mkdir(parents=True, exist_ok=True)
    grades, noise = pd.DataFrame(rows), noise_of(widths, samples, found)
    grades.to_csv(arguments.out / "table.csv", index=False, float_format="%.4g")
    less = differences(widths, samples, images.datasets, criteria[0], OWN)
    (arguments.out / "table.md").write_text(f"{text_of(grades, noise)}\n{difference_text(less, OWN)}\n")


if __name__ == "__main__":
    main()
