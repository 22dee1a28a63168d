"""A study whose trials and images are real files, for exports that measure held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medcore.data.load import load_image_set
from medcore.models.checkpoint import load, save
from medcore.models.sam import build
from medcore.quality.evaluate import evaluate, summarise
from results.store.trials import compact, write_images
from search.base.config import load_config
from search.study.inputs import cost_metrics
from tests.support.helpers import TINY, spec_of
from tests.support.studies.rows import write_row, write_study
from tests.support.studies.study_files import write_tiny_study

#: A program that fine-tunes trial t0001 of a study and dies after its first epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
from search.commands.export import ExportRequest, export
def say(text):
    if text.startswith("epoch 2"):
        os.kill(os.getpid(), signal.SIGKILL)
export(ExportRequest(sys.argv[1], Path(sys.argv[2]), select="trial:t0001", finetune=True, held_out=False), say)
"""


def write_study_of_files(place: Path, finetune: dict[str, Any]) -> None:
    """Writes a study of two random models under `place/runs/tiny`, as a search leaves it."""
    config = load_config(write_tiny_study(place, finetune=finetune))
    study = config.folder
    images, _ = load_image_set(config.data.folders, "val/search", TINY.img_size, save_splits=config.output / "splits")
    dense = load(config.model.adapted)
    objectives = [{"name": "flops", "direction": "min"}, {"name": "boundary_f1", "direction": "max"}]
    metrics = summarise(evaluate(dense, images)) | cost_metrics(dense.spec)
    reference = {"flops": 1.01 * metrics["flops"], "boundary_f1": 0.0}
    widths = {"heads": TINY.num_heads, "channels": TINY.mlp_dim}
    info = {"name": "tiny", "objectives": objectives, "dense": metrics, "reference": reference, "widths": widths}
    write_study(study, info)
    (study / "config.yaml").write_text(config.to_yaml())
    for number in range(2):
        trial_id = f"t{number:04}"
        torch.manual_seed(10 + number)
        spec = spec_of(TINY, (2, 0, 3, 1), (8 + number,) * TINY.depth)
        model, file = build(spec), f"trials/{trial_id}/model.safetensors"
        save(study / file, model)
        rows = evaluate(model, images)
        row = {"trial_id": trial_id, "number": number, "status": "done", "origin": "sampled", "checkpoint": file}
        row |= {**spec.budget, "finished": f"2026-01-01T00:00:0{number}"}
        write_images(study, trial_id, rows)
        write_row(study, row | summarise(rows) | cost_metrics(spec))
    compact(study)
