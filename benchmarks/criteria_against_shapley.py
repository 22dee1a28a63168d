"""Question: how close is each criterion's ranking of attention heads to that by Shapley values?

The Shapley value of a head is what it adds on average when heads join the model in a random order, without a refit or
a recovery. Every image has orders of its own, in antithetic pairs; the scoring loss and Boundary F1 are measured in
the same passes. Each pair of each image is a file, so the benchmark resumes where it stopped. Criteria see the same
images. With `--halve`, every ranking also removes half of the heads of each block, as a check of the oracle itself.

    OMP_NUM_THREADS=1 python -m benchmarks.criteria_against_shapley search/configs/polyps.yaml \\
        --out results/published/shapley
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medcore import api
from medcore.data.load import ImageSet
from medcore.files import replacing
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sites import PerSite, Site
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import masks_of
from medcore.quality.metrics import boundary_f1
from medcore.scoring.coalitions import negative_loss, players_of, walk_of
from medcore.scoring.criteria import CRITERIA, ScoringWeights, mix
from medcore.scoring.job import build_table
from medcore.scoring.profile import Profile
from medcore.scoring.rankings import agreement, agreement_within, rank_variance
from medcore.scoring.shapley import Estimate, Floats, estimate, seeded_pair
from results.pages.markdown import table
from search.base.config import Config, load_config, validate
from search.base.terminal.status import Status
from search.study.inputs import adapted_model, base_model, calibration_images, load_split

FAMILY = "heads"
#: What a coalition of heads is worth, in this order, and its name in tables.
MEASURES = {"loss": "−loss", "boundary_f1": "Boundary F1"}
#: Draws that the row of random rankings is the mean of.
DRAWS = 50
#: Of these, how many remove heads.
CUT_DRAWS = 3


def config_of(path: Path, per_dataset: int) -> Config:
    """The study's configuration with fewer calibration images."""
    values = load_config(path).absolute().model_dump()
    values["data"]["calibration_per_dataset"] = per_dataset
    return validate(values, "benchmark")


def measure(logits: Tensor, images: ImageSet, index: int) -> tuple[float, float]:
    """−loss, and Boundary F1 at original size."""
    mask = masks_of(logits[:, 0], images, np.array([index]))[0]
    return (*negative_loss(logits, images, index), boundary_f1(mask, images.truths[index]))


def write_pair(config: Config, images: ImageSet, number: int, part: int, file: Path) -> None:
    """Write what each head adds in one pair of orders of one image, (G, measures)."""
    torch.set_num_threads(1)
    model = adapted_model(config.model)
    players = players_of(model, FAMILY)
    walk = walk_of(model, players, images, part, measure)
    pair = seeded_pair(walk, len(players), seed=config.seed, number=number, part=part)
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, pair)


def contributions(config: Config, images: ImageSet, pairs: int, processes: int, work: Path, status: Status) -> Floats:
    """What each head adds, (P, K, G, measures). Pairs that have a file are not computed again."""
    parts = range(len(images))
    files = {(number, part): work / f"{number:03d}-{part:03d}.npy" for number in range(pairs) for part in parts}
    missing = {place: file for place, file in files.items() if not file.is_file()}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write_pair, config, images, *place, file) for place, file in missing.items()]
        for done, job in enumerate(as_completed(jobs), len(files) - len(jobs) + 1):
            job.result()
            status.report("pairs of orders", done, len(files))
    return np.stack([[np.load(files[number, part]) for part in parts] for number in range(pairs)])


def folds_of(images: ImageSet, count: int) -> list[list[int]]:
    """Parts of the images, with equally many of each data set."""
    places: dict[str, int] = {}
    folds: list[list[int]] = [[] for _ in range(count)]
    for index, dataset in enumerate(images.datasets):
        places[dataset] = places.get(dataset, -1) + 1
        folds[places[dataset] % count].append(index)
    return folds


@dataclass(frozen=True)
class Ranking:
    """Scores of all heads.

    Attributes:
        within: one array a block, as the criterion ranks the heads of a block.
        overall: (G,), for a ranking across blocks.
    """

    within: PerSite
    overall: Floats


