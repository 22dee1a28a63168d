"""`medcore export --format mlflow`: a folder that MLflow runs without medcore, registers and serves."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from medcore.data.imagefile import read_image
from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam, predictor
from search.commands.export import ExportRequest, export
from search.export import pyfunc_export, pyfunc_model
from search.export.formats import exported
from search.tracking.server import client as mlflow_client
from search.tracking.server import registry as model_registry
from search.tracking.trackers import saved_tracker
from tests.support.helpers import held_port
from tests.support.machines.mlflow_server import Server, eventually, healthy
from tests.support.studies.export_study import SPEC, names, random_model, replace_format, write_study_of_one
from tests.support.studies.study_files import environment
from tests.support.studies.tracking import mlflow_tracker

pytestmark = pytest.mark.usefixtures("instant_timing")

BOX = (40, 60, 200, 220)
OTHER_BOX = (0, 0, 70.5, 90)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tracking_server: Server) -> Path:
    """It has been followed by the server, which starts while the study is written."""
    folder = write_study_of_one(tmp_path_factory.mktemp("pyfunc"))
    mlflow_tracker(folder, tracking_server.uri).start({"study": "s"})
    return folder


@pytest.fixture(scope="module")
def model(study: Path) -> Path:
    """The exported folder; tests leave it as it is."""
    out = study.parent / "model"
    said = list[str]()
    export(ExportRequest(str(study), out, format="mlflow"), said.append)
    line, _, _ = said
    assert (
        "the MLflow model and medcore agree on 20 images of the study's part val: IoU of the masks at least 1.0" in line
    )
    return out


@pytest.fixture(scope="module")
def predict(model: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return mlflow_client.load_model(model, {"device": "cpu"})


@pytest.fixture(scope="module")
def image(study: Path) -> Path:
    """250 rows, 260 columns of coarse noise: neither square nor of the model's size."""
    return write_noise(study.parent / "image.png", 0)


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as port:
        yield port


