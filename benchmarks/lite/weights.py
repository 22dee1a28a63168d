"""Train a LiteMedSAM that segments a little, for machines without the real weights and without a GPU.

The encoder starts from seeded random weights, the decoder from the teacher's. Both train on small squares by Dice +
BCE, and the encoder's embeddings follow the teacher's. The teacher has patches of 16 pixels. It sees the images on a
square on which it has as many tokens as the encoder.

    OMP_NUM_THREADS=1 python -m benchmarks.lite.weights runs/lite/lite_medsam.safetensors \\
        --teacher $MEDCORE_SHARED/weights/medical.pth \\
        --folders $MEDCORE_SHARED/data/kvasir-seg $MEDCORE_SHARED/data/cvc-clinicdb
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcore.data.load import ImageSet, load_image_set
from medcore.losses import segmentation_loss
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load, save
from medcore.models.sam import MedSam, build
from medcore.models.sides.resized import at_side
from medcore.models.spec import Architecture, ModelSpec
from medcore.training.loop import RATE_FACTOR, AdamW, only_training, rate_factor, set_rate

#: Learning rates of the encoder and of the decoder, steps of linear rise, and images of a step.
RATES, WARMUP, BATCH = (1e-3, 1e-4), 20, 8
#: Side of the teacher's patches in pixels.
PATCH = 16


def fresh(arch: Architecture, teacher: MedSam, seed: int) -> MedSam:
    """Return a model with a random encoder and with the prompt encoder and decoder of another model."""
    torch.manual_seed(seed)
    model = build(ModelSpec.dense(arch))
    model.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    model.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    return model


@torch.no_grad()
def embeddings(teacher: MedSam, images: ImageSet) -> Tensor:
    """Return the teacher's embeddings of all images, (N, C, g, g)."""
    parts = np.split(np.arange(len(images)), range(BATCH, len(images), BATCH))
    return torch.cat([teacher.encode(images.tensor(part)) for part in parts])


def train(model: MedSam, images: ImageSet, wanted: Tensor, steps: int, seed: int) -> list[float]:
    """Train encoder and decoder in place, with normalisation by the batch, and return the loss of each step.

    Args:
        model: the model.
        images: images in its square.
        wanted: embeddings to follow, (N, C, g, g).
        steps: number of optimiser steps.
        seed: decides the order of the images.
    """
    order, scale = np.random.default_rng(seed), 1 / wanted.var()
    parts: Sequence[nn.Module] = (model.image_encoder, model.mask_decoder)
    groups = [
        {"params": part.parameters(), RATE_FACTOR: rate / RATES[0]} for part, rate in zip(parts, RATES, strict=True)
    ]
    losses, queue = [], np.zeros(0, dtype=np.intp)
    with only_training(model, parts) as parameters:
        optimizer = AdamW(groups, weight_decay=0.01)
        model.image_encoder.train()
        for step in range(steps):
            if len(queue) < BATCH:
                queue = np.concatenate([queue, order.permutation(len(images))])
            chosen, queue = queue[:BATCH], queue[BATCH:]
            found = model.encode(images.tensor(chosen))
            distance = scale * F.mse_loss(found, wanted[torch.from_numpy(chosen)])
            logits = model.decode(found, images.box_tensor(chosen))
            loss = segmentation_loss(logits, images.mask_tensor(chosen)) + distance
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            set_rate(optimizer, RATES[0] * rate_factor(step, steps, "cosine", WARMUP))
            optimizer.step()
            losses.append(float(loss.detach()))
    model.eval()
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--folders", type=Path, nargs="+", required=True)
    parser.add_argument("--side", type=int, default=56, help="of the square in training")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=200, help="training images of each folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    teacher = load(options.teacher)
    arch = ARCHITECTURES["lite_medsam"]
    model = at_side(fresh(arch, teacher, options.seed), options.side)
    teacher = at_side(teacher, model.arch.grid * PATCH)
    sets = [
        load_image_set(options.folders, "train", each.arch.frame, per_dataset=options.images, seed=options.seed)[0]
        for each in (teacher, model)
    ]
    losses = train(model, sets[1], embeddings(teacher, sets[0]), options.steps, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(options.out, at_side(model, arch.img_size), {"losses": json.dumps(losses)})


if __name__ == "__main__":
    main()