def rankings_by_criteria(config: Config, images: ImageSet) -> dict[str, Ranking]:
    """Return the ranking of every registered criterion from some images, with each setting at its default."""
    adapted = adapted_model(config.model)
    profile = api.score(adapted, images, seed=config.seed)
    scores = build_table(base_model(config.model), adapted, images, config.scoring.nodes)
    whole = replace(scores, profile=profile)
    found = {}
    for name in CRITERIA.names():
        if name != "random":
            within = _heads(adapted.spec, mix(whole, ScoringWeights(criterion=name), adapted.arch))
            found[name] = Ranking(within, np.concatenate(within))
    # places in an order do not compare across blocks, predicted losses do
    losses = np.concatenate(_heads(adapted.spec, predicted_losses(profile)))
    return {**found, "second_order": Ranking(found["second_order"].within, losses)}


def predicted_losses(profile: Profile) -> PerSite:
    """The predicted loss at the width at which each group goes."""
    return tuple(
        curve[:-1][::-1][np.argsort(order, kind="stable")]
        for order, curve in zip(profile.orders, profile.curves, strict=True)
    )


def _is_head(site: Site) -> bool:
    return site.family.name == FAMILY


def _heads(spec: ModelSpec, scores: PerSite) -> PerSite:
    return tuple(values for site, values in zip(spec.arch.sites, scores, strict=True) if _is_head(site))


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


def ranking_of(config: Config, values: Floats) -> Ranking:
    """The ranking by Shapley values (G,)."""
    model = adapted_model(config.model)
    return Ranking(_heads(model.spec, players_of(model, FAMILY).by_site(model, values)), values)


def rank_variances(folds: Sequence[Ranking]) -> dict[str, float]:
    """Variances of ranks over folds, as shares of that of random rankings."""
    shares = {}
    for place, name in enumerate(("within", "overall")):
        parts = [fold.within if place == 0 else (fold.overall,) for fold in folds]
        sites = [part for part in zip(*parts, strict=True) if len(part[0]) > 1]
        each = [rank_variance(site) / ((len(site[0]) ** 2 - 1) / 12) for site in sites]
        shares[f"variance_{name}"] = float(np.mean(each))
    return shares


def graded(one: Ranking, folds: Sequence[Ranking], oracles: dict[str, Ranking]) -> dict[str, float]:
    """Agreement with each oracle, its standard deviation over folds, and the variances of ranks."""
    row = rank_variances(folds)
    for name, oracle in oracles.items():
        for kind in ("within", "overall"):
            compare = agreement_within if kind == "within" else agreement
            of_folds = [compare(getattr(fold, kind), getattr(oracle, kind)) for fold in folds]
            row[f"{kind}/{name}"] = compare(getattr(one, kind), getattr(oracle, kind))
            row[f"{kind}/{name}/sd"] = float(np.std(of_folds, ddof=1))
    return row


def random_rankings(like: Ranking, count: int) -> list[Ranking]:
    """Rankings by random scores."""
    random = np.random.default_rng(0)
    drawn = [tuple(random.random(len(site)) for site in like.within) for _ in range(count)]
    return [Ranking(within, np.concatenate(within)) for within in drawn]


def random_row(drawn: Sequence[Ranking], oracles: dict[str, Ranking]) -> dict[str, float]:
    """Means over random rankings, and their standard deviations."""
    rows = pd.DataFrame([graded(each, drawn[:2], oracles) for each in drawn])
    grades = [key for key in rows if "/" in key and not key.endswith("/sd")]
    spread = {f"{key}/sd": float(rows[key].std()) for key in grades}
    return {**{key: float(rows[key].mean()) for key in grades}, **spread, **rank_variances(drawn)}


