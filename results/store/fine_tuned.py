"""A trial's model after further training, as a model card describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.quality.catalogue import shown
from results.stats.intervals import macro_interval
from results.stats.labels import arrow_title, text


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model.

    Attributes:
        checkpoint: The file.
        about: `source` (SHA-256 of the checkpoint that it began with), `settings`, `search_split`, `seed`, `log`
            (fields of `medcore.training.train.TrainLog`), `train_images`, `search_images`, `before` and `after` (means
            over the search images, float32), `finished`, `git`, `versions`.
        before: Metrics of every search image before the training, with `dataset` and `name`.
        after: The same after the training, in the same order.
    """

    checkpoint: Path
    about: Mapping[str, Any]
    before: pd.DataFrame
    after: pd.DataFrame

    def summary(self) -> str:
        """Say in sentences how the model was trained."""
        about, log = self.about, self.about["log"]
        settings = ", ".join(f"{name} {_plain(value)}" for name, value in about["settings"].items())
        early = " It ended early, as the loss no longer fell." if log["out_of_patience"] else ""
        stopped = f" It had to stop: {log['stopped']}." if log["stopped"] else ""
        return (
            f"Encoder and mask decoder were trained further on part '{about['settings']['train_split']}' "
            f"({about['train_images']} images) by Dice and cross-entropy. Of {len(log['epochs'])} epochs, epoch "
            f"{log['best_epoch'] + 1} had the least loss on part '{about['search_split']}' ({about['search_images']} "
            f"images), and its weights are these.{early}{stopped} Settings: {settings}; seed {about['seed']}. "
            f"Trained {about['finished']}, code {about['git']}."
        )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Compare the figures before and after.

        Returns:
            By metric: title, figure before, figure after, and the 95 % interval of the change, paired image by image.
        """
        rows = []
        for name in (name for name in shown() if name in self.about["after"]):
            change = self.after[name].reset_index(drop=True) - self.before[name].reset_index(drop=True)
            low, high = macro_interval(change, self.after["dataset"])
            before, after = (text(name, self.about[when][name]) for when in ("before", "after"))
            rows.append((arrow_title(name), before, after, f"{low:+.4g} to {high:+.4g}"))
        return rows


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
