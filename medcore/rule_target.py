"""The paper's rule brought to a FLOPs target, so that it can stand beside budgets of the same cost (method §5)."""

from __future__ import annotations

from collections.abc import Collection

from medcore.budgets import rule
from medcore.errors import MedcoreError
from medcore.spec import Architecture, EncoderSpec
from medcore.targets import Floats, Metric, group_costs

#: Head sparsity per MLP sparsity in the paper's two operating points, 0.5/0.7 and 0.84/0.95 (0.71 and 0.88).
HEAD_TO_MLP = 0.5 / 0.7


def rule_to_target(
    arch: Architecture,
    fraction: float,
    sensitivity: Floats,
    metric: Metric = "flops_paper",
    protected: Collection[int] | None = None,
) -> EncoderSpec:
    """The rule at the least MLP sparsity whose cost is at most `fraction` of the dense encoder's.

    The head sparsity follows in the paper's proportion until it cannot grow; the last two blocks are protected unless
    `protected` says otherwise. Where protection makes the target unreachable, it is given up, as the paper's second
    stage does.

    Args:
        fraction: of the dense encoder's `metric`, in (0, 1]. sensitivity: (L,) s_b of the blocks.

    Raises:
        MedcoreError: the rule's minima (one head, 5 % of channels in each block) cost more than the target.
    """
    first = range(arch.depth - 2, arch.depth) if protected is None else protected
    attempts = [tuple(first), ()] if protected is None else [tuple(first)]
    for blocks in attempts:
        spec = _sparsest_needed(arch, fraction, sensitivity, metric, blocks)
        if spec is not None:
            return spec
    raise MedcoreError(
        f"budget: the rule cannot reach a {metric} fraction of {fraction:g} with at least one head and 5 % of the "
        "channels in each block; ask for a larger fraction or use another allocator"
    )


def _sparsest_needed(
    arch: Architecture, fraction: float, sensitivity: Floats, metric: Metric, protected: tuple[int, ...]
) -> EncoderSpec | None:
    """Bisection over the MLP sparsity, in steps of one channel; None if even the highest misses the target."""
    blocks = arch.depth - len(protected)
    most_heads = blocks * (arch.num_heads - 1) / (arch.depth * arch.num_heads)
    kept_channels = int(0.05 * arch.mlp_dim + 1e-9)
    most_channels = blocks * (arch.mlp_dim - kept_channels)
    total = arch.depth * arch.mlp_dim

    def at(removed: int) -> EncoderSpec:
        # past the point where the MLP can give no more, heads alone go on to their own limit
        sparsity = min(removed, most_channels) / total
        heads = min(removed / total * HEAD_TO_MLP, most_heads)
        return rule(arch, heads, sparsity, sensitivity, protected=protected)

    low, high = 0, int(max(most_channels, most_heads / HEAD_TO_MLP * total))
    if _fraction(at(high), metric) > fraction:
        return None
    while low < high:
        middle = (low + high) // 2
        if _fraction(at(middle), metric) <= fraction:
            high = middle
        else:
            low = middle + 1
    return at(low)


def _fraction(spec: EncoderSpec, metric: Metric) -> float:
    costs = group_costs(spec.arch, metric)
    return float(costs.fixed + costs.heads @ spec.heads + costs.channels @ spec.channels) / costs.dense
