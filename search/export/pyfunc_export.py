"""`--format mlflow`: a folder that `mlflow models serve` and `mlflow.pyfunc.load_model` can run."""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from medcore.models.checkpoint import save
from medcore.models.export import MODEL
from medcore.models.sam import MedSam, predictor
from medcore.models.spec import DECODER, DEFAULT_KIND
from medcore.models.standalone import DECODER_FILES, SCRIPT
from medcore.quality.metrics import iou
from medcore.synthetic.write import make
from search.export.check import CheckImages, agreement, patiently
from search.export.format import LOADER, WEIGHTS, ExportFormat
from search.tracking.server import client as mlflow_client
from search.tracking.server.records import ModelFolder

#: The code of the model; its docstring describes input and output.
CODE = Path(__file__).with_name("pyfunc_model.py")
#: The packages that the code and the loader import, and MLflow itself.
_PACKAGES = ("mlflow", "torch", "torchvision", "segment-anything", "numpy", "pandas", "pillow")
#: Numbers of boxes are of `any` type, because MLflow refuses whole ones where it expects `double`.
_INPUTS = {"image": "string", "boxes": [["any"]]}
_OUTPUTS = {"masks": ["string"], "predicted_iou": ["double"]}
#: Meaning of the files that `write_mlflow` writes.
FILES = {
    "MLmodel": "what MLflow reads first: how to load the model, its input and output",
    CODE.name: "what MLflow runs; its first lines describe input and output",
    f"artifacts/{MODEL}": WEIGHTS,
    f"artifacts/{SCRIPT.name}": LOADER,
    **{f"artifacts/{name}": "part of the loader" for name in DECODER_FILES},
    "requirements.txt": "the packages that it needs, in the versions that it was checked with",
    "conda.yaml": "the same for conda",
    "python_env.yaml": "the same for virtualenv, with Python's version",
    "input_example.json": "an example of its input, an embedded image",
    "serving_input_example.json": "the same as the body of a request",
}
USAGE = """In this folder, with the packages of `requirements.txt` (`--env-manager virtualenv` installs them):

```
mlflow models serve -m . --env-manager local -p 5001     # MLFLOW_MODELS_WORKERS: how many copies; one for each core
```

A request has one row an image: `image`, its file in base64, and `boxes`, one or more `[x0, y0, x1, y1]` in its pixels.

```
image=$(base64 < image.jpg | tr -d '\\n')
echo '{"dataframe_records": [{"image": "'$image'", "boxes": [[40, 60, 200, 220]]}]}' > row.json
curl -H 'Content-Type: application/json' -d @row.json http://127.0.0.1:5001/invocations
```

The answer has one row an image: `masks`, one PNG file in base64 a box, 0 or 255, of the image's size, and
`predicted_iou`, the model's own estimates. Wrong input is answered with status 400 and the reason. In Python:

```python
import base64, io, json, urllib.request
from PIL import Image

with open("image.jpg", "rb") as file:
    row = {"image": base64.b64encode(file.read()).decode(), "boxes": [[40, 60, 200, 220]]}
request = urllib.request.Request(
    "http://127.0.0.1:5001/invocations",
    json.dumps({"dataframe_records": [row]}).encode(),
    {"Content-Type": "application/json"},
)
(answer,) = json.load(urllib.request.urlopen(request))["predictions"]
mask = Image.open(io.BytesIO(base64.b64decode(answer["masks"][0])))
```

Without a server: `mlflow.pyfunc.load_model(".").predict(pandas.DataFrame([row]))`. It runs on a GPU where there is one;
`load_model(".", model_config={"device": "cpu"})` says otherwise."""


def write_mlflow(folder: Path, model: MedSam, info: Mapping[str, str]) -> None:
    """Write the MLflow model.

    Args:
        folder: An empty folder.
        model: The model.
        info: Further metadata, as for `medcore.models.checkpoint.save`.
    """
    pictures, masks = make("medical", 1, 128, seed=0)
    rows, columns = np.nonzero(masks[0])
    example = {
        "image": encode(pictures[0]),
        "boxes": [[float(value) for value in (columns.min(), rows.min(), columns.max(), rows.max())]],
    }
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=folder.parent) as temporary:
        weights = Path(temporary) / MODEL
        save(weights, model, info)
        artifacts = {"model": weights, "loader": SCRIPT}
        for name, source in DECODER_FILES.items() if DECODER in model.arch.parts else ():
            # MLflow keeps the names of the files
            artifacts[name] = Path(shutil.copyfile(source, Path(temporary) / name))
        content = ModelFolder(
            script=CODE,
            artifacts=artifacts,
            inputs=_INPUTS,
            outputs=_OUTPUTS,
            example=example,
            # PyPI does not have the builds that a local part such as +cpu names
            requirements=[f"{package}=={version(package).partition('+')[0]}" for package in _PACKAGES],
            config={"device": "auto"},
        )
        mlflow_client.save_model(folder, content)


def check_mlflow(folder: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
    """Compare MLflow's masks, for images in base64, with medcore's.

    Raises:
        CheckpointError: They differ.
    """
    predict = _load(folder)
    sam, sample = predictor(model), images()
    overlaps = []
    for index in patiently(len(sample.images)):
        pixels, box = sample.images.images[index].transpose(1, 2, 0), sample.images.boxes[index]
        sam.set_image(np.ascontiguousarray(pixels))
        ours = sam.predict(box=box, multimask_output=False)[0][0]
        answer = predict(pd.DataFrame([{"image": encode(pixels), "boxes": [box.tolist()]}]))
        overlaps.append(iou(ours, decode(answer["masks"][0][0])))
    return agreement("the MLflow model", overlaps, sample) + "."


def encode(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode an image, uint8 (h, w, 3), as a PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: str) -> npt.NDArray[np.bool_]:
    """Decode a mask, a PNG file in base64, to bool (h, w)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) > 0


def _load(folder: Path) -> Any:
    """Load the model on the CPU, where medcore's own is.

    Python would leave compiled copies of the code, which are suppressed.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return mlflow_client.load_model(folder, {"device": "cpu"})
    finally:
        sys.dont_write_bytecode = before


def usage(name: str, side: int) -> str:
    """Return how to serve the model and what a request holds."""
    return USAGE


FORMAT = ExportFormat(
    name="mlflow",
    kinds=(DEFAULT_KIND,),
    files=FILES,
    write=write_mlflow,
    check=check_mlflow,
    usage=usage,
    marker="MLmodel",
    library="mlflow",
)
