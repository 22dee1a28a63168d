"""What a chosen model goes through before it is exported: fine-tuning, and its one look at the held-out images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from medcore.errors import MedcoreError
from results.stats.labels import text
from results.store.held_out import HeldOut
from results.store.trials import compact, trial_folder
from search.base.config import FinetuneConfig
from search.export.finetune import finetune
from search.export.formats import Choice
from search.export.held_out import Candidate, already, held_out
from search.study.saved import config_of
from search.tracking.remote import send_held_out

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


def fine_tuned(choice: Choice, settings: FinetuneConfig | None, say: Say, ray_address: str | None = None) -> Choice:
    """The choice with its fine-tuned model, trained now or earlier.

    Raises `MedcoreError` as `search.export.finetune` does.

    settings: instead of the study's own. ray_address: of a running cluster, for `finetune.workers` > 1.
    """
    config = config_of(choice.study, choice.config, "finetune")
    if settings is not None:
        config = config.model_copy(update={"finetune": settings})
    folder = trial_folder(choice.study, choice.row["trial_id"]) / "finetune"
    tuned = finetune(config, choice.source, folder, say, ray_address)
    about = tuned.about
    before, after = (float(about[when]["boundary_f1"]) for when in ("before", "after"))
    change = f"Boundary F1 on {about['search_split']} {text('boundary_f1', before)} -> {text('boundary_f1', after)}"
    if after < before:
        logger.warning("fine-tuning made the model worse: %s; without --finetune the trial's own is exported", change)
    else:
        say(f"fine-tuned, best epoch {about['log']['best_epoch'] + 1} of {len(about['log']['epochs'])}: {change}")
    return dataclasses.replace(choice, tuned=tuned)


def measured(choice: Choice, measure: bool, say: Say) -> Choice:
    """The choice with its held-out figures, or with the reason why there are none, which is logged too.

    measure: False: only what was measured earlier.
    """
    trial_id = str(choice.row["trial_id"])
    candidate = Candidate(trial_id, choice.tuned is not None, choice.row.get("finished"), choice.source)
    found: HeldOut | None
    try:
        if measure:
            found, reason = held_out(choice.study, choice.config, candidate, say), ""
        else:
            found, reason = already(choice.study, candidate.checkpoint), "left out by --no-held-out"
    except MedcoreError as error:
        found, reason = None, str(error)
        logger.warning("not measured on held-out images: %s", reason)
    if found is None:
        return dataclasses.replace(choice, not_held_out=reason)
    say(found.line())
    try:
        compact(choice.study)
    except MedcoreError as error:
        logger.warning("the trial table does not have the held-out figures yet: %s", error)
    if unsent := send_held_out(choice.study, found.model, found.candidates):
        logger.warning("%s", unsent)
    return dataclasses.replace(choice, held_out=found)
