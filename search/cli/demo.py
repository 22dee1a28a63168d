"""`medcore demo`: the whole path on embedded data, in minutes on a laptop.

The demo keeps everything that it makes. A second run continues where the first one stopped, and after a finished run it
only shows the front and exports again.
"""

from __future__ import annotations

import os
import shlex
from importlib.resources import files
from pathlib import Path

from medcore.errors import MedcoreError
from results.stats.labels import NOT_RECOVERED, text, title
from results.store.files import make_folder
from results.store.study_info import read_study_info
from results.store.trial_row import TrialRow
from results.store.trials import checkpoint_file
from search.base.config import load_config
from search.base.device import pin_threads
from search.base.shell import program
from search.cli.demo_pair import make_pair
from search.cli.tables import evaluation_table, front_table
from search.cli.terminal import console, say, show, status
from search.commands.export import ExportRequest, export
from search.commands.front import front
from search.commands.front import write as write_front
from search.commands.search import search
from search.export.held_out import already

_CONFIGS = Path(str(files("search") / "configs"))


def demo(folder: Path) -> None:
    """Run the whole path on embedded data.

    Make data, train the pair, search, show the front, export its knee, and compare it with the dense model.
    """
    make_folder(folder)
    folder = folder.resolve()
    pin_threads(1)  # on tensors this small a second thread costs more than it gains
    _heading("1. embedded data and a small model pair")
    status.doing("reading what is there", logged=False)
    make_pair(folder, status.report)
    _heading("2. search")
    study = _search(folder)
    show(front_table(front(str(study))))
    status.doing("drawing the front")
    page = next(file for file in write_front(str(study), folder) if file.suffix == ".html")
    _heading("3. the knee of the front, exported")
    status.doing("measuring on held-out images, writing and checking")
    out = folder / "knee.safetensors"
    row = export(ExportRequest(str(study), out))
    status.end()
    left = text("flops_fraction", row.metrics["flops_fraction"])
    say(f"trial {row.trial_id}, {title('flops_fraction')}: {left} -> {out}")
    _show_held_out(study, row)
    say(f"the front to look at: {page} (front.png and front.svg for a paper)")
    _show_next_steps(study)


def _heading(words: str) -> None:
    status.end()
    console.rule(words)


def _search(folder: Path) -> Path:
    """Run the demo's search, or what is left of it, and return the study's folder."""
    os.environ["MEDCORE_DEMO"] = str(folder)
    config = load_config(_CONFIGS / "demo.yaml")
    saved = config.folder / "config.yaml"
    if resume := saved.is_file():  # an earlier version may have begun it with other settings
        config = load_config(saved)
    command = shlex.join([program("medcore"), "demo", "--folder", str(folder)])
    outcome = search(config, resume=resume, command=command, status=status, say=say)
    if not outcome.complete:
        raise MedcoreError(f"the demo's search did not finish; `{command}` resumes it")
    if outcome.is_empty:
        raise MedcoreError(f"no trial of the demo's search was completed: {outcome.message}")
    return config.folder


def _show_held_out(study: Path, row: TrialRow) -> None:
    """Show the dense and the exported model on the held-out images.

    Show nothing if the export could not measure both models.
    """
    found = already(study, checkpoint_file(study, row))
    if found is not None and found.dense is not None:
        say(f"on {found.model.images} images that the search did not use, as the export measured them:")
        dense = {**read_study_info(study).dense, **found.dense.metrics}
        console.print(evaluation_table({NOT_RECOVERED: dense, "exported": {**row.metrics, **found.model.metrics}}))


def _show_next_steps(study: Path) -> None:
    medcore, store = program("medcore"), f"sqlite:///{study / 'mlflow.db'}"
    say(f"trials in MLflow: {shlex.join([program('mlflow'), 'ui', '--backend-store-uri', store])}")
    say(f"the front again: {shlex.join([medcore, 'front', str(study)])}")
    own = "; ".join(f"{shlex.quote(medcore)} {rest}" for rest in ("init FOLDER", "search FOLDER/medcore.yaml"))
    say(f"your own checkpoints and images, in one folder: {own}")
