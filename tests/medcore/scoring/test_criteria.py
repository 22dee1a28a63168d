"""Score table and mixing against the formulas of method §4 written out directly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import group_flops
from medcore.models.masks import select
from medcore.models.spec import Architecture, EncoderSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity, head_alphas, mix
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import assemble, build_table, parts
from medcore.scoring.score_table import FORMAT, ScoreTable, table_key
from tests.medcore.scoring.test_fisher import PRUNED, brute_force, discs, seeded
from tests.support.helpers import TINY

NODES = (0.0, 3.0)


def random_table(arch: Architecture = TINY, datasets: int = 3, seed: int = 0) -> ScoreTable:
    """Positive quadratics: |b| stays below sqrt(a·c)."""
    generator = np.random.default_rng(seed)

    def terms(*shape: int) -> np.ndarray:
        a, c = generator.lognormal(size=(2, datasets, *shape))
        return np.stack([a, generator.uniform(-1, 1, a.shape) * np.sqrt(a * c), c], axis=1)

    nodes = (0.0, 1.0, 3.0, 10.0)
    return ScoreTable(
        datasets=tuple(f"set{number}" for number in range(datasets)),
        nodes=nodes,
        zero_heads=terms(arch.depth, arch.num_heads),
        zero_channels=terms(arch.depth, arch.mlp_dim),
        reset_heads=generator.lognormal(size=(datasets, len(nodes), arch.depth, arch.num_heads)),
        reset_channels=generator.lognormal(size=(datasets, len(nodes), arch.depth, arch.mlp_dim)),
        michel_heads=generator.lognormal(size=(datasets, len(nodes), arch.depth, arch.num_heads)),
        michel_channels=generator.lognormal(size=(datasets, len(nodes), arch.depth, arch.mlp_dim)),
        activation_heads=generator.lognormal(size=(datasets, arch.depth, arch.num_heads)),
        activation_channels=generator.lognormal(size=(datasets, arch.depth, arch.mlp_dim)),
        magnitude_heads=generator.lognormal(size=(arch.depth, arch.num_heads)),
        magnitude_channels=generator.lognormal(size=(arch.depth, arch.mlp_dim)),
        block_fisher=terms(arch.depth),
        meta={"note": "random"},
    )


def group_parameters(name: str, spec: EncoderSpec, block: int) -> np.ndarray | None:
    """Group number of every parameter of a tensor, in its shape; None outside the groups."""
    width, heads, channels = TINY.head_dim, spec.heads[block], spec.channels[block]
    head = np.repeat(np.arange(heads), width)
    return {
        "attn.qkv.weight": np.tile(head, 3)[:, None] + np.zeros((1, 24), dtype=int),
        "attn.qkv.bias": np.tile(head, 3),
        "attn.proj.weight": head[None, :] + np.zeros((24, 1), dtype=int),
        "mlp.lin1.weight": np.arange(channels)[:, None] + np.zeros((1, 24), dtype=int),
        "mlp.lin1.bias": np.arange(channels),
        "mlp.lin2.weight": np.arange(channels)[None, :] + np.zeros((24, 1), dtype=int),
    }.get(name)


def direct_scores(values: dict[str, torch.Tensor], spec: EncoderSpec) -> tuple[np.ndarray, np.ndarray]:
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


@pytest.mark.parametrize("spec", [EncoderSpec.dense(TINY), PRUNED], ids=["dense", "pruned"])
def test_table_agrees_with_direct_scoring(spec: EncoderSpec) -> None:
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
            for terms, expected in zip((table.zero_heads, table.zero_channels), zero, strict=True):
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
            np.testing.assert_allclose(table.reset_heads[row, node], reset[0], rtol=1e-5)
            np.testing.assert_allclose(table.reset_channels[row, node], reset[1], rtol=1e-5)


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
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(table, name), value)
    whole = build_table(base, adapted, images, NODES)
    np.testing.assert_allclose(whole.reset_channels, expected.reset_channels, rtol=1e-9)


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
    np.testing.assert_allclose(table.magnitude_heads, heads)
    np.testing.assert_allclose(table.magnitude_channels, channels)


def test_pruned_model_is_scored_in_its_own_widths() -> None:
    table = build_table(seeded(PRUNED, 1), seeded(PRUNED, 2), discs(2), NODES)
    scores = mix(table, ScoringWeights(), TINY)
    assert tuple(map(len, scores.heads)) == PRUNED.heads
    assert tuple(map(len, scores.channels)) == PRUNED.channels
    select(scores, EncoderSpec(TINY, (1, 0, 0, 1), (10, 7, 0, 2)))


def test_models_must_match() -> None:
    with pytest.raises(MedcoreError, match="differ in architecture or widths"):
        build_table(seeded(PRUNED, 1), seeded(EncoderSpec.dense(TINY), 1), discs(1))


@pytest.mark.parametrize("alpha", [(None, None), (0.25, None), (None, 1.0), (0.7, 0.0)])
def test_mix_follows_the_formula(alpha: tuple[float | None, float | None]) -> None:
    table = random_table()
    weights = ScoringWeights(*alpha, beta=0.4, mixture={"set0": 2, "set2": 6}, boundary_weight=3, tau=0.5)
    scores = mix(table, weights, TINY)
    shares = {0: 0.25, 1: 0.0, 2: 0.75}
    for family, given, flops in zip(("heads", "channels"), alpha, group_flops(TINY), strict=True):
        zero_terms, reset = getattr(table, f"zero_{family}"), getattr(table, f"reset_{family}")[:, 2]
        zero = zero_terms[:, 0] + 6 * zero_terms[:, 1] + 9 * zero_terms[:, 2]
        for block in range(4):
            by_head = table.zero_heads[:, 0] + 6 * table.zero_heads[:, 1] + 9 * table.zero_heads[:, 2]
            rho = np.corrcoef(by_head.mean(0)[block], table.reset_heads[:, 2].mean(0)[block])[0, 1]
            a = (1 + rho) / 2 if given is None else given
            for group in range(zero.shape[-1]):
                q = [a * zero[r, block, group] + (1 - a) * reset[r, block, group] for r in range(3)]
                expected = sum(shares[r] * q[r] for r in range(3)) + 0.4 * np.var(q)
                expected /= flops[block] ** 0.5
                assert getattr(scores, family)[block][group] == pytest.approx(expected, rel=1e-9)


def test_baseline_criteria_are_columns_of_the_table() -> None:
    table = random_table()
    mixture = {"set0": 2, "set2": 6}

    def heads(criterion: str, **more: float) -> np.ndarray:
        weights = ScoringWeights(criterion=criterion, mixture=mixture, boundary_weight=3, **more)  # type: ignore[arg-type]
        return np.stack(mix(table, weights, TINY).heads)

    def mixed(values: np.ndarray) -> np.ndarray:
        return 0.25 * values[0] + 0.75 * values[2]

    np.testing.assert_allclose(heads("fisher"), mixed(table.zero_heads[:, 0]))
    np.testing.assert_allclose(heads("michel"), mixed(table.michel_heads[:, 2]))
    np.testing.assert_allclose(heads("activation"), mixed(table.activation_heads))
    np.testing.assert_allclose(heads("magnitude"), table.magnitude_heads)
    assert (heads("random", seed=1) == heads("random", seed=1)).all()
    assert (heads("random", seed=1) != heads("random", seed=2)).any()
    own, other = heads("medcore"), heads("michel")
    expected = 0.7 * own / own.mean(axis=1, keepdims=True) + 0.3 * other / other.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(heads("michel", blend=0.3), expected)
    np.testing.assert_allclose(heads("michel", blend=0), own)
    np.testing.assert_allclose(
        heads("magnitude", tau=1), table.magnitude_heads / np.asarray(group_flops(TINY)[0])[:, None]
    )


def test_constant_scores_are_taken_as_agreeing() -> None:
    table = random_table()
    flat = replace(table, reset_heads=np.full_like(table.reset_heads, 1e-40))
    assert head_alphas(flat, ScoringWeights()).tolist() == [1.0] * 4
    single = replace(table, spec=EncoderSpec(TINY, (1,) * 4, (48,) * 4))
    assert head_alphas(single, ScoringWeights()).tolist() == [1.0] * 4


def test_tiny_scores_correlate_like_large_ones() -> None:
    table = random_table()
    tiny = replace(table, zero_heads=table.zero_heads * 1e-200, reset_heads=table.reset_heads * 1e-180)
    np.testing.assert_allclose(head_alphas(tiny, ScoringWeights()), head_alphas(table, ScoringWeights()))


def test_boundary_weight_off_the_nodes() -> None:
    table = random_table()
    with pytest.raises(MedcoreError, match="boundary weight 2 is not in the table; its nodes are 0, 1, 3, 10"):
        mix(table, ScoringWeights(boundary_weight=2), TINY)
    # without reset scores any weight will do: Fisher pruning is α = 1
    scores = mix(table, ScoringWeights(1, 1, beta=0, boundary_weight=2), TINY)
    quadratic = table.zero_heads[:, 0] + 4 * table.zero_heads[:, 1] + 4 * table.zero_heads[:, 2]
    np.testing.assert_allclose(np.stack(scores.heads), quadratic.mean(axis=0))


def test_bad_weights_are_refused() -> None:
    table = random_table()
    with pytest.raises(MedcoreError, match="mixture names kvasir; the score table knows set0, set1, set2"):
        mix(table, ScoringWeights(mixture={"kvasir": 1.0}), TINY)
    with pytest.raises(MedcoreError, match="not all 0"):
        mix(table, ScoringWeights(mixture={"set0": 0.0}), TINY)
    with pytest.raises(MedcoreError, match="alpha_heads must lie in"):
        ScoringWeights(alpha_heads=1.5)
    with pytest.raises(MedcoreError, match="beta must be finite"):
        ScoringWeights(beta=float("nan"))
    with pytest.raises(MedcoreError, match="unknown criterion 'size'; known are medcore, fisher"):
        ScoringWeights(criterion="size")
    with pytest.raises(MedcoreError, match="blend must lie"):
        ScoringWeights(blend=1.5)
    with pytest.raises(MedcoreError, match="vit_b"):
        mix(table, ScoringWeights(), ARCHITECTURES["vit_b"])


def test_block_sensitivity_is_quadratic_and_mixed() -> None:
    table = random_table()
    a, b, c = (table.block_fisher[1, term] for term in range(3))
    sensitivity = block_sensitivity(table, ScoringWeights(mixture={"set1": 3}, boundary_weight=2.5))
    np.testing.assert_allclose(sensitivity, a + 5 * b + 6.25 * c)


def test_table_survives_the_disk(tmp_path: Path) -> None:
    table = replace(random_table(), spec=PRUNED)
    path = tmp_path / "new" / "scores.safetensors"
    table.save(path)
    loaded = ScoreTable.load(path)
    assert (loaded.datasets, loaded.nodes, loaded.meta) == (table.datasets, table.nodes, table.meta)
    assert loaded.spec == PRUNED
    for name in (
        "zero_heads",
        "reset_channels",
        "michel_heads",
        "activation_channels",
        "magnitude_heads",
        "block_fisher",
    ):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
    assert [each.name for each in path.parent.iterdir()] == ["scores.safetensors"]


def test_broken_tables_are_named(tmp_path: Path) -> None:
    table = random_table()
    path = tmp_path / "scores.safetensors"
    with pytest.raises(MedcoreError, match="no such score table"):
        ScoreTable.load(path)
    path.write_bytes(b"not a table")
    with pytest.raises(MedcoreError, match="not a readable score table"):
        ScoreTable.load(path)
    replace(table, reset_heads=table.reset_heads[:, :2]).save(path)
    with pytest.raises(MedcoreError, match="reset_heads has shape"):
        ScoreTable.load(path)
    replace(table, block_fisher=table.block_fisher * np.nan).save(path)
    with pytest.raises(MedcoreError, match="block_fisher holds values that are not finite"):
        ScoreTable.load(path)
    arrays = {name: value for name, value in vars(table).items() if isinstance(value, np.ndarray)}
    save_file(arrays, path, metadata={"format": FORMAT, "table": "{}"})
    with pytest.raises(MedcoreError, match="header is damaged"):
        ScoreTable.load(path)
    save_file(arrays, path, metadata={"format": "other"})
    with pytest.raises(MedcoreError, match="not a score table of format"):
        ScoreTable.load(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot write the score table"):
        table.save(tmp_path / "file" / "scores.safetensors")


@pytest.mark.parametrize("name", ["zero_heads", "zero_channels", "block_fisher"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_arrays_with_other_axes_are_named(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    table, path = random_table(), tmp_path / "scores.safetensors"
    arrays = {key: value for key, value in vars(table).items() if isinstance(value, np.ndarray)}
    header = {"datasets": table.datasets, "nodes": table.nodes, "meta": {}, "spec": None}
    save_file(arrays | {name: np.ones(shape)}, path, metadata={"format": FORMAT, "table": json.dumps(header)})
    with pytest.raises(MedcoreError, match=f"{name}.* ha(s|ve) shape"):
        ScoreTable.load(path)


@pytest.mark.parametrize("other", [{"mlp_ratio": 3.0}, {"depth": 5}])
def test_a_table_narrower_than_its_spec_is_refused(other: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    replace(random_table(), spec=EncoderSpec.dense(replace(TINY, **other))).save(path)
    with pytest.raises(MedcoreError, match=r"has shape .*, expected .*; score again"):
        ScoreTable.load(path)


def test_key_depends_on_content_not_on_order() -> None:
    key = table_key(weights="abc", nodes=(0, 3), split={"a": 1, "b": 2})
    assert key == table_key(split={"b": 2, "a": 1}, nodes=[0, 3], weights="abc")
    assert key != table_key(weights="abc", nodes=(0, 1), split={"a": 1, "b": 2})
    assert len(table_key(path=Path("x"), arch=TINY, count=np.int64(3))) == 64
    with pytest.raises(TypeError):
        table_key(what=object())
