"""What must be true of a study that has ended, whatever happened to it; asked of files and of MLflow's REST interface.

Nothing here uses the project's own reading code.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from benchmarks.campaign.watch import Witness

#: When and where a trial ran; everything else is determined by the seed with one trial at a time.
_MAY_DIFFER = {"seconds", "started", "finished", "memory_mb", "gpu_memory_mb"}


def check_files(study: Path, trials: int, witness: Witness) -> dict[str, list[Any]]:
    """Findings by name; every list should be empty."""
    rows = _rows(study)
    numbers = Counter(row["number"] for row in rows.values())
    table = pq.read_table(study / "trials.parquet", columns=["trial_id", "status"]).to_pylist()
    compacted = Counter(row["trial_id"] for row in table)
    witness.look()
    return {
        "lost": sorted(set(range(trials)) - numbers.keys()) + sorted(rows.keys() - compacted.keys()),
        "duplicated": [number for number, count in numbers.items() if count > 1 or number >= trials]
        + [name for name, count in compacted.items() if count > 1 or name not in rows],
        "rerun": sorted(witness.rewritten | witness.changed_since() | _touched_after_end(study, rows)),
        "half_written": sorted(witness.half_written | witness.vanished),
        "failed": [[name, row["reason"]] for name, row in rows.items() if row["status"] == "failed"],
        "broken_models": [name for name, row in rows.items() if row["status"] == "done" and not weights(study, row)],
    }


def check_runs(uri: str, name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The study's runs at the server: trials without one, with several, or with one that says something else."""
    experiment = _ask(uri, "experiments/get-by-name?experiment_name=medcore")["experiment"]["experiment_id"]
    parents = [
        run
        for run in _runs(uri, experiment, f"attributes.run_name = '{name}'")
        if "medcore.study" in _pairs(run["data"]["tags"])
    ]
    if len(parents) != 1 or parents[0]["info"]["status"] != "FINISHED":
        states = [run["info"]["status"] for run in parents]
        return {"mlflow_missing": [f"parent: {states}"], "mlflow_doubled": [], "mlflow_wrong": []}
    children = _runs(uri, experiment, f"tags.`mlflow.parentRunId` = '{parents[0]['info']['run_id']}'")
    found: dict[str, list[Any]] = {}
    for run in children:
        found.setdefault(_pairs(run["data"]["tags"])["medcore.trial_id"], []).append(run)
    return {
        "mlflow_missing": sorted(rows.keys() - found.keys()),
        "mlflow_doubled": sorted(trial for trial, runs in found.items() if len(runs) > 1 or trial not in rows),
        "mlflow_wrong": [trial for trial, runs in found.items() if trial in rows and not _agrees(runs[0], rows[trial])],
    }


def comparable(study: Path) -> dict[str, dict[str, Any]]:
    """Rows as they were written, with a hash of the weights and without time and place."""
    return {
        name: {key: value for key, value in row.items() if key not in _MAY_DIFFER and not key.startswith("seconds/")}
        | {"weights_sha256": weights(study, row)}
        for name, row in _rows(study).items()
    }


def differences(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`t0003.boundary_f1` for each value that differs."""
    return [
        f"{name}.{key}"
        for name in sorted(one.keys() | other.keys())
        for key in sorted(one.get(name, {}).keys() | other.get(name, {}).keys())
        if one.get(name, {}).get(key) != other.get(name, {}).get(key)
    ]


def rows_of(study: Path) -> dict[str, Any]:
    return _rows(study)


def weights(study: Path, row: Mapping[str, Any]) -> str | None:
    """Hash of a trial's tensors; None if its file is absent or no model."""
    digest = hashlib.sha256()
    try:
        with safe_open(study / str(row.get("checkpoint")), framework="numpy") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
                digest.update(tensor.tobytes())
    except (OSError, SafetensorError):
        return None
    return digest.hexdigest()


def _rows(study: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_bytes()) for path in sorted(study.glob("trials/*/row.json"))}


def _touched_after_end(study: Path, rows: Mapping[str, Any]) -> set[str]:
    """Return trials with a file newer than their row. The row is written last, so such a trial ran again."""
    found = set()
    for name in rows:
        folder = study / "trials" / name
        end = (folder / "row.json").stat().st_mtime_ns
        if any(path.stat().st_mtime_ns > end for path in folder.iterdir()):
            found.add(name)
    return found


def _agrees(run: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Ended as the row says, with its metrics."""
    metrics = {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}
    names = ("boundary_f1", "hd95", "flops") if row["status"] == "done" else ()
    state = {"done": "FINISHED", "stopped": "KILLED"}.get(row["status"], "FAILED")
    return bool(run["info"]["status"] == state) and all(metrics.get(name) == row[name] for name in names)


def _pairs(items: list[dict[str, str]]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in items}


def _runs(uri: str, experiment: str, condition: str) -> list[Any]:
    query = {"experiment_ids": [experiment], "filter": condition, "max_results": 1000, "run_view_type": "ACTIVE_ONLY"}
    return list(_ask(uri, "runs/search", query).get("runs", []))


def _ask(uri: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
