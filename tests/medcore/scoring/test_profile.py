"""Profiles: from sums to orders, the criterion that reads them, what an earlier cut leaves, and files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medcore.errors import CheckpointError, ConfigError, DataError, StorageError
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, mix
from medcore.scoring.job import weights_table
from medcore.scoring.moments import ProfileSums, profile_sums
from medcore.scoring.profile import FORMAT, Profile, build_profile, profile_key
from medcore.scoring.second_order import RIDGE
from tests.support.helpers import TINY
from tests.support.scoring_samples import discs, random_table, seeded
from tests.support.toy.samples import DENSE, PLACES, TOY

SECOND = ScoringWeights(criterion="second_order")


@pytest.fixture(scope="module")
def model() -> MedSam:
    """A toy, which has sites that cannot be refit."""
    return seeded(DENSE, 1)


@pytest.fixture(scope="module")
def profile(model: MedSam) -> Profile:
    return build_profile(model, profile_sums(model, discs(3), range(3), [0, 2], 0))


def random_profile(spec: ModelSpec, seed: int = 0) -> Profile:
    """Random orders and convex curves that all sites have."""
    generator = np.random.default_rng(seed)
    orders = tuple(generator.permutation(width) for width in spec.widths)
    steps = (np.sort(generator.lognormal(size=width)) for width in spec.widths)
    curves = tuple(np.append(np.cumsum(each)[::-1], 0.0) for each in steps)
    return Profile(orders, curves, {"architecture": spec.arch.name})


def test_orders_and_curves_of_a_model(model: MedSam, profile: Profile) -> None:
    """The loss of keeping nothing is that of the centred output, by passing images through the model."""
    assert profile.meta == {"architecture": "toy", "images": 3, "metric_images": 2, "skipped": []}
    sums = profile_sums(model, discs(3), range(3), [0, 2], 0)
    for number, (site, order, curve) in enumerate(zip(TOY.sites, profile.orders, profile.curves, strict=True)):
        assert sorted(order) == list(range(site.width)) and curve.shape == (site.width + 1,) and curve[-1] == 0
        if site.output is None:
            assert list(order) == list(range(site.width)) and np.isinf(curve[:-1]).all()
            continue
        found, tokens = sums.sites[number], sums.tokens[number]
        mean = found.inputs.numpy() / tokens
        covariance = found.products.numpy() / tokens - np.outer(mean, mean)
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        weight = model.get_parameter(f"{site.output.module}.weight").detach().numpy()
        expected = np.trace(found.metric.numpy() / 2 @ weight @ covariance @ weight.T)
        assert curve[0] == pytest.approx(expected)


def test_scores_are_places_in_the_order(profile: Profile) -> None:
    for order, scores in zip(profile.orders, profile.scores(), strict=True):
        assert [int(scores[group]) for group in order] == list(range(len(order)))


def test_repetition_gives_the_same_bits(model: MedSam, profile: Profile) -> None:
    again = build_profile(model, profile_sums(model, discs(3), range(3), [0, 2], 0))
    for one, other in zip((*profile.orders, *profile.curves), (*again.orders, *again.curves), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_finite_image_and_foreign_sums(model: MedSam) -> None:
    images = discs(2)
    images.boxes[:] = np.nan
    with pytest.raises(DataError, match=r"2 were skipped \(first: disc0\); check the checkpoint"):
        build_profile(model, profile_sums(model, images, [0, 1], [0, 1], 0))
    with pytest.raises(CheckpointError, match="sums of tiny for a model of toy"):
        build_profile(model, ProfileSums.zeros(seeded(ModelSpec.dense(TINY), 1)))


def test_criterion_ranks_by_the_profile() -> None:
    made = random_profile(ModelSpec.dense(TINY))
    table = replace(random_table(), profile=made)
    for scores, places in zip(mix(table, SECOND, TINY), made.scores(), strict=True):
        np.testing.assert_array_equal(scores, places)
    half = ModelSpec(TINY, tuple(width // 2 for width in TINY.dense_widths))
    for mask, order, width in zip(select(mix(table, SECOND, TINY), half), made.orders, half.widths, strict=True):
        assert set(np.flatnonzero(mask)) == set(order[len(order) - width :])
    with pytest.raises(ConfigError, match="'second_order' needs the second-order profile"):
        mix(random_table(), SECOND, TINY)


def test_criterion_blends_with_the_own_score() -> None:
    table = replace(random_table(), profile=random_profile(ModelSpec.dense(TINY)))
    own, other = (mix(table, ScoringWeights(criterion=name), TINY) for name in ("medcore", "second_order"))
    blended = mix(table, ScoringWeights(criterion="second_order", blend=0.3), TINY)
    for one, two, both in zip(own, other, blended, strict=True):
        np.testing.assert_allclose(both, 0.7 * one / one.mean() + 0.3 * two / two.mean())


def test_criterion_needs_no_pass_over_images(model: MedSam, profile: Profile) -> None:
    table = replace(weights_table(model, ("one",)), profile=profile)
    for scores, places in zip(mix(table, SECOND, TOY), profile.scores(), strict=True):
        np.testing.assert_array_equal(scores, places)


def test_restriction_keeps_the_relative_order() -> None:
    made, generator = random_profile(DENSE), np.random.default_rng(1)
    kept = tuple(generator.random(width) < 0.6 for width in DENSE.widths)
    left = made.restricted(kept)
    for number, keep in enumerate(kept):
        groups = np.flatnonzero(keep)
        expected = [group for group in made.orders[number] if keep[group]]
        assert [groups[place] for place in left.orders[number]] == expected
        curve = left.curves[number]
        assert curve.shape == (len(groups) + 1,) and curve[-1] == 0 and (np.diff(curve) <= 0).all()


def test_restriction_by_the_order_itself_cuts_the_curve(profile: Profile) -> None:
    widths = tuple(
        width if site.output is None else width // 2 for site, width in zip(TOY.sites, DENSE.widths, strict=True)
    )
    masks = select(profile.scores(), ModelSpec(TOY, widths))
    left = profile.restricted(masks)
    for curve, dense, width in zip(left.curves, profile.curves, widths, strict=True):
        if np.isfinite(dense).all():
            np.testing.assert_allclose(curve, dense[: width + 1] - dense[width], rtol=1e-9, atol=1e-12)
        else:
            np.testing.assert_array_equal(curve, dense)
    gone = profile.restricted(tuple(np.zeros(width, dtype=bool) for width in DENSE.widths))
    assert all(
        len(order) == 0 and curve.tolist() == [0.0] for order, curve in zip(gone.orders, gone.curves, strict=True)
    )


def test_files(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "made" / "profile.safetensors"
    profile.save(path)
    loaded = Profile.load(path, ModelSpec.dense(TOY))
    assert loaded.meta == profile.meta
    for one, other in zip((*profile.orders, *profile.curves), (*loaded.orders, *loaded.curves), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert [file.name for file in path.parent.iterdir()] == ["profile.safetensors"]
    with pytest.raises(CheckpointError, match="belongs to toy, not to tiny"):
        Profile.load(path, ModelSpec.dense(TINY))
    with pytest.raises(CheckpointError, match="no such second-order profile; compute it"):
        Profile.load(tmp_path / "absent.safetensors", ModelSpec.dense(TOY))
    with pytest.raises(StorageError, match="cannot write the second-order profile"):
        profile.save(path / "below" / "profile.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("order/3", lambda array: array * 0, "no permutation of 2 groups"),
        ("order/3", lambda array: array[:-1], "no permutation of 2 groups"),
        ("order/3", lambda array: array.astype(np.float64), "no permutation of 2 groups"),
        ("order/3", lambda array: array[None], "no permutation of 2 groups"),
        ("curve/3", lambda array: array[:-1], "has shape"),
        ("curve/3", lambda array: array[::-1].copy(), "increases or does not end in 0"),
        ("curve/3", lambda array: array * np.nan, "not finite"),
        ("curve/3", lambda array: array + 1, "does not end in 0"),
        ("curve/0", np.zeros_like, "cannot be refit, but its curve"),
        ("curve/3", None, "curve/3"),
    ],
)
def test_damaged_files(profile: Profile, tmp_path: Path, name: str, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "profile.safetensors"
    profile.save(path)
    arrays = {key: array.copy() for key, array in load_file(path).items()}
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    assert PLACES["toy_heads/01"] == 3
    save_file(arrays, path, {"format": FORMAT, "meta": json.dumps(profile.meta)})
    with pytest.raises(CheckpointError, match=f"{message}.*delete the file"):
        Profile.load(path, ModelSpec.dense(TOY))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.safetensors"
    path.write_bytes(b"half a profile")
    with pytest.raises(CheckpointError, match="not a readable second-order profile"):
        Profile.load(path, ModelSpec.dense(TOY))
    save_file({"a": np.zeros(1)}, path, {"format": "another"})
    with pytest.raises(CheckpointError, match=f"not a second-order profile of format {FORMAT}"):
        Profile.load(path, ModelSpec.dense(TOY))
    save_file({"a": np.zeros(1)}, path, {"format": FORMAT, "meta": "[]"})
    with pytest.raises(CheckpointError, match="does not fit"):
        Profile.load(path, ModelSpec.dense(TOY))


def test_the_key_depends_on_every_part() -> None:
    assert profile_key(images=64, seed=0) == profile_key(seed=0, images=64) != profile_key(images=64, seed=1)
