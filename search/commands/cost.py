"""`medcore cost`: parameters and FLOPs of an architecture or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import load
from medcore.models.spec import ModelSpec
from search.study.inputs import cost_metrics


def cost(target: str) -> dict[str, Any]:
    """Return the parameters and both FLOPs figures of a model.

    Args:
        target: Name of an architecture, its JSON file, or a checkpoint.
    """
    path = Path(target)
    if path.suffix in (".pth", ".pt", ".safetensors"):
        spec = load(path).spec
    else:
        spec = ModelSpec.dense(resolve_architecture(target))
    return {"model": target, **cost_metrics(spec), **spec.budget}
