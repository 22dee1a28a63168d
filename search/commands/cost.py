"""`medcore cost`: parameters and FLOPs of an architecture or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import load
from medcore.models.formats.content import is_checkpoint
from medcore.models.spec import ModelSpec
from search.study.inputs import cost_metrics

#: Names of these endings are of checkpoints also where there is no such file.
_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def cost(target: str) -> dict[str, Any]:
    """Return the parameters and both FLOPs figures of a model.

    Args:
        target: Name of an architecture, its JSON file, or a checkpoint.
    """
    path = Path(target)
    if is_checkpoint(path) or path.suffix in _ENDINGS:
        spec = load(path).spec
    else:
        spec = ModelSpec.dense(resolve_architecture(target))
    return {"model": target, **cost_metrics(spec), **spec.budget}
