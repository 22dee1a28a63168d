"""Contact sheets of a study's models: the dense and the pruned ones run again on the worst of the search images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medcore.data.formats.intensities import picture
from medcore.data.formats.windows import window_of
from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet, UnreadableFile, list_folder, load_image_set
from medcore.errors import DataError, MedcoreError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from medcore.quality.catalogue import worst_by
from medcore.quality.evaluate import evaluate, predict_masks
from medcore.quality.metrics import all_metrics
from medcore.quality.surfaces import Mask
from results.pages.report import Member, Picture
from results.plots.contact_sheet import MAX_BYTES, Case, contact_sheet
from results.stats import labels
from results.stats.worst import worst_images
from results.store.trials import checkpoint_file
from search.base.device import on_device
from search.base.sections.inputs import Datasets, ModelConfig
from search.study.gone import why_gone
from search.study.inputs import adapted_model, require_same_samples

#: Most bytes of all sheets together, so that the page stays below 10 MB with any number of models.
_ALL_BYTES = 2_100_000
_BATCH = 8


class Sheets:
    """The dense model and the images that guided a search, ready for contact sheets.

    It never reads the report split and never deals out a split, so a study whose splits are gone has no search images.
    """

    def __init__(self, model: ModelConfig, datasets: Datasets, *, autocast: bool) -> None:
        """Read the model and the images.

        Args:
            model: The pair of checkpoints.
            datasets: The study's images.
            autocast: Run models in bfloat16.

        Raises:
            MedcoreError: The dense checkpoint or the images cannot be read.
        """
        self._autocast = autocast
        self._datasets = datasets
        self._folders, self._rules = datasets.section.folders, datasets.section.rules
        self._dense = adapted_model(model)
        self._images = self._load(self._dense.arch.frame)
        self._by_frame = {self._dense.arch.frame: self._images}

    def __len__(self) -> int:
        """Return the number of search images."""
        return len(self._images)

    def dense_images(self) -> pd.DataFrame:
        """Return the dense model's metrics of every search image."""
        with on_device(self._dense):
            return pd.DataFrame(evaluate(self._dense, self._images, autocast=self._autocast))

    def draw(
        self,
        study: Path,
        members: Sequence[Member],
        measured: pd.DataFrame,
        count: int,
        say: Callable[[str], None] = lambda _: None,
        most_bytes: int = _ALL_BYTES,
    ) -> tuple[list[Picture], list[str]]:
        """Draw a sheet for each member that has a checkpoint.

        Args:
            study: The study's folder.
            members: Trials of which sheets are wanted.
            measured: Metrics of each image of the trials, from which the worst images are chosen.
            count: Number of images on a sheet.
            say: Takes a line before each sheet.
            most_bytes: Most bytes of all sheets together.

        Returns:
            The sheets, and a note on each member without one.
        """
        places = {pair: i for i, pair in enumerate(zip(self._images.datasets, self._images.names, strict=True))}
        worst = worst_images(measured, [member.trial_id for member in members], count)
        chosen = np.array([places[pair] for pair in worst if pair in places], dtype=np.intp)
        if not len(chosen):
            return [], ["No contact sheets: the study's images are not among the images of its data folders."]
        pixels = [self._original(index) for index in chosen]
        dense = self._masks(self._dense, chosen)
        sheets, notes = [], []
        for member in members:
            path = checkpoint_file(study, member.row)
            if not path.is_file():
                notes.append(f"No contact sheet: {why_gone(study, path, member.trial_id)}.")
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

    def _images_at(self, frame: Frame) -> ImageSet:
        """Return the same images for a model of another side.

        Raises:
            ConfigError: Some have no object left there.
        """
        if frame not in self._by_frame:
            images = self._load(frame)
            require_same_samples(self._images, images)
            self._by_frame[frame] = images
        return self._by_frame[frame]

    def _load(self, frame: Frame) -> ImageSet:
        section = self._datasets.section
        images, _ = load_image_set(
            section.folders,
            section.search_split,
            frame,
            per_dataset=section.search_per_dataset,
            seed=self._datasets.seed,
            save_splits=self._datasets.splits,
            deal_splits=False,
            rules=section.rules,
        )
        return images

    def _masks(self, model: MedSam, chosen: npt.NDArray[np.intp]) -> list[Mask]:
        images = self._images_at(model.arch.frame)
        with on_device(model):
            return [
                mask
                for start in range(0, len(chosen), _BATCH)
                for mask in predict_masks(model, images, chosen[start : start + _BATCH], self._autocast)
            ]

    def _case(self, index: int, pixels: npt.NDArray[np.uint8], dense: Mask, pruned: Mask) -> Case:
        images, truth = self._images, self._images.truths[index]
        if (void := images.void(index)) is not None:
            dense, pruned = dense & ~void, pruned & ~void
        return Case(
            dataset=images.datasets[index],
            name=images.names[index],
            image=pixels,
            truth=truth,
            dense=dense,
            pruned=pruned,
            dense_metrics=all_metrics(dense, truth),
            pruned_metrics=all_metrics(pruned, truth),
        )

    def _original(self, index: int) -> npt.NDArray[np.uint8]:
        """Read the image at its own size.

        The model's input would be blurred in a close-up.

        Raises:
            DataError: The image cannot be read any more.
        """
        dataset = self._images.datasets[index]
        folder = next(folder for folder in self._folders if folder.resolve().name == dataset)
        listing = list_folder(folder)
        sample = {sample.name: sample for sample in listing.samples}[self._images.source(index)]
        try:
            return np.asarray(picture(listing.reader.read(sample).image, window_of(self._rules, dataset)))
        except UnreadableFile as error:
            raise DataError(f"{error.path}: cannot be read any more ({error.reason})") from None


def _picture(member: Member, cases: Sequence[Case], rows: int, max_bytes: int) -> Picture:
    title = f"Trial {member.trial_id}: {', '.join(member.rules)}"
    name, worst = "flops_fraction", worst_by()
    share = member.row.figure(name)
    cost = "" if share is None else f"{labels.title(name)}: {labels.text(name, share)}. "
    worse = sum(case.pruned_metrics[worst] > case.dense_metrics[worst] for case in cases)
    caption = f"{cost}{labels.title(worst)} is larger than the dense model's on {worse} of these {len(cases)} images."
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        path = Path(folder) / "sheet.png"
        contact_sheet(cases, path, title, rows, max_bytes)
        return Picture(f"{member.trial_id}.png", title, caption, path.read_bytes())
