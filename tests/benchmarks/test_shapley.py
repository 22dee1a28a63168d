from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shapley.criteria import halved, predicted_losses
from benchmarks.shapley.grades import differences, graded, random_rankings, random_row, rank_variances
from benchmarks.shapley.oracle import Ranking, folds_of
from medcore.models.spec import ModelSpec
from medcore.scoring.profile import Profile
from tests.support.helpers import TINY
from tests.support.scoring_samples import discs


def ranking(*sites: list[float]) -> Ranking:
    within = tuple(np.array(site) for site in sites)
    return Ranking(within, np.concatenate(within))


def test_folds_share_out_each_data_set() -> None:
    images = discs(10, datasets=("one", "two"))
    folds = folds_of(images, 2)
    assert sorted(index for fold in folds for index in fold) == list(range(10))
    assert [[images.datasets[index] for index in fold].count("one") for fold in folds] == [3, 2]


def test_a_head_is_worth_the_loss_at_the_width_at_which_it_goes() -> None:
    # group 2 goes first and leaves a loss of 1, then 0 and 1
    profile = Profile((np.array([2, 0, 1]),), (np.array([9.0, 4.0, 1.0, 0.0]),))
    np.testing.assert_array_equal(predicted_losses(profile)[0], [4.0, 9.0, 1.0])


def test_grades_are_agreements_with_each_oracle() -> None:
    one, other = ranking([1, 2, 3], [4, 5, 6]), ranking([3, 2, 1], [4, 5, 6])
    row = graded(one, [one, other], {"loss": one, "boundary_f1": other})
    assert (row["within/loss"], row["within/boundary_f1"]) == (1.0, 0.5)
    assert row["overall/loss"] == 1 and row["overall/boundary_f1"] == pytest.approx(1 - 4 / 18)
    assert row["within/loss/sd"] == pytest.approx(np.std([1, 0.5], ddof=1))
    # of ranks 1 to 3 the ends move by 2; chance has 8/12
    assert row["variance_within"] == pytest.approx(((2 + 0 + 2) / 3 / (8 / 12)) / 2)
    assert rank_variances([one, one])["variance_overall"] == 0


def test_random_rankings_agree_by_chance() -> None:
    drawn = random_rankings(ranking(*[[0.0] * 12] * 3), 20)
    row = random_row(drawn, {"loss": drawn[0]})
    assert row["overall/loss"] == pytest.approx(1 / 3, abs=0.1)
    assert row["variance_within"] == pytest.approx(1, abs=0.15)


def test_half_of_the_heads_and_all_channels_stay() -> None:
    spec = halved(ModelSpec.dense(TINY))
    assert spec.family("heads") == (1,) * 4 and spec.family("channels") == (48,) * 4


def test_differences_of_agreement_resample_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.shapley.grades.RESAMPLES", 20)
    # two heads a block; both measures of two images value the second head of each block more
    samples = np.tile(np.array([0.0, 1.0, 0.0, 2.0])[:, None], (1, 2, 1, 2))
    samples[0, 1] += 0.1
    good, bad = ranking([1, 2], [1, 3]), ranking([2, 1], [3, 1])
    found = differences((2, 2), samples, ["one", "one"], {"good": good, "bad": bad}, "good").set_index("ranking")
    assert (found.loc["bad", ["less", "low", "high"]].to_numpy()[::2] == -1).all()
    assert (found.loc["good", ["less", "low", "high"]] == 0).all(axis=None)
    assert list(found.loc["bad", "kind"])[:2] == ["within/loss", "overall/loss"]
