"""Windows of scans: values by hand, percentiles by NumPy, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medcore.data.formats.intensities import Intensities, picture, usual_limits
from medcore.data.formats.windows import PRESETS, ReadingRules
from search.base.sections.inputs import DataConfig


def shown(values: list[float], window: object = None, **fields: object) -> list[int]:
    image = Intensities(np.array([values]), lambda: (0.0, 10.0), **fields)  # type: ignore[arg-type]
    pixels = np.asarray(picture(image, window))  # type: ignore[arg-type]
    assert pixels.shape == (1, len(values), 3) and (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def test_a_window_maps_level_and_width_to_grey() -> None:
    assert shown([-1000, -160, -60, 40, 140, 240, 3000], (40.0, 400.0)) == [0, 0, 64, 128, 191, 255, 255]
    assert shown([-160, 40, 240], "abdomen") == [0, 128, 255]
    assert shown([-10, 0, 5, 10, 20]) == [0, 0, 128, 255, 255]
    assert shown([0, 10], inverted=True) == [255, 0]
    level, width = PRESETS["lung"]
    assert shown([level - width / 2, level + width / 2], "lung") == [0, 255]
    assert picture(Image.new("RGB", (2, 2), (1, 2, 3)), (40.0, 400.0)).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32, np.float64, np.uint16])
def test_without_a_window_percentiles_of_what_is_not_0_count(kind: type) -> None:
    values = (np.random.default_rng(0).gamma(2.0, 20.0, (5, 30, 30)) * (np.arange(30) > 9)).astype(kind)
    expected = np.percentile(values[values != 0].astype(float), [0.5, 99.5])
    np.testing.assert_allclose(usual_limits(values), expected, rtol=1e-6)
    # scaled values: 7 is stored where 0 is measured
    scaled = values.astype(float) * -2.0 + 14.0
    expected = np.percentile(scaled[scaled != 0], [0.5, 99.5])
    np.testing.assert_allclose(usual_limits(values, -2.0, 14.0), expected, rtol=1e-5)
    assert usual_limits(np.zeros((3, 3), kind)) == (0.0, 0.0)


def test_a_configuration_has_one_window_or_one_a_data_set() -> None:
    def data(window: object) -> DataConfig:
        return DataConfig.model_validate({"folders": ["x/ct", "x/mr"], "window": window})

    assert data([40, 400]).rules.window("ct") == (40, 400) and data("bone").rules.window("mr") == "bone"
    both = data({"ct": "brain", "mr": None}).rules
    assert both.window("ct") == "brain" and both.window("mr") is None and ReadingRules().window("ct") is None
    assert data(None).rules == ReadingRules()
    for window, words in (
        ("skull", "skull.*abdomen"),
        ([40, 0], "width"),
        ([float("nan"), 4], "finite"),
        ({"ctt": "bone"}, "ctt.*ct, mr"),
        ({"ct": "skull"}, "skull"),
    ):
        with pytest.raises(ValidationError, match=words):
            data(window)
