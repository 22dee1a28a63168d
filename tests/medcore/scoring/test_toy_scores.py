"""Scores of an architecture with a convolution, running statistics, and whole blocks as groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medcore.errors import MedcoreError
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import CRITERIA, ScoringWeights, adaptive_alphas, block_sensitivity, mix
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import build_table
from medcore.scoring.profile import Profile
from medcore.scoring.score_table import ScoreTable, families_of
from medcore.scoring.sums import CalibrationSums
from tests.support.helpers import TINY
from tests.support.scoring_samples import brute_force, discs, score_loss_of, seeded
from tests.support.toy.samples import DENSE, PLACES, TOY, direct_sums

NODES = (0.0, 3.0)
#: Block 2 is gone, block 3 has no heads, block 1 no channels.
PRUNED = ModelSpec(TOY, (1, 0, 1, 2, 0, 0, 7, 0, 0, 16))
SPECS = pytest.mark.parametrize("spec", [DENSE, PRUNED], ids=["dense", "pruned"])


def whole_names(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names in the encoder -> names in the model."""
    return {f"image_encoder.{name}": value.detach() for name, value in values.items()}


def rows_of(table: ScoreTable, statistic: str) -> list[np.ndarray]:
    """(…, G) of every site in its own width."""
    rows = []
    for family in TOY.families:
        array = table.array(statistic, family.name)
        rows += [array[..., row, :width] for row, width in enumerate(table.widths(family.name))]
    return rows


@SPECS
def test_table_agrees_with_direct_scoring(spec: ModelSpec) -> None:
    base, adapted = seeded(spec, 1), seeded(spec, 2)
    images = discs(4, datasets=("one", "two"))
    table = build_table(base, adapted, images, NODES)
    assert table.families == families_of(spec)
    assert table.families["stem"].blocks == (0,) and table.families["hidden"].blocks == (1, 2, 3)
    start, end = (dict(model.image_encoder.named_parameters()) for model in (base, adapted))
    for row, indices in enumerate(([0, 2], [1, 3])):
        for w in (*NODES, 2.2):
            fisher = brute_force(adapted, images, indices, w)
            zero = direct_sums(whole_names({name: 0.5 * f * end[name] ** 2 for name, f in fisher.items()}), spec)
            for terms, expected in zip(rows_of(table, "zero"), zero, strict=True):
                quadratic = terms[row, 0] + 2 * w * terms[row, 1] + w**2 * terms[row, 2]
                np.testing.assert_allclose(quadratic, expected, rtol=1e-5, atol=1e-14)
            per_block = [
                sum(float(value.sum()) for name, value in whole_names(fisher).items() if name.startswith(block.path))
                for block in TOY.blocks
            ]
            name = table.datasets[row]
            sensitivity = block_sensitivity(table, ScoringWeights(mixture={name: 1.0}, boundary_weight=w))
            np.testing.assert_allclose(sensitivity, per_block, rtol=1e-5)
            if w not in NODES:
                continue
            general = brute_force(base, images, [0, 1, 2, 3], w)
            change = {name: (end[name] - start[name]) ** 2 for name in fisher}
            reset = {name: 0.5 * torch.sqrt(f * general[name] + 1e-30) * change[name] for name, f in fisher.items()}
            pairs = zip(rows_of(table, "reset"), direct_sums(whole_names(reset), spec), strict=True)
            for values, expected in pairs:
                np.testing.assert_allclose(values[row, NODES.index(w)], expected, rtol=1e-5, atol=1e-14)
    squares = direct_sums(whole_names({name: value**2 for name, value in end.items()}), spec)
    for values, expected in zip(rows_of(table, "magnitude"), squares, strict=True):
        np.testing.assert_allclose(values, expected)


GATES = {
    "toy_heads/01": ("blocks.0.proj.weight", slice(6, 12), 1),
    "hidden/03": ("blocks.2.lin2.weight", slice(5, 6), 5),
    "stem/00": ("stem.conv2.weight", slice(4, 5), 4),
}


