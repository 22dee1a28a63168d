"""The head of a model card is what the Hugging Face Hub's own library reads, whatever names it holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from hypothesis import given
from hypothesis import strategies as st

from medcore.errors import printable
from results.pages.card_head import without_head, yaml_head
from results.pages.model_card import model_card
from results.store.held_out import HeldOut, Measurement
from tests.results.pages.test_model_card import CONFIG, EXPORT, IMAGES

BASE = {
    "license": "unknown",
    "library_name": "medcore",
    "pipeline_tag": "mask-generation",
    "tags": ["segment-anything", "medical-image-segmentation", "pruning", "medcore"],
}


def held_out(metrics: dict[str, float]) -> HeldOut:
    own = Measurement("t0007", False, None, "c", "val/report", "d", 5, metrics, "2026-03-04T05:06:07", "g")
    return HeldOut(own, IMAGES, None, None, candidates=1)


def head(**changes: Any) -> dict[str, Any]:
    values = {"metrics": [], "config": {}, "given": {}, "held_out": None}
    return dict(yaml.safe_load(yaml_head("s-t0", "medcore", **(values | changes)).removesuffix("---\n")))


def test_the_hubs_library_reads_the_card_and_its_results() -> None:
    metrics = {"dice": 0.71234567, "hd95": 4.0, "dice_worst": 0.5, "dice/kvasir": 0.7123456789, "dice/clinic": 0.5}
    export = dataclasses.replace(EXPORT, held_out=held_out(metrics | {"hd95/kvasir": 3.0, "hd95/clinic": 5}))
    card = ModelCard(model_card(export))
    assert card.data.to_dict().items() >= (BASE | {"metrics": ["dice", "hd95"]}).items()
    assert card.data.model_name == "polyps-t0007" and "datasets" not in card.data.to_dict()

    def result(dataset: str, metric: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="mask-generation",
            task_name="segmentation of what a box holds",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="val/report",
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )

    assert card.data.eval_results == [
        *(result("clinic", "dice", "Dice", 0.5), result("clinic", "hd95", "HD95", 5.0)),
        *(result("kvasir", "dice", "Dice", 0.712346), result("kvasir", "hd95", "HD95", 3.0)),
    ]
    assert card.text.lstrip("\n").startswith("# polyps, trial t0007: a pruned tiny\n")
    # the library writes the same results again
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_figures_that_chose_the_model_are_no_results() -> None:
    card = ModelCard(model_card(EXPORT))
    assert card.data.to_dict() == BASE | {"metrics": ["dice", "hd95"]}


def test_a_figure_that_is_not_finite_is_left_out() -> None:
    metrics = {"dice": 0.5, "dice/kvasir": float("nan"), "hd95": 1.0, "hd95/kvasir": 1.0}
    ((model),) = head(held_out=held_out(metrics))["model-index"]
    assert [metric["type"] for metric in model["results"][0]["metrics"]] == ["hd95"]


def test_names_come_from_the_user_or_from_the_hubs_cache() -> None:
    cache = "/home/me/.cache/huggingface/hub"
    adapted = f"{cache}/models--wanglab--medsam-vit-base/snapshots/35e561f"
    folders = [f"{cache}/datasets--me--polyps/snapshots/1/train", "data/private", f"{cache}/datasets--imdb/x"]
    config = {"model": {"base": "b.pth", "adapted": adapted}, "data": {"folders": folders}}
    assert head(config=config).items() >= {"base_model": "wanglab/medsam-vit-base"}.items()
    assert head(config=config)["datasets"] == ["me/polyps", "imdb"]
    stated = {"license": "apache-2.0", "base_model": "me/other", "datasets": ["a/b"]}
    assert head(config=config, given=stated).items() >= stated.items()
    for unknown in (
        {},
        {"model": None, "data": []},
        {"model": {"adapted": "models--"}, "data": {"folders": [1]}},
        CONFIG,
    ):
        assert head(config=unknown) == BASE


NAMES = st.text(max_size=30) | st.sampled_from(
    [
        "a: b",
        "- x",
        "---",
        "x\n---\n# y",
        "no",
        "null",
        "1.5",
        "'",
        '"',
        "{a",
        "# c",
        "\u2028",
        "!!python/x",
        "&a",
        "\ud800",
    ]
)


@given(NAMES, NAMES, NAMES)
def test_no_name_adds_a_key_or_ends_the_head(name: str, library: str, dataset: str) -> None:
    metrics = {"dice": 0.5, f"dice/{dataset}": 0.5}
    text = yaml_head(name, f"l{library}", ["dice"], {}, {"base_model": f"b{dataset}"}, held_out(metrics))
    card = ModelCard(f"{text}\n# title\n")
    assert card.text == "\n# title\n" and without_head(card.content) == "# title\n"
    data = yaml.safe_load(text.removesuffix("---\n"))
    assert data.keys() == BASE.keys() | {"base_model", "metrics", "model-index"}
    assert data["library_name"] == printable(f"l{library}") and data["base_model"] == printable(f"b{dataset}")
    (model,) = data["model-index"]
    assert model["name"] == printable(name) and model["results"][0]["dataset"]["name"] == printable(dataset)


@pytest.mark.parametrize("text", ["# title\n", "", "---", "text\n---\nmore\n"])
def test_a_card_without_a_head_stays(text: str) -> None:
    assert without_head(text) == text
