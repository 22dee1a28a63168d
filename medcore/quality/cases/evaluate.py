"""Evaluation of whole cases of the MedSAM challenge: scores and running time of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medcore.data.formats.npz_case import read_case
from medcore.data.formats.windows import window_of
from medcore.data.mask_rules import AS_THE_FILE_SAYS, MaskRules
from medcore.data.reader import Sample, Skipped, UnreadableFile
from medcore.quality.cases.scores import Scores, scores_of
from medcore.quality.cases.segment import Segmenter
from medcore.quality.machine import Moment, conditions_since


@dataclass(frozen=True)
class Result:
    """What was measured of one case.

    Attributes:
        sample: The case's archive.
        size: Slices, rows and columns; rows and columns of a picture.
        objects: Number of objects.
        scores: Means over the objects.
        seconds: From opening the archive to the finished label map.
        doubt: Why the time is uncertain; empty if nothing was in the way.
        exact_boxes: Whether the file has no boxes, so that prompts were the exact boxes of the labels.
    """

    sample: Sample
    size: tuple[int, ...]
    objects: int
    scores: Scores
    seconds: float
    doubt: str
    exact_boxes: bool

    def row(self) -> dict[str, Any]:
        """Return plain values; `modality` is `unknown` if the name of the file does not say."""
        return {
            "dataset": self.sample.dataset,
            "name": self.sample.name,
            "modality": self.sample.modality or "unknown",
            "size": list(self.size),
            "objects": self.objects,
            **asdict(self.scores),
            "seconds": self.seconds,
            "doubt": self.doubt,
            "exact_boxes": self.exact_boxes,
        }


def evaluate_cases(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    skipped: list[Skipped],
    rules: MaskRules = AS_THE_FILE_SAYS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Segment and measure cases one after the other.

    Args:
        segmenter: The model.
        samples: Archives, as `whole_cases` returns them.
        skipped: Cases that cannot be read are added to it.
        rules: Their windows apply; each label is an object whatever they say of masks.
        progress: Called with the finished and all cases.

    Raises:
        MedcoreError: A logit is not finite, or the disk is full.
    """
    for done, sample in enumerate(samples):
        progress(done, len(samples))
        start = Moment()
        try:
            case = read_case(sample)
            found = segmenter.segment(case, window_of(rules, sample.dataset))
        except UnreadableFile as error:
            skipped.append(Skipped(sample.dataset, error.path, error.reason))
            continue
        seconds, conditions = time.perf_counter() - start.wall, conditions_since(start)
        size = case.shape[1:] if case.flat else case.shape
        scores = scores_of(case, found)
        yield Result(sample, size, len(case.boxes), scores, seconds, conditions.trouble, case.exact)
    progress(len(samples), len(samples))