@pytest.mark.parametrize("name", [*GATES, "blocks/01", "blocks/03"])
@SPECS
def test_gate_gradients_are_the_change_of_the_loss_with_a_gate(spec: ModelSpec, name: str) -> None:
    """Central differences: a gate scales what carries the group's output."""
    model, images, w, step = seeded(spec, 3), discs(2), 2.0, 1e-4
    sums = calibration_sums(model, images, range(2), nodes=(0.0, w))

    def scale(factor: float) -> None:
        with torch.no_grad():
            if name in GATES:
                tensor, columns, _ = GATES[name]
                model.image_encoder.get_parameter(tensor)[:, columns] *= factor
            else:
                block = model.image_encoder.blocks[int(name[-2:]) - 1]
                for tensor in (block.proj.weight, block.proj.bias, block.lin2.weight, block.lin2.bias):
                    tensor *= factor

    expected = 0.0
    for index in range(2):
        losses = []
        for factor in (1 + step, 1 - step):
            scale(factor)
            losses.append(score_loss_of(model, images, index, w))
            scale(1 / factor)
        expected += abs(losses[0] - losses[1]) / (2 * step)
    group = GATES[name][2] if name in GATES else 0
    assert float(sums.gates[PLACES[name]][1, group]) == pytest.approx(expected, rel=1e-4)


