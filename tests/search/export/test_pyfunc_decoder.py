"""An MLflow model whose mask decoder was cut as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medcore.models.cut import prune, without_outputs
from medcore.models.sam import predictor
from search.export.pyfunc_export import _load, decode, encode, write_mlflow
from tests.support.decoders import masks_of, model_with_decoder

PICTURE = np.random.default_rng(1).integers(0, 255, (40, 52, 3), dtype=np.uint8)
BOX = [4.0, 6.0, 40.0, 30.0]


def test_the_folder_holds_its_decoder(tmp_path: Path) -> None:
    dense = model_with_decoder(2)
    model = without_outputs(prune(dense, masks_of(dense.spec, 5)), ["masks", "iou"])
    folder = tmp_path / "model"
    folder.mkdir()
    write_mlflow(folder, model, {})
    assert (folder / "artifacts" / "sam_decoder.py").is_file()
    answer = _load(folder)(pd.DataFrame([{"image": encode(PICTURE), "boxes": [BOX]}]))
    sam = predictor(model)
    sam.set_image(PICTURE)
    expected = sam.predict(box=np.array(BOX), multimask_output=False)[0][0]
    assert np.array_equal(decode(answer["masks"][0][0]), expected)
    assert np.isnan(answer["predicted_iou"][0]).all()
