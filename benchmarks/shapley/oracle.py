"""The Shapley values of heads, measured pair by pair of orders and kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.files import replacing
from medcore.models.sites import PerSite, Site
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import masks_of
from medcore.quality.metrics import boundary_f1
from medcore.scoring.coalitions import negative_loss, players_of, walk_of
from medcore.scoring.shapley import Floats, seeded_pair
from search.base.config import Config, load_config, validate
from search.base.terminal.status import Status
from search.study.inputs import adapted_model

FAMILY = "heads"
#: What a coalition of heads is worth, in this order, and its name in tables.
MEASURES = {"loss": "−loss", "boundary_f1": "Boundary F1"}


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


def is_head(site: Site) -> bool:
    return site.family.name == FAMILY


def heads_of(spec: ModelSpec, scores: PerSite) -> PerSite:
    return tuple(values for site, values in zip(spec.arch.sites, scores, strict=True) if is_head(site))


def ranking_of(widths: Sequence[int], values: Floats) -> Ranking:
    """The ranking by Shapley values (G,), of blocks with these numbers of heads."""
    return Ranking(tuple(np.split(values, np.cumsum(widths)[:-1])), values)
