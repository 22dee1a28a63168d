"""Search dimensions: what the configuration may say, what is drawn, what is nearest."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from medcore.errors import MedcoreError
from search.base.config import Config, validate
from search.base.sections.dimensions import Choices, Fixed, Range

MINIMAL = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}


def space(**dimensions: Any) -> Any:
    return validate(MINIMAL | {"search": {"space": dimensions}}, "c.yaml").search.space


def typed(*values: Any) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in values]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"tau": 1}, (1.0,)),
        ({"lr": {"low": 1e-4, "high": 1e-3}}, (1e-4, 1e-3)),
        ({"alpha_heads": {"choices": [0, 1]}}, (0.0, 1.0)),
        ({"protected_last": 2.0}, (2,)),
        ({"rounds": {"choices": [1.0, 3]}}, (1, 3)),
        ({"rescore": True}, (True,)),
        ({"adaptive_alpha": "no"}, (False,)),
        ({"rescore": {"choices": ["yes", False]}}, (True, False)),
        ({"criterion": {"choices": ["medcore", "fisher"]}}, ("medcore", "fisher")),
    ],
)
def test_values_have_the_type_of_their_dimension(given: dict[str, Any], values: tuple[Any, ...]) -> None:
    (name,) = given
    section = space(**given)
    dimension = section.alpha["heads"] if name == "alpha_heads" else getattr(section, name)
    assert typed(*dimension.values) == typed(*values)


def test_the_file_of_a_study_reads_back_equal() -> None:
    given = {"rounds": {"choices": [1, 2]}, "tau": 0.5, "adaptive_alpha": {"choices": [True, False]}}
    config = Config.model_validate(MINIMAL | {"search": {"space": given}})
    plain = config.model_dump(mode="json")
    assert plain["search"]["space"]["adaptive_alpha"] == {"choices": [True, False]}
    assert plain["search"]["space"]["protected_last"] == 0 and plain["search"]["space"]["tau"] == 0.5
    assert Config.model_validate(plain) == config


def test_a_file_with_the_words_of_older_versions_is_the_same_configuration() -> None:
    old = {"adaptive_alpha": {"choices": ["yes", "no"]}, "protected_last": 0.0, "rescore": "no"}
    assert space(**old) == space(adaptive_alpha={"choices": [True, False]}, protected_last=0, rescore=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": {"low": 2, "high": 1}}, ("search.space.lr:", "must be below high")),
        ({"lr": {"low": 1e-3, "hihg": 1}}, ("search.space.lr.high' is missing", "unknown key 'search.space.lr.hihg'")),
        ({"tau": None}, ("search.space.tau", "give a value, a range with low and high, or choices")),
        ({"lr": "fast"}, ("search.space.lr:", "'fast' is not a number")),
        ({"blend": 1.5}, ("search.space.blend:", "from 0 to 1")),
        ({"blend": True}, ("search.space.blend:", "True is not a number")),
        ({"rounds": {"low": 1, "high": 3}}, ("search.space.rounds:", "give choices, not a range")),
        ({"rounds": 1.5}, ("search.space.rounds:", "not a whole number")),
        ({"rescore": "perhaps"}, ("search.space.rescore:", "not true or false")),
        ({"criterion": "best"}, ("search.space.criterion:", "'best' is not one of medcore, fisher")),
        ({"order": {"choices": ["heads_first", "last"]}}, ("search.space.order:", "'last' is not one of")),
        ({"boundary_weight": {"low": 0, "high": 1}}, ("search.space.boundary_weight must be among scoring.nodes",)),
    ],
)
def test_a_mistake_names_the_key_and_the_reason(given: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(MedcoreError) as caught:
        space(**given)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "<" not in message


def test_booleans_are_drawn_like_words() -> None:
    """Equal seeds draw equal trials; the names of the two choices do not matter."""

    def draws(*choices: Any) -> list[int]:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=5, multivariate=True))
        drawn = []
        for _ in range(20):
            trial = study.ask()
            value = Choices(choices=choices).draw(trial, "flag")
            other = Range(low=0, high=1).draw(trial, "x")
            drawn.append(choices.index(value))
            study.tell(trial, float(other) + choices.index(value))
        return drawn

    assert draws(True, False) == draws("yes", "no")


def test_nearest_values() -> None:
    scale, counts, flags = Range(low=1, high=2), Choices(choices=(1, 2, 8)), Choices(choices=(True,))
    assert [scale.nearest(value) for value in (0, 1.5, 3)] == [1, 1.5, 2]
    assert [counts.nearest(value) for value in (2.0, 6, 0)] == [2, 8, 1] and type(counts.nearest(2.0)) is int
    assert Choices(choices=("a", "b")).nearest("b") == "b" and Choices(choices=("a", "b")).nearest("c") == "a"
    assert flags.nearest(False) is True and Fixed(0.25).nearest(4) == 0.25
