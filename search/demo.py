"""`medcore demo`: the whole path on embedded data, in minutes on a laptop.

Everything made on the way is kept, so a second run only searches again.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from medcore.errors import MedcoreError
from results.plots import save_front_png
from results.trials import read_study, read_study_info
from search import commands
from search.choose import export, front
from search.config import load_config
from search.demo_pair import make_pair
from search.device import pin_threads
from search.experiment import search
from search.study import make_folder
from search.tables import evaluation_table, front_table


def demo(folder: Path, console: Console) -> None:
    """Make data, train the pair, search, show the front, export its knee, compare it with the dense model."""
    make_folder(folder)
    folder = folder.resolve()
    pin_threads(1)  # on tensors this small a second thread costs more than it brings
    console.rule("1. embedded data and a small model pair")
    medical = make_pair(folder, console)
    console.rule("2. search")
    os.environ["MEDCORE_DEMO"] = str(folder)
    config = load_config(Path(str(files("search") / "configs" / "demo.yaml")))
    resume = (config.folder / "config.yaml").is_file()
    study = config.folder
    if not search(config, resume=resume, command="medcore demo", say=console.print).complete:
        raise MedcoreError(f"the demo's search did not finish; `medcore demo --folder {folder}` goes on with it")
    result = front(str(study))
    console.print(front_table(result))
    picture = folder / "front.png"
    save_front_png(read_study(study), read_study_info(study)["objectives"], picture)
    console.rule("3. the knee of the front, exported")
    out = folder / "knee.safetensors"
    row = export(str(study), "knee", out)
    console.print(f"trial {row['trial_id']}, {100 * row['flops_paper_fraction']:.0f} % of the FLOPs -> {out}")
    console.print("on images that the search did not use:")
    held_out = [medical]
    dense, pruned = (
        commands.evaluate(checkpoint, held_out, "val/report", splits=config.output / "splits")
        for checkpoint in (folder / "medical.safetensors", out)
    )
    console.print(evaluation_table({"dense": dense, "exported": pruned}))
    console.print(
        f"front picture: {picture}\n"
        f"trials in MLflow: .venv/bin/mlflow ui --backend-store-uri sqlite:///{study}/mlflow.db\n"
        f"the front again: .venv/bin/medcore front {study}\n"
        "your own checkpoints and images: copy search/configs/polyps.yaml and run .venv/bin/medcore search MINE.yaml",
        soft_wrap=True,
    )
