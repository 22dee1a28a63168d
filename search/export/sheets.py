"""Contact sheets of a study's models: dense and pruned run again on the worst of the search images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medcore.data.imagefile import UNREADABLE
from medcore.data.load import list_folder, load_image_set, read_image
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from medcore.quality.evaluate import evaluate, predict_masks
from medcore.quality.metrics import Mask, all_metrics
from results.pages.report import Member, Picture
from results.plots.contact_sheet import MAX_BYTES, Case, contact_sheet
from results.stats import labels
from results.stats.worst import worst_images
from results.store.trials import checkpoint_file
from search.base.config import Config
from search.base.device import best_device
from search.study.inputs import adapted_model

#: Of all sheets together, so that the page stays below 10 MB however many models are looked at.
_ALL_BYTES = 2_100_000
_BATCH = 8


class Sheets:
    """The dense model and the images that a search was steered by, ready for contact sheets.

    Never reads the report split, and never deals out a split: a study whose splits are gone has no search images.
    Raises `MedcoreError` where the dense checkpoint or the images cannot be read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._dense = adapted_model(config)
        self._images, _ = load_image_set(
            config.data.folders,
            config.data.search_split,
            self._dense.arch.img_size,
            per_dataset=config.data.search_per_dataset,
            seed=config.seed,
            save_splits=config.output / "splits",
            deal_splits=False,
        )

    def __len__(self) -> int:
        return len(self._images)

    def dense_images(self) -> pd.DataFrame:
        """Metrics of every search image for the dense model."""
        rows = evaluate(self._dense.to(best_device()), self._images, autocast=self._config.recovery.autocast)
        self._dense.cpu()
        return pd.DataFrame(rows)

    def draw(
        self,
        study: Path,
        members: Sequence[Member],
        measured: pd.DataFrame,
        count: int,
        say: Callable[[str], None] = lambda _: None,
        most_bytes: int = _ALL_BYTES,
    ) -> tuple[list[Picture], list[str]]:
        """A sheet for each member whose checkpoint is there, and a note on each whose is not.

        Args:
            measured: per-image metrics of the trials, which tell the worst images.
            most_bytes: of all sheets together.
        """
        places = {pair: i for i, pair in enumerate(zip(self._images.datasets, self._images.names, strict=True))}
        worst = worst_images(measured, [member.trial_id for member in members], count)
        chosen = np.array([places[pair] for pair in worst if pair in places], dtype=np.intp)
        if not len(chosen):
            return [], ["No contact sheets: the study's images are not among the images of its data folders."]
        pixels = [self._original(index) for index in chosen]
        dense = self._masks(self._dense, chosen)
        self._dense.cpu()
        sheets, notes = [], []
        for member in members:
            path = checkpoint_file(study, member.row)
            if not path.is_file():
                notes.append(f"No contact sheet of trial {member.trial_id}: its checkpoint {path} is gone.")
                continue
            say(f"contact sheet of trial {member.trial_id}")
            try:
                pruned = self._masks(load(path), chosen)
            except MedcoreError as error:  # one damaged file must not cost the other members their sheets
                notes.append(f"No contact sheet of trial {member.trial_id}: {error}.")
                continue
            cases = [self._case(*each) for each in zip(chosen, pixels, dense, pruned, strict=True)]
            sheets.append(_picture(member, cases, count, min(MAX_BYTES, most_bytes // len(members))))
        return sheets, notes

    def _masks(self, model: MedSam, chosen: npt.NDArray[np.intp]) -> list[Mask]:
        model.to(best_device())
        return [
            mask
            for start in range(0, len(chosen), _BATCH)
            for mask in predict_masks(
                model, self._images, chosen[start : start + _BATCH], self._config.recovery.autocast
            )
        ]

    def _case(self, index: int, pixels: npt.NDArray[np.uint8], dense: Mask, pruned: Mask) -> Case:
        images, truth = self._images, self._images.truths[index]
        metrics = all_metrics(dense, truth), all_metrics(pruned, truth)
        return Case(images.datasets[index], images.names[index], pixels, truth, dense, pruned, *metrics)

    def _original(self, index: int) -> npt.NDArray[np.uint8]:
        """The image at its own size: what the model sees would be a blur in a close-up."""
        dataset, name = self._images.datasets[index], self._images.names[index]
        folder = next(folder for folder in self._config.data.folders if folder.resolve().name == dataset)
        sample = next(sample for sample in list_folder(folder).samples if sample.name == name)
        try:
            return np.asarray(read_image(sample.image))
        except UNREADABLE as error:
            raise MedcoreError(f"{sample.image}: cannot be read any more ({error})") from None


def _picture(member: Member, cases: Sequence[Case], rows: int, max_bytes: int) -> Picture:
    title = f"Trial {member.trial_id}: {', '.join(member.rules)}"
    share = member.row.get("flops_fraction")
    cost = "" if share is None or np.isnan(share) else f"{labels.text('flops_fraction', float(share))} FLOPs. "
    worse = sum(case.pruned_metrics["hd95"] > case.dense_metrics["hd95"] for case in cases)
    caption = f"{cost}HD95 is larger than the dense model's on {worse} of these {len(cases)} images."
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        path = Path(folder) / "sheet.png"
        contact_sheet(cases, path, title, rows, max_bytes)
        return Picture(f"{member.trial_id}.png", title, caption, path.read_bytes())