def halved(spec: ModelSpec) -> ModelSpec:
    """A model with half of the heads of each block and all channels."""
    widths = (width // 2 if _is_head(site) else width for site, width in zip(spec.arch.sites, spec.widths, strict=True))
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
            scores = tuple(next(heads) if _is_head(site) else np.zeros(site.width) for site in model.arch.sites)
            cut = prune(model, select(scores, spec))
            row = {"cut": api.evaluate(cut, report)["boundary_f1"]}
            api.refit(cut, model, fits)
            file.write_text(json.dumps({**row, "refit": api.evaluate(cut, report)["boundary_f1"]}))
        rows[name] = json.loads(file.read_text())
    return rows


def noise_of(config: Config, samples: Floats, found: Estimate) -> pd.DataFrame:
    """How exact the oracle is: errors next to the spread of values, and agreement of two halves of the pairs."""
    halves = [estimate(samples[start::2]).values for start in range(2)]
    rows = []
    for place, name in enumerate(MEASURES):
        first, second = (ranking_of(config, half[:, place]) for half in halves)
        values, errors = found.values[:, place], found.errors[:, place]
        rows.append(
            {
                "measure": name,
                "all_less_none": values.sum(),
                "spread": values.std(ddof=1),
                "largest": values.max(),
                "error_mean": errors.mean(),
                "error_largest": errors.max(),
                "halves_within": agreement_within(first.within, second.within),
                "halves_overall": agreement(first.overall, second.overall),
            }
        )
    return pd.DataFrame(rows)


def text_of(grades: pd.DataFrame, noise: pd.DataFrame) -> str:
    """Both tables in Markdown."""
    kinds = [(kind, name) for kind in ("within", "overall") for name in MEASURES]
    where = {"within": "within blocks", "overall": "all heads"}
    head = ["ranking", *(f"{where[kind]}, by {MEASURES[name]} (sd)" for kind, name in kinds)]
    head += ["rank variance within", "all"]
    cuts = [name for name in ("cut", "refit") if name in grades]
    head += [f"halved: {name}" for name in cuts]
    lines = []
    for row in grades.to_dict("records"):
        cells = [f"{row[f'{kind}/{name}']:.2f} ({row[f'{kind}/{name}/sd']:.2f})" for kind, name in kinds]
        ends = [f"{row['variance_within']:.2f}", f"{row['variance_overall']:.2f}"]
        lines.append([row["ranking"], *cells, *ends, *(f"{row[name]:.3f}" for name in cuts)])
    columns = list(noise.columns)
    cells = [[row["measure"], *(f"{row[name]:.3g}" for name in columns[1:])] for row in noise.to_dict("records")]
    return f"{table(head, lines)}\n\n{table(columns, cells)}\n"


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
    folds = folds_of(images, arguments.folds)
    work.mkdir(parents=True, exist_ok=True)
    with Status() as status:
        samples = contributions(config, images, arguments.pairs, arguments.processes, work, status)
        criteria = []
        for number, part in enumerate([list(range(len(images))), *folds]):
            status.report("criteria on all images and on folds", number, 1 + len(folds))
            criteria.append(kept_rankings(config, images.subset(part), work / f"criteria-{number}.json"))
        found = estimate(samples)
        oracles = {name: ranking_of(config, found.values[:, place]) for place, name in enumerate(MEASURES)}
        drawn = random_rankings(oracles["loss"], DRAWS)
        cut = {**oracles, **criteria[0], **{f"random-{number}": drawn[number] for number in range(CUT_DRAWS)}}
        whole = load_config(arguments.config).absolute()
        halves = measure_halved(whole, cut, work, status) if arguments.halve else {name: {} for name in cut}
    rows = []
    for place, (name, oracle) in enumerate(oracles.items()):
        of_folds = [ranking_of(config, estimate(samples[:, fold]).values[:, place]) for fold in folds]
        rows.append({"ranking": f"oracle, {MEASURES[name]}", **graded(oracle, of_folds, oracles), **halves[name]})
    for name, ranking in criteria[0].items():
        of_folds = [fold[name] for fold in criteria[1:]]
        rows.append({"ranking": name, **graded(ranking, of_folds, oracles), **halves[name]})
    by_chance = pd.DataFrame([halves[f"random-{number}"] for number in range(CUT_DRAWS)]).mean().to_dict()
    rows.append({"ranking": "random", **random_row(drawn, oracles), **by_chance})
    arguments.out.mkdir(parents=True, exist_ok=True)
    grades, noise = pd.DataFrame(rows), noise_of(config, samples, found)
    grades.to_csv(arguments.out / "table.csv", index=False, float_format="%.4g")
    (arguments.out / "table.md").write_text(text_of(grades, noise))


if __name__ == "__main__":
    main()
