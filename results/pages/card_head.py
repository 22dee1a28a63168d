"""The YAML at the top of a model card, as the Hugging Face Hub reads it, and the card without it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medcore.errors import printable
from medcore.quality.catalogue import shown
from results.stats.labels import title
from results.store.held_out import HeldOut

#: The Hub's name of the task: an image and a prompt in, a mask out.
TASK = "mask-generation"
#: What the Hub calls a licence that the user did not state.
UNKNOWN = "unknown"
_TAGS = ("segment-anything", "medical-image-segmentation", "pruning", "medcore")
_MARK = "---\n"


def yaml_head(
    name: str,
    library: str,
    metrics: Sequence[str],
    config: Mapping[str, Any],
    given: Mapping[str, str | list[str]],
    held_out: HeldOut | None,
) -> str:
    """Return the lines between the two marks `---`, with the marks.

    Licence, base model and data sets are never guessed. They come from the user or, apart from the licence, from paths
    in the Hub's own cache, which hold the names. Without a licence the head says `unknown`.

    Args:
        name: Of the model.
        library: That runs the model.
        metrics: Names of the metrics in the card.
        config: The study's configuration as plain values, of any version; may be empty.
        given: What the user states, by the Hub's keys.
        held_out: Figures on images that the search has not seen; only these become results.
    """
    model, data = (part if isinstance(part := config.get(key), Mapping) else {} for key in ("model", "data"))
    folders = data.get("folders")
    names = [_hub_name(folder, "datasets") for folder in (folders if isinstance(folders, list) else ())]
    values: dict[str, Any] = {
        "license": UNKNOWN,
        "library_name": library,
        "pipeline_tag": TASK,
        "tags": list(_TAGS),
        "base_model": _hub_name(model.get("adapted"), "models"),
        "datasets": [name for name in dict.fromkeys(names) if name],
        **given,
        "metrics": list(metrics),
        "model-index": [] if held_out is None else [{"name": name, "results": _results(held_out)}],
    }
    filled = {key: _printable(value) for key, value in values.items() if value}
    return _MARK + yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=math.inf) + _MARK


def without_head(card: str) -> str:
    """Return a card without its YAML, for readers that show it as text."""
    if not card.startswith(_MARK):
        return card
    return card[len(_MARK) :].partition(f"\n{_MARK}")[2].lstrip("\n")


def _hub_name(path: object, kind: str) -> str | None:
    """Return `owner/name` of a path in the Hub's cache, which has a folder `models--owner--name`; None for others."""
    parts = Path(path).parts if isinstance(path, str) else ()
    names = [part.split("--")[1:] for part in parts if part.startswith(f"{kind}--")]
    return "/".join(names[-1]) if names and all(names[-1]) else None


def _results(held_out: HeldOut) -> list[dict[str, Any]]:
    """Return a result of each data set: its means over the held-out images."""
    found = held_out.model.metrics
    names = [name for name in shown() if name in found]
    datasets = sorted({key.partition("/")[2] for name in names for key in found if key.startswith(f"{name}/")})
    return [
        {
            "task": {"type": TASK, "name": "segmentation of what a box holds"},
            "dataset": {"type": dataset, "name": dataset, "split": held_out.model.split},
            "metrics": [
                {"type": name, "value": float(f"{value:.6g}"), "name": title(name)}
                for name in names
                if math.isfinite(value := found.get(f"{name}/{dataset}", math.nan))
            ],
        }
        for dataset in datasets
    ]


def _printable(value: Any) -> Any:
    """Return plain values whose texts hold no character that a reader obeys, such as a line break."""
    if isinstance(value, Mapping):
        return {key: _printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return printable(value) if isinstance(value, str) else value
