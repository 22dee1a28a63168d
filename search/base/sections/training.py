"""Sections `adapt` and `finetune`: trainings at full length."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from search.base.sections.fields import NotNegative, PathField, Section

Workers = Annotated[
    int,
    Field(ge=1, description="processes that share each batch, with a GPU (or a CPU core) each; 1: train without Ray"),
]


class AdaptConfig(Section):
    """Fine-tuning of the general checkpoint, or of any other, by `medcore adapt` (method §6)."""

    start: PathField | None = Field(None, description="checkpoint to train, dense or pruned; null: model.base")
    out: PathField = Path("runs/adapted.safetensors")
    train_split: str = "train"
    val_split: str = "val/search"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-4, gt=0)
    patience: int = Field(5, ge=1, description="epochs without a better validation loss before the training ends")
    autocast: bool = Field(False, description="train in bfloat16")
    workers: Workers = 1


class FinetuneConfig(Section):
    """Full-length training by `medcore export --finetune`.

    It trains the chosen model and ends early by the loss on the search split.
    """

    train_split: str = "train"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-4, gt=0)
    weight_decay: NotNegative = 0.01
    patience: int = Field(5, ge=0, description="epochs without a better loss on the search split; 0: never end early")
    horizontal_flip: bool = Field(False, description="mirror half of the images")
    vertical_flip: bool = Field(False, description="turn half of the images upside down")
    autocast: bool = Field(False, description="train in bfloat16; the metrics are always computed in float32")
    workers: Workers = 1
