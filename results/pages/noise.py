"""Sentences on repeated trials, on the dense model after recovery, and on a model that was pruned before.

The report, the front's files and the terminal share them. Nothing here imports a plotting package, so that a front
opens at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from results.stats.labels import RECOVERED, text, title
from results.stats.seed_noise import Candidate, runs_in
from results.store.front import Front
from results.store.study_info import StudyInfo


def noise_sentences(front: Front) -> list[str]:
    """Say what repeats tell, and what the dense model reaches after the same recovery.

    Without repeats and without such a dense model there is nothing to say. A study of a model that was pruned already
    says so first.
    """
    lines = [
        start_sentence(front.info),
        repeats_sentence(front),
        noise_sentence(front),
        *dethroned_sentences(front),
        recovered_sentence(front),
    ]
    return [line for line in lines if line]


def start_sentence(info: StudyInfo) -> str:
    """Say that a study pruned a model that was pruned already; empty if it was dense."""
    if info.start is None:
        return ""
    left = {family.name: info.start_share(family.name) for family in info.prunable()}
    shares = " and ".join(f"{share:.0%} of the {name}" for name, share in left.items() if share < 1)
    if all(share == 1 or name in ("decoder_outputs", "decoder_hidden") for name, share in left.items()):
        return f"The study left out outputs of the decoder, which changes no mask: the model had {shares}."
    return (
        f"The model of this study was pruned already: it had {shares}. What is called the dense model here is that "
        "model as it came; shares of cost and of groups are of the dense encoder."
    )


def repeats_sentence(front: Front) -> str:
    """Say that figures are means; empty without repeats."""
    if not front.further_runs:
        return ""
    count = front.further_runs
    runs = "1 further run repeats a trial" if count == 1 else f"{count} further runs repeat trials"
    return f"{runs} with other seeds. Figures of a repeated trial are means over its runs."


def noise_sentence(front: Front) -> str:
    """State the pooled noise of one run; empty without repeats."""
    if not front.seed_noise:
        return ""
    parts = [
        f"{title(name)} {text(name, noise.sd)} ({noise.freedom} degree{'' if noise.freedom == 1 else 's'} of freedom)"
        for name, noise in front.seed_noise.items()
    ]
    return f"Seed noise, the standard deviation of one run, pooled over all repeated trials: {', '.join(parts)}."


def dethroned_sentences(front: Front) -> list[str]:
    """Name each trial that was on the front by its first run only, with both figures."""
    return [_dethroned(each, front) for each in front.dethroned]


def recovered_sentence(front: Front) -> str:
    """State the quality of the dense model after the same recovery; empty without such a trial."""
    row = front.recovered
    if row is None:
        return ""
    runs = runs_in(row)
    return f"{RECOVERED.capitalize()}: {_figures(row, front)} ({runs} seed{'' if runs == 1 else 's'})."


def _dethroned(each: Candidate, front: Front) -> str:
    was = f"Trial {each.trial_id} was on the front by its first run ({_figures(each.single, front)})"
    if each.runs == 1:
        return f"{was} and is not any more: the mean over runs of another trial dominates it."
    return f"{was} and is not by the mean over {each.runs} runs ({_figures(each.mean, front)})."


def _figures(values: Mapping[str, float | None], front: Front) -> str:
    names = front.objectives_of_quality or front.quality
    return ", ".join(f"{title(name)} {text(name, values.get(name))}" for name in names)
