"""A study whose trials are real and cost a second at most: a tiny random model pair and generated images."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from medcore.models.checkpoint import save
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.synthetic.write import write_folder

_MODEL = SamVit(
    name="campaign",
    img_size=64,
    patch_size=8,
    embed_dim=24,
    depth=4,
    num_heads=3,
    mlp_ratio=2,
    out_chans=32,
    window_size=3,
    global_attn_indexes=(1, 3),
    decoder=DecoderSpec(depth=1, mlp_dim=32, num_heads=2, iou_head_depth=2, iou_head_hidden_dim=16),
)


def write_study(folder: Path, output: Path, trials: int, seed: int, concurrency: int | None) -> Path:
    """Checkpoints, images and a configuration in `folder`; returns the configuration's path.

    Studies go to `output` and share its score table, as all studies with one `output` do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("base", "adapted")):
        torch.manual_seed(number)
        save(folder / f"{name}.safetensors", build(ModelSpec.dense(_MODEL)))
    if not (folder / "polyps").is_dir():
        write_folder(folder / "polyps", "medical", 80, _MODEL.img_size, seed=3)
    config = {
        "study": "campaign",
        "output": str(output),
        "seed": seed,
        "model": {"base": str(folder / "base.safetensors"), "adapted": str(folder / "adapted.safetensors")},
        "data": {"folders": [str(folder / "polyps")], "calibration_per_dataset": 8},
        "recovery": {"steps": 40, "lr": 1e-3, "batch_size": 2},
        "search": {
            "trials": trials,
            "concurrency": concurrency,
            "scheduler": "halving",
            "space": {"fraction": {"low": 0.3, "high": 1.0, "log": True}},
            "warm_starts": {"knapsack": [0.6], "uniform": [0.5]},
        },
    }
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
