"""`medcore demo`: the whole path on embedded data, in minutes on a laptop.

Everything made on the way is kept: a second run goes on where the first one stopped, and one that has finished only
shows its front and exports again.
"""

from __future__ import annotations

import os
import shlex
from importlib.resources import files
from pathlib import Path

from medcore.errors import MedcoreError
from results.plots.front import save_front_png
from results.store.files import make_folder
from results.store.trials import checkpoint_file, read_study, read_study_info
from search.base.config import load_config
from search.base.device import pin_threads
from search.cli.demo_pair import make_pair
from search.cli.tables import evaluation_table, front_table
from search.cli.terminal import console, program, say
from search.commands.export import export
from search.commands.front import front
from search.commands.search import search
from search.export.held_out import already


def demo(folder: Path) -> None:
    """Make data, train the pair, search, show the front, export its knee, compare it with the dense model."""
    make_folder(folder)
    folder = folder.resolve()
    pin_threads(1)  # on tensors this small a second thread costs more than it brings
    console.rule("1. embedded data and a small model pair")
    make_pair(folder, console)
    console.rule("2. search")
    os.environ["MEDCORE_DEMO"] = str(folder)
    configs = Path(str(files("search") / "configs"))
    config = load_config(configs / "demo.yaml")
    resume = (config.folder / "config.yaml").is_file()
    study = config.folder
    again = shlex.join([program("medcore"), "demo", "--folder", str(folder)])
    if not search(config, resume=resume, command=again, say=say).complete:
        raise MedcoreError(f"the demo's search did not finish; `{again}` goes on with it")
    result = front(str(study))
    console.print(front_table(result))
    picture = folder / "front.png"
    save_front_png(read_study(study), read_study_info(study)["objectives"], picture)
    console.rule("3. the knee of the front, exported")
    out = folder / "knee.safetensors"
    row = export(str(study), "knee", out)
    say(f"trial {row['trial_id']}, {100 * row['flops_paper_fraction']:.0f} % of the FLOPs -> {out}")
    found = already(study, checkpoint_file(study, row))
    if found is not None and found.dense is not None:
        say(f"on {found.model.images} images that the search did not use, as the export measured them:")
        dense = read_study_info(study)["dense"] | found.dense.metrics
        console.print(evaluation_table({"dense": dense, "exported": row | found.model.metrics}))
    medcore, store = program("medcore"), f"sqlite:///{study / 'mlflow.db'}"
    say(f"front picture: {picture}")
    say(f"trials in MLflow: {shlex.join([program('mlflow'), 'ui', '--backend-store-uri', store])}")
    say(f"the front again: {shlex.join([medcore, 'front', str(study)])}")
    own = f"cp {shlex.quote(str(configs / 'polyps.yaml'))} mine.yaml; {shlex.join([medcore, 'search', 'mine.yaml'])}"
    say(f"your own checkpoints and images, named in a copy of a configuration: {own}")
