"""A chosen model before it is exported: fine-tuned if wanted, and measured once on the held-out images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from medcore.files import refuse_links
from medcore.quality.catalogue import headlines
from results.stats.labels import text, title
from results.store.fine_tuned import FineTuned
from results.store.held_out import HeldOut
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow
from results.store.trials import checkpoint_file, compact, read_images, trial_folder
from search.base.sections.training import FinetuneConfig
from search.export.card_fields import Fields
from search.export.finetune import finetune
from search.export.held_out import Candidate, already, held_out
from search.study.saved import saved_finetune, saved_study, saved_values, values_here
from search.tracking.remote import send_held_out

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

#: Why a model is not measured on held-out images if the user said so.
BY_OPTION = "left out by --no-held-out"


@dataclass(frozen=True)
class Choice:
    """What is exported.

    Attributes:
        study: The study's folder.
        info: The study's description.
        rule: The rule that chose the trial.
        row: The trial's row.
        tuned: Its fine-tuned model if that is exported instead.
        held_out: Figures on held-out images.
        not_held_out: Why there are none.
        card: What the user states for the card's head.
    """

    study: Path
    info: StudyInfo
    rule: str
    row: TrialRow
    tuned: FineTuned | None = None
    held_out: HeldOut | None = None
    not_held_out: str = ""
    card: Fields = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """Return the checkpoint of what is exported.

        This is the trial's checkpoint or that of its fine-tuned model.
        """
        return checkpoint_file(self.study, self.row) if self.tuned is None else self.tuned.checkpoint

    @property
    def images(self) -> pd.DataFrame:
        """Metrics of every search image of what is exported; may be empty."""
        if self.tuned is not None:
            return self.tuned.after
        return read_images(self.study, {self.row.trial_id})

    @property
    def figures(self) -> TrialRow:
        """The row of what is exported, with its own held-out metrics.

        A fine-tuned model has metrics of its own.
        """
        held_out = {} if self.held_out is None else self.held_out.model.metrics
        row = dataclasses.replace(self.row, held_out=held_out)
        if self.tuned is None:
            return row
        about = self.tuned.about
        kept = {name: about[name] for name in ("settings", "search_split", "before", "finished")}
        kept["best_epoch"] = about["log"]["best_epoch"]
        return dataclasses.replace(row, metrics={**row.metrics, **about["after"]}, fine_tuned=kept)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The study's configuration as it was saved, also by an older version, with paths that follow the study.

        Empty if there is none.

        Raises:
            MedcoreError: It is corrupt.
        """
        if not (self.study / "config.yaml").exists():
            return {}
        return values_here(self.study, saved_values(self.study))


def fine_tuned(choice: Choice, settings: FinetuneConfig | None, say: Say, ray_address: str | None = None) -> Choice:
    """Return the choice with its fine-tuned model, trained now or earlier.

    Args:
        choice: The trial's own model.
        settings: Replace the study's own settings.
        say: Takes lines on the progress.
        ray_address: Of a running cluster, for `finetune.workers` > 1.

    Raises:
        MedcoreError: As `search.export.finetune.finetune`, or the study's configuration is incomplete.
    """
    datasets = saved_study(choice.study, choice.config).datasets
    settings = settings or saved_finetune(choice.study, choice.config)
    folder = trial_folder(choice.study, choice.row.trial_id) / "finetune"
    refuse_links(choice.study, str(folder.relative_to(choice.study)))
    tuned = finetune(datasets, settings, choice.source, folder=folder, say=say, ray_address=ray_address)
    about = tuned.about
    main = headlines()[0]
    before, after = (float(about[when][main]) for when in ("before", "after"))
    change = f"{title(main)} on {about['search_split']} {text(main, before)} -> {text(main, after)}"
    if after < before:
        logger.warning("fine-tuning made the model worse: %s; without --finetune the trial's own is exported", change)
    else:
        say(f"fine-tuned, best epoch {about['log']['best_epoch'] + 1} of {len(about['log']['epochs'])}: {change}")
    return dataclasses.replace(choice, tuned=tuned)


def measured(
    choice: Choice,
    measure: bool,
    say: Say,
    tracking_uri: str | None = None,
    *,
    why_not: str = BY_OPTION,
) -> Choice:
    """Return the choice with its held-out figures.

    If there are none, it has the reason, which is logged too.

    Args:
        choice: What is exported.
        measure: False takes only what was measured earlier.
        say: Takes lines on the progress.
        tracking_uri: Where the figures go too; by default where the study went, if the user names that place.
        why_not: Why there may be no figures if they are not measured.
    """
    row = choice.row
    candidate = Candidate(choice.source, row.trial_id, choice.tuned is not None, row.timing.finished)
    figures: HeldOut | None
    try:
        if measure:
            figures, reason = held_out(choice.study, choice.config, candidate, say), ""
        else:
            figures, reason = already(choice.study, candidate.checkpoint), why_not
    except MedcoreError as error:
        figures, reason = None, str(error)
        logger.warning("not measured on held-out images: %s", reason)
    if figures is None:
        return dataclasses.replace(choice, not_held_out=reason)
    say(figures.line())
    try:
        compact(choice.study)
    except MedcoreError as error:
        logger.warning("the trial table does not have the held-out figures yet: %s", error)
    if unsent := send_held_out(choice.study, figures.model, figures.candidates, tracking_uri, say):
        logger.warning("%s", unsent)
    return dataclasses.replace(choice, held_out=figures)