def write_noise(path: Path, seed: int) -> Path:
    pixels = np.kron(np.random.default_rng(seed).integers(0, 255, (25, 26, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def medcores_mask(study: Path, image: Path, box: Any = BOX) -> np.ndarray:
    """bool (250, 260), by the trial's own checkpoint."""
    sam = predictor(load(study / "trials" / "t0000" / "model.safetensors"))
    sam.set_image(np.asarray(read_image(image)))
    mask: np.ndarray = sam.predict(box=np.array(box), multimask_output=False)[0][0]
    assert 0.05 < mask.mean() < 0.95
    return mask


def text_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def pixels_of(mask: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float((first & second).sum() / (first | second).sum())


def test_folder_holds_all_that_it_needs_and_no_pickle(model: Path) -> None:
    assert names(model) == sorted([*(name for name in exported(model) if "/" not in name), "artifacts"])
    assert names(model / "artifacts") == ["load_pruned.py", "model.safetensors"]
    assert {path.stat().st_mode for path in model.rglob("*") if path.is_file()} == {(model / "MLmodel").stat().st_mode}
    pins = dict(line.split("==") for line in (model / "requirements.txt").read_text().split())
    assert pins.keys() == {"mlflow", "torch", "torchvision", "segment-anything", "numpy", "pandas", "pillow"}
    # less the local part, such as +cpu, which PyPI does not have
    assert all(pin == installed(package).partition("+")[0] for package, pin in pins.items())
    written = "".join(
        (model / name).read_text() for name in ("MLmodel", "pyfunc_model.py", "serving_input_example.json")
    )
    assert str(model.parent) not in written and str(Path(pyfunc_model.__file__).parent) not in written
    card = (model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "mlflow models serve -m . --env-manager local" in card and "| `artifacts/load_pruned.py` |" in card


def test_the_folder_runs_where_medcore_cannot_be_imported(
    study: Path, model: Path, image: Path, tmp_path: Path
) -> None:
    program = f"""
import sys
for name in ("medcore", "search", "results", "safetensors", "ray", "optuna", "skimage"):
    sys.modules[name] = None                     # importing it now raises ImportError
import base64, mlflow, pandas
text = base64.b64encode(open({str(image)!r}, "rb").read()).decode()
model = mlflow.pyfunc.load_model({str(model)!r})
answer = model.predict(pandas.DataFrame([{{"image": text, "boxes": [{list(BOX)}, {list(OTHER_BOX)}]}}]))
answer.to_json("answer.json", orient="records")
example = model.predict(model.input_example)
assert len(example["masks"][0]) == 1
"""
    command = [sys.executable, "-I", "-B", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    (answer,) = json.loads((tmp_path / "answer.json").read_text())
    assert len(answer["predicted_iou"]) == 2
    for text, box in zip(answer["masks"], (BOX, OTHER_BOX), strict=True):
        mask = pixels_of(text)
        assert set(np.unique(mask)) == {0, 255} and overlap(mask > 0, medcores_mask(study, image, box)) >= 0.999


def test_registered_and_served(
    study: Path, image: Path, tracking_server: Server, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the study to a mask over HTTP, by the words of the card."""
    uri, out, said = tracking_server.uri, tmp_path / "model", list[str]()
    tracking_server.wait()
    assert saved_tracker(study, uri).finish() is None
    out.mkdir()
    (out / "patient.txt").write_text("nothing for a server")
    monkeypatch.setattr(model_registry, "_MOST_CHARACTERS", 4000)
    row = export(ExportRequest(str(study), out, format="mlflow", register="polyps", tracking_uri=uri), said.append)
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("polyps", "best")
    assert said[-1].startswith(f"registered: models:/polyps@best, version 1, at {uri}\n") and int(version.version) == 1
    assert {key: version.tags[key] for key in ("study", "trial_id", "flops_fraction")} == {
        "study": "s",
        "trial_id": "t0000",
        "flops_fraction": str(row.metrics["flops_fraction"]),
    }
    assert version.description.startswith("# s, trial t0000") and "## Limits" in version.description
    assert len(version.description) <= 4000 and "the whole card is MODEL_CARD.md" in version.description
    run = client.get_run(version.run_id)
    assert run.data.tags["medcore.trial_id"] == "t0000" and run.info.status == "FINISHED"
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    for described in (run, parent):
        assert "models:/polyps/1" in described.data.tags["mlflow.note.content"]
    (output,) = run.outputs.model_outputs
    assert output.model_id in version.source and client.get_logged_model(output.model_id).status == "READY"
    logged = {item.path for item in client.list_logged_model_artifacts(output.model_id)}
    assert logged == {path.name for path in out.iterdir()} - {"patient.txt"}

    log = (tmp_path / "serve.log").open("w")
    words = said[-1].split("serve it: ")[1].split()
    assert words[0] == f"MLFLOW_TRACKING_URI={uri}" and words[-2:] == ["-p", "5001"]
    process = subprocess.Popen(
        [sys.executable, "-m", *words[1:-1], str(port)],
        env={
            **environment(),
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_MODELS_WORKERS": "1",
            # mlflow starts uvicorn by its name, which an activated environment finds
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd=tmp_path,
    )
    try:
        assert eventually(lambda: healthy(port), 120), (tmp_path / "serve.log").read_text()
        card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
        example = card.split("```python\n")[1].split("```")[0].replace(":5001", f":{port}")
        (tmp_path / "image.jpg").write_bytes(image.read_bytes())
        monkeypatch.chdir(tmp_path)
        scope: dict[str, Any] = {}
        exec(example, scope)
        assert overlap(np.asarray(scope["mask"]) > 0, medcores_mask(study, image)) >= 0.999
        body = json.dumps({"dataframe_records": [{"image": text_of(image), "boxes": [[40, 60, 9000, 220]]}]})
        wrong = urllib.request.Request(scope["request"].full_url, body.encode(), {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(wrong)
        answer = json.load(refusal.value)
        assert (
            refusal.value.code == 400
            and "[40, 60, 9000, 220] does not lie in the image of 260×250" in answer["message"]
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_requests_at_the_same_time_do_not_mix(
    study: Path, image: Path, predict: Callable[[pd.DataFrame], pd.DataFrame], tmp_path: Path
) -> None:
    paths = [image, write_noise(tmp_path / "b.png", 1)]
    rows = [pd.DataFrame([{"image": text_of(path), "boxes": [list(BOX)]}]) for path in paths]
    expected = [medcores_mask(study, path) for path in paths]
    assert overlap(*expected) < 0.99
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: predict(rows[index % 2]), range(24)))
    for index, answer in enumerate(answers):
        assert overlap(pixels_of(answer["masks"][0][0]) > 0, expected[index % 2]) >= 0.999


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "&"}, r"row 1: image: not base64 \(.*\); send the bytes of an image file in base64"),
        ({"image": 7}, "row 1: image: expected the base64 text of an image file, got int"),
        (
            {"image": base64.b64encode(b"hello").decode()},
            r"these 5 bytes cannot be read .* \(not one of PNG, JPEG, BMP",
        ),
        ({"image": base64.b64encode(PNG).decode()}, "row 1: image: these 8 bytes cannot be read as an image"),
        ({"boxes": []}, r"row 1: boxes: expected one or more \[x0, y0, x1, y1\]"),
        ({"boxes": [[1, 2, 3]]}, r"row 1: boxes\[0\]: expected four numbers \[x0, y0, x1, y1\], got \[1, 2, 3\]"),
        ({"boxes": [list(BOX), ["a", 2, 3, 4]]}, r"row 1: boxes\[1\]: expected four numbers"),
        ({"boxes": [[9, 2, 3, 4]]}, r"boxes\[0\]: \[9, 2, 3, 4\] does not lie in the image of 260×250 pixels; give"),
        ({"boxes": [[0, 0, float("nan"), 4]]}, r"boxes\[0\]: \[0, 0, nan, 4\] does not lie in"),
    ],
)
def test_wrong_input_is_refused_with_its_row_in_one_line(
    row: dict[str, Any], reason: str, image: Path, predict: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    right = {"image": text_of(image), "boxes": [list(BOX)]}
    with pytest.raises(MlflowException, match=reason) as refusal:
        predict(pd.DataFrame([right, right | row]))
    assert refusal.value.get_http_status_code() == 400 and "\n" not in refusal.value.message


def test_server_away_leaves_the_folder_and_says_what_was_not_done(
    tmp_path: Path, tracking_server: Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, uri = write_study_of_one(tmp_path), f"http://127.0.0.1:{port}"
    with pytest.raises(MedcoreError, match=r"tracking\.json: missing or incomplete"):
        export(ExportRequest(str(study), tmp_path / "out", format="mlflow", register="polyps"))
    assert not (tmp_path / "out").exists()
    mlflow_tracker(study, uri).start({"study": "s"})
    # other tests check the comparison
    replace_format(monkeypatch, "mlflow", check=lambda *_: "checked")
    with pytest.raises(MedcoreError) as refusal:
        export(ExportRequest(str(study), tmp_path / "out", format="mlflow", register="polyps", tracking_uri=uri))
    assert f"{tmp_path / 'out'} is written and checked, but not registered as polyps at {uri}: " in str(refusal.value)
    assert "\n" not in str(refusal.value) and (tmp_path / "out" / "MODEL_CARD.md").is_file()
    tracking_server.wait()
    uri = tracking_server.uri
    mlflow_tracker(study, uri).start({"study": "s"})
    with pytest.raises(MedcoreError, match=r"has no run of this study; send it with `medcore sync "):
        export(ExportRequest(str(study), tmp_path / "out", format="mlflow", register="polyps", tracking_uri=uri))


def test_files_of_others_stay(study: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*requirements\.txt"):
        export(ExportRequest(str(study), tmp_path, format="mlflow"))
    export(ExportRequest(str(study), tmp_path, format="standalone"))
    assert (tmp_path / "requirements.txt").read_text() == "mine"


def test_another_export_takes_the_place_of_an_mlflow_model(study: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    shutil.copytree(model, out)
    export(ExportRequest(str(study), out, format="standalone"))
    files = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert files == ["MODEL_CARD.md", "load_pruned.py", "model.json", "model.safetensors"]


def test_a_model_that_differs_appears_nowhere(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, _: MedSam, info: dict[str, str]) -> None:
        pyfunc_export.write_mlflow(folder, random_model(SPEC, 12), info)

    replace_format(monkeypatch, "mlflow", write=write)
    with pytest.raises(CheckpointError, match=r"MLflow.* IoU 0\.\d+ "):
        export(ExportRequest(str(study), tmp_path / "out", format="mlflow"))
    assert names(tmp_path / "out") == []
