"""The paper's rule brought to a FLOPs target, so that it can stand beside budgets of the same cost (method §5)."""

from __future__ import annotations

from collections.abc import Collection

from medcore.budgets.rule import MIN_CHANNEL_SHARE, MIN_HEADS, channels_of, rule
from medcore.budgets.targets import Floats, Metric, check_blocks, group_costs
from medcore.errors import MedcoreError
from medcore.models.spec import Architecture, EncoderSpec

#: Head sparsity per MLP sparsity in the paper's two operating points, 0.5/0.7 and 0.84/0.95 (0.71 and 0.88).
HEAD_TO_MLP = 0.5 / 0.7


def rule_to_target(
    arch: Architecture,
    fraction: float,
    sensitivity: Floats,
    metric: Metric = "flops_paper",
    protected: Collection[int] | None = None,
) -> EncoderSpec:
    """The rule at an MLP sparsity whose cost is at most, and close to, `fraction` of the dense encoder's.

    The head sparsity follows in the paper's proportion until it cannot grow; the last two blocks are protected unless
    `protected` says otherwise. Where protection makes the target unreachable, it is given up, as the paper's second
    stage does.

    A slightly lower sparsity may meet the target too: one more group to remove can make the rounded quotas move others
    between blocks where they cost more or less, so the cost does not fall strictly with the sparsity.

    Args:
        fraction: of the dense encoder's `metric`, in (0, 1]. sensitivity: (L,) s_b of the blocks.

    Raises:
        MedcoreError: the rule's minima (`MIN_HEADS`, `MIN_CHANNEL_SHARE`) cost more than the target, or `protected`
            names a block that does not exist.
    """
    if protected is None:
        attempts = [tuple(range(max(0, arch.depth - 2), arch.depth)), ()]
    else:
        attempts = [check_blocks(arch, protected, "protected")]
    for blocks in attempts:
        spec = _bisected(arch, fraction, sensitivity, metric, blocks)
        if spec is not None:
            return spec
    raise MedcoreError(
        f"budget: the rule cannot reach a {metric} fraction of {fraction:g} with {MIN_HEADS} head and "
        f"{100 * MIN_CHANNEL_SHARE:g} % of the channels kept in each block; ask for a larger fraction or use another "
        "allocator"
    )


def _bisected(
    arch: Architecture, fraction: float, sensitivity: Floats, metric: Metric, protected: tuple[int, ...]
) -> EncoderSpec | None:
    """Bisection over the MLP sparsity, in steps of one channel; None if even the highest misses the target."""
    blocks = arch.depth - len(protected)
    most_heads = blocks * (arch.num_heads - MIN_HEADS) / (arch.depth * arch.num_heads)
    most_channels = blocks * (arch.mlp_dim - channels_of(arch, MIN_CHANNEL_SHARE))
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