def seen_by(model: MedSam, module: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Input and output of a module of the encoder for each image."""
    seen: list[tuple[Tensor, Tensor]] = []
    found = model.image_encoder.get_submodule(module)
    handle = found.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        for index in range(count):
            model.encode(discs(count).tensor([index]).double())
    handle.remove()
    return seen


@SPECS
def test_activations_against_a_forward_pass_by_hand(spec: ModelSpec) -> None:
    model = seeded(spec, 4)
    sums = calibration_sums(model, discs(2), range(2))
    assert tuple(map(len, sums.active)) == spec.widths
    # channels of a convolution lie on axis 1
    expected = sum(inside.abs().mean(dim=(0, 2, 3)) for inside, _ in seen_by(model, "stem.conv2", 2))
    torch.testing.assert_close(sums.active[PLACES["stem/00"]], expected)
    heads = [inside.unflatten(-1, (-1, 6)) for inside, _ in seen_by(model, "blocks.0.proj", 2)]
    expected = sum(values.square().sum(dim=-1).sqrt().mean(dim=(0, 1)) for values in heads)
    torch.testing.assert_close(sums.active[PLACES["toy_heads/01"]], expected)
    # what a block adds to each token
    added = sum(
        (output - inside).square().sum(dim=-1).sqrt().mean() for inside, output in seen_by(model, "blocks.2", 2)
    )
    torch.testing.assert_close(sums.active[PLACES["blocks/03"]], added.reshape(1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@SPECS
def test_sums_add_up_and_survive_the_disk(spec: ModelSpec, tmp_path: Path) -> None:
    model, images, path = seeded(spec, 1), discs(4), tmp_path / "shard.safetensors"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = calibration_sums(model, images, range(4), nodes=NODES)
    halves = [calibration_sums(model, images, indices, nodes=NODES) for indices in ([0, 1], [2, 3])]
    halves[1].save(path)
    halves[0].add(CalibrationSums.load(path, spec))
    assert halves[0].used == 4
    for one, other in zip(halves[0].parameters, whole.parameters, strict=True):
        torch.testing.assert_close(one, other)
    for name in ("others", "gates", "active"):
        torch.testing.assert_close(getattr(halves[0], name), getattr(whole, name))
    # scoring leaves running statistics alone
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(MedcoreError, match="damaged partial scores"):
        CalibrationSums.load(path, ModelSpec.dense(TINY))


@pytest.fixture(scope="module", params=[DENSE, PRUNED], ids=["dense", "pruned"])
def table(request: pytest.FixtureRequest) -> ScoreTable:
    """The adapted model has a dead group at every site that has several, and a dead block."""
    spec = request.param
    base, adapted = seeded(spec, 1), seeded(spec, 2)
    state = adapted.state_dict()
    with torch.no_grad():
        for site, width in zip(TOY.sites, spec.widths, strict=True):
            if width > 1 or (site.name == "blocks/03"):
                for part in site.tensors:
                    if part.name.endswith(("running_mean", "running_var")):
                        continue
                    if part.axis is None:
                        state[part.name].zero_()
                    else:
                        # the last group
                        length = state[part.name].shape[part.axis]
                        state[part.name].narrow(part.axis, length - part.inner, part.inner).zero_()
    made = build_table(base, adapted, discs(4, datasets=("one", "two")), NODES)
    orders = tuple(np.arange(width)[::-1] for width in spec.widths)
    curves = tuple(np.arange(width, -1.0, -1.0) for width in spec.widths)
    return replace(made, profile=Profile(orders, curves))


@pytest.mark.parametrize("criterion", CRITERIA.names())
@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("blend", [0.4, 1.0])
def test_every_criterion_is_finite_and_selects(table: ScoreTable, criterion: str, tau: float, blend: float) -> None:
    weights = ScoringWeights(criterion=criterion, tau=tau, blend=blend, boundary_weight=3.0)
    scores = mix(table, weights, TOY)
    widths = tuple(width for family in TOY.families for width in table.widths(family.name))
    assert tuple(map(len, scores)) == widths
    assert all(np.isfinite(values).all() for values in scores)
    assert all((values >= 0).all() for values in scores)
    less = ModelSpec(TOY, tuple(width // 2 if width > 1 else width for width in widths))
    assert tuple(int(mask.sum()) for mask in select(scores, less)) == less.widths


@pytest.mark.parametrize("criterion", ["medcore", "fisher", "michel", "activation", "magnitude"])
def test_dead_groups_come_last(table: ScoreTable, criterion: str) -> None:
    weights = ScoringWeights(dict.fromkeys(table.families, 1.0), criterion=criterion, boundary_weight=3.0)
    scores = mix(table, weights, TOY)
    for site, values in zip(TOY.sites, scores, strict=True):
        # block 3 is dead, so all within it is
        if len(values) > 1 and site.block != 3:
            assert values[-1] == values.min() < values[0], site.name
    alive, dead = scores[PLACES["blocks/01"]][0], scores[PLACES["blocks/03"]][0]
    assert dead == 0 < alive


def test_adaptive_alphas_come_from_the_first_family_with_several_groups() -> None:
    spec = DENSE
    scores = build_table(seeded(spec, 1), seeded(spec, 2), discs(4, datasets=("one", "two")), NODES)
    alphas = adaptive_alphas(scores, ScoringWeights(boundary_weight=3.0))
    zero, reset = rows_of(scores, "zero"), rows_of(scores, "reset")
    for block, name in enumerate(("stem/00", "toy_heads/01", "toy_heads/02", "toy_heads/03")):
        terms = zero[PLACES[name]]
        quadratic = (terms[:, 0] + 6 * terms[:, 1] + 9 * terms[:, 2]).mean(axis=0)
        rho = np.corrcoef(quadratic, reset[PLACES[name]][:, 1].mean(axis=0))[0, 1]
        assert alphas[block] == pytest.approx((1 + rho) / 2)
    with pytest.raises(MedcoreError, match="not those of tiny"):
        mix(scores, ScoringWeights(), TINY)


def test_a_table_survives_the_disk(table: ScoreTable, tmp_path: Path) -> None:
    table.save(tmp_path / "scores.safetensors")
    loaded = ScoreTable.load(tmp_path / "scores.safetensors")
    assert loaded.families == table.families and loaded.meta == table.meta
    for one, other in zip(mix(loaded, ScoringWeights(), TOY), mix(table, ScoringWeights(), TOY), strict=True):
        np.testing.assert_array_equal(one, other)
