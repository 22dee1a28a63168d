"""The scoring job against the formulas of method §4 written out directly."""

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.masks import select
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import assemble, build_table, parts
from tests.support.helpers import TINY, spec_of
from tests.support.scoring_samples import PRUNED, arrays_of, brute_force, discs, seeded

NODES = (0.0, 3.0)


def group_parameters(name: str, spec: ModelSpec, block: int) -> np.ndarray | None:
    """Group number of every parameter of a tensor, in its shape; None outside the groups."""
    width, heads, channels = TINY.head_dim, spec.family("heads")[block], spec.family("channels")[block]
    head = np.repeat(np.arange(heads), width)
    return {
        "attn.qkv.weight": np.tile(head, 3)[:, None] + np.zeros((1, 24), dtype=int),
        "attn.qkv.bias": np.tile(head, 3),
        "attn.proj.weight": head[None, :] + np.zeros((24, 1), dtype=int),
        "mlp.lin1.weight": np.arange(channels)[:, None] + np.zeros((1, 24), dtype=int),
        "mlp.lin1.bias": np.arange(channels),
        "mlp.lin2.weight": np.arange(channels)[None, :] + np.zeros((24, 1), dtype=int),
    }.get(name)


def direct_scores(values: dict[str, torch.Tensor], spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Sum a per-parameter quantity over the groups of all blocks, by index."""
    heads, channels = np.zeros((4, 3)), np.zeros((4, 48))
    for name, value in values.items():
        if name.startswith("blocks."):
            _, block, inside = name.split(".", 2)
            groups = group_parameters(inside, spec, int(block))
            if groups is not None:
                target = heads if inside.startswith("attn") else channels
                np.add.at(target[int(block)], groups, value.detach().double().numpy())
    return heads, channels


@pytest.mark.parametrize("spec", [ModelSpec.dense(TINY), PRUNED], ids=["dense", "pruned"])
def test_table_agrees_with_direct_scoring(spec: ModelSpec) -> None:
    base, adapted = seeded(spec, 1), seeded(spec, 2)
    images = discs(4, datasets=("one", "two"))
    calls: list[tuple[int, int]] = []
    table = build_table(base, adapted, images, NODES, lambda done, total: calls.append((done, total)))
    assert calls == [(number + 1, 8) for number in range(8)]
    assert table.datasets == ("one", "two") and table.meta["images"] == {"one": 2, "two": 2}
    start = dict(base.image_encoder.named_parameters())
    end = dict(adapted.image_encoder.named_parameters())
    for row, indices in enumerate(([0, 2], [1, 3])):
        for w in (*NODES, 2.2):
            fisher = brute_force(adapted, images, indices, w)
            zero = direct_scores({name: 0.5 * f * end[name] ** 2 for name, f in fisher.items()}, spec)
            for family, expected in zip(("heads", "channels"), zero, strict=True):
                terms = table.array("zero", family)
                quadratic = terms[row, 0] + 2 * w * terms[row, 1] + w**2 * terms[row, 2]
                np.testing.assert_allclose(quadratic, expected, rtol=1e-5)
            if w not in NODES:
                continue
            general = brute_force(base, images, [0, 1, 2, 3], w)
            change = {name: (end[name] - start[name]) ** 2 for name in fisher}
            reset = direct_scores(
                {name: 0.5 * torch.sqrt(f * general[name] + 1e-30) * change[name] for name, f in fisher.items()},
                spec,
            )
            node = NODES.index(w)
            np.testing.assert_allclose(table.array("reset", "heads")[row, node], reset[0], rtol=1e-5)
            np.testing.assert_allclose(table.array("reset", "channels")[row, node], reset[1], rtol=1e-5)


def test_parts_give_the_same_bits_whoever_computes_them() -> None:
    base, adapted, images = seeded(PRUNED, 1), seeded(PRUNED, 2), discs(7, datasets=("one", "two"))
    plan = parts(images, size=2)
    assert [(part.dataset, part.number, part.indices) for part in plan[3:6]] == [
        (None, 3, (6,)), ("one", 0, (0, 2)), ("one", 1, (4, 6)),
    ]  # fmt: skip
    expected = build_table(base, adapted, images, NODES, part_size=2)
    shuffled = {
        part: calibration_sums(base if part.dataset is None else adapted, images, part.indices, NODES)
        for part in reversed(plan)
    }
    table = assemble(base, adapted, plan, NODES, lambda part: shuffled[part])
    assert (table.datasets, table.nodes, table.families, table.meta) == (
        *(expected.datasets, expected.nodes, expected.families, expected.meta),
    )
    assert table.arrays.keys() == expected.arrays.keys()
    for name, value in arrays_of(expected).items():
        np.testing.assert_array_equal(arrays_of(table)[name], value)
    whole = build_table(base, adapted, images, NODES)
    np.testing.assert_allclose(whole.array("reset", "channels"), expected.array("reset", "channels"), rtol=1e-9)


def test_nothing_finite_is_an_error() -> None:
    images = discs(2)
    images.boxes[:] = np.nan
    with pytest.raises(MedcoreError, match=r"none of 2 images has finite gradients \(first: disc0\)"):
        build_table(seeded(PRUNED, 1), seeded(PRUNED, 2), images, NODES)


def test_magnitude_is_the_sum_of_squares_of_a_group() -> None:
    base, adapted = seeded(PRUNED, 1), seeded(PRUNED, 2)
    table = build_table(base, adapted, discs(1), NODES)
    squares = {name: value**2 for name, value in adapted.image_encoder.named_parameters()}
    heads, channels = direct_scores(squares, PRUNED)
    np.testing.assert_allclose(table.array("magnitude", "heads"), heads)
    np.testing.assert_allclose(table.array("magnitude", "channels"), channels)


def test_pruned_model_is_scored_in_its_own_widths() -> None:
    table = build_table(seeded(PRUNED, 1), seeded(PRUNED, 2), discs(2), NODES)
    scores = mix(table, ScoringWeights(), TINY)
    assert tuple(map(len, scores)) == PRUNED.widths
    select(scores, spec_of(TINY, (1, 0, 0, 1), (10, 7, 0, 2)))


def test_models_must_match() -> None:
    with pytest.raises(MedcoreError, match="differ in architecture or widths"):
        build_table(seeded(PRUNED, 1), seeded(ModelSpec.dense(TINY), 1), discs(1))
