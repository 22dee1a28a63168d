"""`medcore cost`: parameters and FLOPs of an architecture or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcore.errors import ConfigError
from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import load
from medcore.models.cost import cost as model_cost
from medcore.models.formats.content import is_checkpoint
from medcore.models.spec import ModelSpec
from search.study.inputs import cost_metrics

#: Names of these endings are of checkpoints also where there is no such file.
_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def cost(target: str, boxes: int = 1, architecture: str | None = None) -> dict[str, Any]:
    """Return the parameters and FLOPs of a model: of its encoder, of its decoder, and of a whole call.

    Args:
        target: Name of an architecture, its JSON file, or a checkpoint.
        boxes: Number of boxes of a call.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.

    Raises:
        MedcoreError: The number is not positive, nothing is known by this name, or the target is no checkpoint but has
            an architecture given.
    """
    if boxes < 1:
        raise ConfigError(f"cost: a call has at least one box, not {boxes}")
    path = Path(target)
    if is_checkpoint(path) or path.suffix in _ENDINGS:
        spec = load(path, architecture).spec
    elif architecture is not None:
        raise ConfigError(f"cost: {target} is an architecture itself; leave out --arch")
    else:
        spec = ModelSpec.dense(resolve_architecture(target))
    found = model_cost(spec)
    decoder = {"decoder_params": found.decoder_params, "decoder_flops": found.decoder_flops}
    call = {"boxes": boxes, "call_flops": found.flops_for(boxes)}
    return {"model": target, **cost_metrics(spec), **decoder, **call, **spec.budget}
